"""Figures beside their controls: they see what was learned, and nothing where nothing can be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_prep.align import TimedText
from data_prep.labels import Labels
from data_prep.manifest import SongRow
from jukebox.evaluation import figures as evaluation
from jukebox.evaluation.controls import CONTROLS, Control
from jukebox.evaluation.figures import coloured_noise, prior_figures, tables, window_cost
from jukebox.evaluation.held_out import HeldOut, PriorWindows
from jukebox.evaluation.metrics import sound_statistics
from jukebox.model.presets import find
from jukebox.song import ConditionDropout, PreparedSong, Song, song_of, window_conditions
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import stack
from priors.conditioning.vocabulary import Characters
from priors.prior import Batch, Prior
from priors.spec import PriorSpec

PRESET = find("test")
VOCABULARY = Characters(PRESET.symbols)
LABELS = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None)
STEP = 128 / 22050


class Model:
    """As much of a model folder as the figures of a prior ask for."""

    sample_rate, vocabulary, spec = 22050, VOCABULARY, PRESET.codec.spec

    def __init__(self, prior: Prior):
        self._prior = prior

    def prior(self, name: str) -> Prior:
        return self._prior.eval()

    def labels_of(self, name: str) -> Labels:
        return LABELS


def singing(count: int, rng: np.random.Generator, seconds: float = 3.0) -> HeldOut:
    """Songs whose codes encode the sung vowel (a or e, by the word) and the singer (odd or even); nothing else is predictable."""
    rows, codes = [], []
    length = int(seconds / STEP)
    for i in range(count):
        words = [
            TimedText("aaaa" if rng.random() < 0.5 else "eeee", t * 0.25, t * 0.25 + 0.25) for t in range(int(seconds * 4))
        ]
        at = [words[min(int(t * STEP * 4), len(words) - 1)].text[0] == "a" for t in range(length)]
        who = i % 2
        codes.append({"vq.2": (rng.integers(0, 2, length) + 2 * np.array(at) + 4 * who).astype(np.uint16)})
        lyrics = " ".join(w.text for w in words)
        rows.append(
            SongRow(f"{i}", f"{i}", seconds, 22050, 1, ("ann", "bob")[who], ("rock",), lyrics, tuple(words), "", "test")
        )
    return HeldOut(rows, [], codes)


@pytest.fixture(scope="module")
def learned() -> tuple[dict, dict]:
    """Figures of a small prior before and after some seconds of training on songs that are not those it is measured on."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    prior = AutoregressivePrior(PRESET.priors["prior_2"].for_corpus(3, 3))
    train, held = singing(48, rng), singing(8, rng)
    before = prior_figures(Model(prior), held, "prior_2", 48, 0)  # type: ignore[arg-type]
    songs = [PreparedSong.of(song_of(row), LABELS, VOCABULARY, 22050) for row in train.rows]
    optimiser = torch.optim.Adam(prior.parameters(), lr=5e-3)
    dropout = ConditionDropout(labels=0.05, lyrics=0.1)
    prior.train()
    for _ in range(250):
        places = [(int(i), int(rng.integers(len(train.codes[i]["vq.2"]) - 32))) for i in rng.integers(0, 48, 8)]
        cond = stack([window_conditions(songs[i], prior.config, start, None, dropout, rng) for i, start in places])
        codes = np.stack([train.codes[i]["vq.2"][start : start + 32] for i, start in places]).astype(np.int64)
        loss = prior.loss(Batch({"vq.2": torch.from_numpy(codes)}, cond))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return before, prior_figures(Model(prior), held, "prior_2", 48, 0)  # type: ignore[arg-type]


def test_what_was_learned_from_lyrics_and_artist_shows_against_their_controls(learned):
    after = learned[1]
    assert after["bits"] < 1.6 < after["unigram_bits"]  # one bit of the three is chance
    for name in ("lyrics", "letters", "labels", "artist"):
        figure = after["controls"][name]
        assert figure["difference"] > 0.05 and figure["z"] > 3, (name, figure)


def test_what_cannot_help_does_not_and_an_untrained_prior_hears_nothing(learned):
    before, after = learned
    assert abs(after["controls"]["genre"]["difference"]) < 0.05  # all songs are of one genre
    assert before["bits"] > before["unigram_bits"]
    for name in ("lyrics", "letters"):
        assert abs(before["controls"][name]["difference"]) < 0.1 * after["controls"][name]["difference"]


def test_attention_follows_the_words_by_its_bias_where_times_are_told_and_knows_when_they_are_false(learned):
    before, after = learned[0]["alignment"], learned[1]["alignment"]
    for figures in (before, after):
        trials = figures["trials"]
        assert trials["times shuffled"]["score"] > 0.8 and trials["times shuffled"]["control"] < 0.4, figures
        assert trials["times shuffled"]["z"] > 3 and figures["chance"] < 0.4
    assert abs(before["trials"]["untrained"]["difference"]) < 0.1  # what has learned nothing is like what has not


class Denoiser(Prior):
    """A prior of latents without a likelihood: its loss is their distance from the mean of the stream that it reads."""

    def __init__(self, prompt: str):
        super().__init__()
        spec = PriorSpec(("vq.2",), ("latents",), 64, prompt)  # type: ignore[arg-type]
        self.config = SimpleNamespace(spec=spec, n_ctx=64, ratio=2, frames=lambda stream: 64, hop=64, labels=None, lyrics=None)

    def nll(self, sequences, cond, known=None):
        return None

    def loss(self, batch, phase=""):
        assert batch.known is not None and batch.known["latents"].float().mean() == pytest.approx(0.5, abs=0.3)
        wrong = (batch.sequences["latents"] - batch.cond.above.float().mean()).abs().mean(dim=2)
        return {"loss": (wrong + 0.1 * torch.randn(())).masked_fill(batch.known["latents"], 0.0).sum()}

    def start(self, cond, prompt, rngs, params):
        raise NotImplementedError

    sample = start  # type: ignore[assignment]


@pytest.mark.parametrize("prompt", ["any", "prefix"])
def test_a_prior_of_latents_without_likelihood_is_measured_by_its_loss_under_another_songs_conditions(prompt):
    rng = np.random.default_rng(0)
    rows = singing(6, rng).rows
    latents = [np.full((400, 3), i, np.float32) for i in range(6)]
    codes = [{"vq.2": np.full(200, i, np.uint16), "latents": x} for i, x in enumerate(latents)]
    model = Model(Denoiser(prompt))
    figures = prior_figures(model, HeldOut(rows, [], codes), "toy", 96, 0)  # type: ignore[arg-type]
    control = figures["controls"]["another song, half known"]
    assert figures["windows"] == 24 and control["true_loss"] < 20 < control["control_loss"] and control["z"] > 3
    assert "another song, half known, loss" in tables({"songs": 6, "seconds": 1.0, "codec": {}, "priors": {"toy": figures}})


class OnMeta(AutoregressivePrior):
    """A prior on torch's meta device, whose bits are random numbers on the CPU."""

    def nll(self, sequences, cond, known=None):
        given = [*sequences.values(), *(known or {}).values(), cond.timing, *cond.lyrics]
        assert all(x.is_meta for x in given)
        return {"vq.2": torch.rand(sequences["vq.2"].shape)}

    def lyric_attention(self, codes, cond, layer):
        assert codes.is_meta and cond.artist.is_meta
        return torch.rand(*codes.shape, self.config.n_tokens)[:, None]


def test_windows_are_measured_on_the_device_that_is_asked_for(monkeypatch):
    monkeypatch.setattr("jukebox.evaluation.attention.build_prior", OnMeta)
    held = singing(4, np.random.default_rng(0))
    prior = OnMeta(PRESET.priors["prior_2"].for_corpus(3, 3))
    figures = prior_figures(Model(prior), held, "prior_2", 8, 0, "meta")  # type: ignore[arg-type]
    assert figures["controls"]["lyrics"]["true_bits"] == figures["bits"] and figures["alignment"]["windows"] > 0
    sequences, known = ({"vq.2": x} for x in (torch.zeros(1, 32, dtype=torch.long), torch.zeros(1, 32, dtype=torch.bool)))
    song = PreparedSong.of(song_of(held.rows[0]), LABELS, VOCABULARY, 22050)
    assert window_cost(prior, sequences, known, [window_conditions(song, prior.config, 0)])[0] == "bits"


@pytest.fixture(scope="module")
def drawn() -> PriorWindows:
    """Windows of four songs by two artists, of one genre."""
    config = PRESET.priors["prior_2"].for_corpus(3, 3)
    return PriorWindows.draw(Model(None), config, singing(4, np.random.default_rng(0)), 8, 0, LABELS)  # type: ignore[arg-type]


CHANGED = {
    "lyrics": {"lyrics"}, "letters": {"lyrics"}, "plain": {"lyrics"}, "labels": {"artist", "genres"}, "artist": {"artist"},
    "genre": {"genres"}, "timing": {"timing"},
}  # fmt: skip


@pytest.mark.parametrize("control", [c for c in CONTROLS if c.name in CHANGED], ids=lambda c: c.name)
def test_a_control_is_the_truth_but_for_what_its_name_says(drawn, control):
    rng = np.random.default_rng(0)
    true = control.truth(drawn, rng) if control.truth else drawn.conditions()
    false = control.corrupt(drawn, rng)
    changed = set()
    for t, f in zip(true, false, strict=True):
        for name in ("artist", "genres", "timing"):
            changed |= set() if torch.equal(getattr(t, name), getattr(f, name)) else {name}
        changed |= set() if torch.equal(t.lyrics.ids, f.lyrics.ids) else {"lyrics"}
        assert control.name != "letters" or torch.equal(t.lyrics.seconds.nan_to_num(-1), f.lyrics.seconds.nan_to_num(-1))
    assert changed == CHANGED[control.name]


def test_a_control_is_one_more_entry_and_leaves_the_figures_of_the_others(drawn, monkeypatch):
    torch.manual_seed(0)
    model = Model(AutoregressivePrior(replace(drawn.config, lyrics=None, trunk=replace(drawn.config.trunk, order=("dense",)))))  # type: ignore
    before = prior_figures(model, drawn.held, "prior_2", 8, 0)["controls"]  # type: ignore[arg-type]
    assert [*before] == ["labels", "artist", "genre", "timing"]
    unknown = Control("no artist", lambda given, rng: [replace(c, artist=c.artist * 0) for c in given.conditions()])
    monkeypatch.setattr(evaluation, "CONTROLS", (*CONTROLS, unknown, Control("never", unknown.corrupt, lambda given: False)))
    after = prior_figures(model, drawn.held, "prior_2", 8, 0)["controls"]  # type: ignore[arg-type]
    assert after.pop("no artist")["control_bits"] != before["artist"]["true_bits"]
    assert {name: str(each) for name, each in after.items()} == {name: str(each) for name, each in before.items()}


def test_tables_show_every_figure(learned):
    codec = {"spectral_convergence_db": -9.0, "se": 0.1, "untrained_db": 0.5, "codes_used": 0.9, "entropy_bits": 7.0}
    text = tables({"songs": 8, "seconds": 24.0, "codec": {"2": codec}, "priors": {"2": learned[1]}})
    assert all(
        word in text for word in ("-9.000", "90%", "unigram entropy", "letters", "plain", "timing", "z by song", "line times")
    )


def test_noise_of_the_same_spectrum_is_no_music():
    t = np.arange(2 * 22050) / 22050
    notes = np.concatenate(
        [np.sin(2 * np.pi * f * t[:5512]) * np.exp(-4 * t[:5512]) for f in (220, 330, 440, 262, 294, 349, 392, 440)]
    )
    noise = coloured_noise(notes[None].astype(np.float32))
    real, fake = (sound_statistics(x, 22050) for x in (notes[None], noise))
    assert real.loudness_db == pytest.approx(fake.loudness_db, abs=0.1) and real.onsets > fake.onsets + 1


def test_a_song_of_the_manifest_is_a_song():
    row = SongRow("a", "a.wav", 3.0, 44100, 2, "ann", ("rock",), "la", (TimedText("la", 0.0, 1.0),), "", "train")
    assert song_of(row) == Song("ann", ("rock",), "la", (TimedText("la", 0.0, 1.0),), 3.0)
    assert replace(song_of(row), artist=None).artist is None
