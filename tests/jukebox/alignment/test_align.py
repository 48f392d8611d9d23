"""Alignment: both methods use the prior's outputs, and a prior that has learned its characters finds them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.align import TimedText, place
from data_prep.audio.audio import write_wav
from data_prep.errors import UserError
from data_prep.labels import Labels
from data_prep.manifest import prepare
from data_prep.metadata.lyrics import parse_lyrics
from data_prep.metadata.stamps import format_lrc
from data_prep.synthetic.songs import make_corpus
from jukebox.alignment.align import Alignment, AlignmentTask, TimedWord, align, align_run, find_way, lyric_entry, misses
from jukebox.alignment.scores import AttentionScores, LikelihoodScores, words_of
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.model.settings import PRIORS, VQVAES, alignment_way, prior_config
from jukebox.song import PreparedSong, Song, window_conditions
from launch.cli import main
from priors.autoregressive.config import AutoregressiveConfig
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import stack
from priors.conditioning.config import LabelConfig, LyricConfig
from priors.conditioning.vocabulary import PLAIN, Characters
from priors.prior import Batch
from priors.transformer.config import TrunkConfig
from tests.conftest import make_model
from tests.runs import sample

RATE, HOP = 22050, 128
TEXT = "sun and moon\n42 over the water again and again"


def prepared(text: str, seconds: float = 3.0) -> PreparedSong:
    return PreparedSong.of(Song(None, (), text, (), seconds), Labels(("unknown",), ("unknown",), None), Characters(PLAIN), RATE)


def test_words_are_where_their_letters_are_and_one_without_letters_is_none():
    song = prepared(TEXT)
    words = words_of(song, TEXT)
    assert [word.text for word in words] == [word for word in TEXT.split() if word != "42"]
    for word in words:
        assert Characters(PLAIN).decode(song.ids[word.first : word.last]) == word.text
    assert [word.line for word in words] == [0] * 3 + [1] * 6


def test_likelihood_of_a_letter_is_the_priors_own_when_its_time_is_told(tiny_model):
    prior, song = tiny_model.prior("prior_2"), prepared("sun and moon")
    codes = torch.randint(0, 32, (20,), generator=torch.Generator().manual_seed(0))
    words, pace, step = words_of(song, "sun and moon"), 0.1, HOP / RATE
    listening = LikelihoodScores(prior, codes, song, words, pace)
    rests, tokens = listening(0, 0, 0, len(words))
    assert rests.shape == (20, 4) and [part.shape[1] for part in tokens] == [3, 3, 4]
    for place_, told in [(0, tokens[0][0, 0]), (5, tokens[1][0, 1]), (11, tokens[2][0, 3])]:
        times = 0.5 * step + (np.arange(len(song.ids)) - place_) * pace  # at the hypothesis's distance from the first code
        cond = window_conditions(replace(song, seconds=times.astype(np.float32)), prior.config, 0)
        bits = prior.nll({"vq.2": codes[None]}, cond)["vq.2"]
        assert -told == pytest.approx(bits[0, 0].item(), abs=1e-4)
    assert np.ptp([part[0, 0] for part in tokens]) > 1e-3  # and characters differ


def test_attention_of_every_window_lies_on_the_whole_texts_axis(tiny_model):
    prior, text = tiny_model.prior("prior_2"), " ".join(["the river and the water"] * 3)
    song = prepared(text, seconds=64 * HOP / RATE)
    codes = torch.randint(0, 32, (64,), generator=torch.Generator().manual_seed(0))
    listening = AttentionScores(prior, codes, song, words_of(song, text), layer=1)
    seen = []
    for start in (0, 32):
        scores = listening.scores(start)
        cond = window_conditions(song, prior.config, start)
        weights = prior.lyric_attention(codes[None, start : start + 32], cond, 1)[0].numpy()
        inside = np.flatnonzero((scores > -6.0).any(axis=(0, 1)))
        assert len(inside) == prior.config.n_tokens and (np.diff(inside) == 1).all()
        np.testing.assert_allclose(2.0 ** scores[:, :, inside] - 2.0**-6, weights * prior.config.n_tokens, rtol=1e-3, atol=1e-4)
        assert Characters(PLAIN).decode(song.ids[inside]) == Characters(PLAIN).decode(cond.lyrics.ids[0])
        seen.append(inside[0])
    assert seen[0] < seen[1]  # the lyrics move on with the song


# ---- a prior that has learned


LETTERS = Characters(PLAIN)
N_CTX = 128


def sung(seed: int, steps: int, noise: float = 0.5) -> tuple[torch.Tensor, Song]:
    """Codes that identify the character (its id; 0 in a rest), a share at random, and the song of words at irregular times."""
    rng, at, times = np.random.default_rng(seed), float(np.random.default_rng(seed).uniform(0.1, 0.5)), []
    codes = np.zeros(steps, np.int64)
    while at < steps * HOP / RATE - 0.6:
        word = "".join(rng.choice(list("abcdefghij"), int(rng.integers(2, 5))))
        end = at + len(word) * rng.uniform(0.06, 0.12)
        times.append(TimedText(word, at, end))
        at = end + rng.choice([0.0, 0.3, 0.8])
    for word, start, end in times:
        first, last = round(start * RATE / HOP), round(end * RATE / HOP)
        codes[first:last] = np.repeat(LETTERS.encode(word).ids, -(-(last - first) // len(word)))[: last - first]
    noisy = rng.random(steps) < noise
    codes[noisy] = rng.integers(0, 32, noisy.sum())
    return torch.from_numpy(codes), Song(None, (), " ".join(t.text for t in times), tuple(times), steps * HOP / RATE)


@pytest.fixture(scope="module")
def singer(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model whose top prior has learned, in seconds, that codes identify the character that is sung now."""
    model = make_model(tmp_path_factory.mktemp("singer"))
    torch.manual_seed(0)
    config = replace(
        find("test").priors["prior_2"],
        trunk=TrunkConfig(N_CTX, 32, 2, 2, ("cross",), m_attn=1.0, m_mlp=2.0, time_bias=True),
        labels=LabelConfig(3, 3),
        lyrics=LyricConfig(LETTERS.size, 32, TrunkConfig(32, 16, 1, 2, ("full",), m_attn=1.0, m_mlp=1.0)),
    )
    prior, labels = AutoregressivePrior(config), model.labels
    songs = [sung(seed, 4 * N_CTX) for seed in range(1000, 1032)]
    ready = [PreparedSong.of(song, labels, LETTERS, RATE) for _, song in songs]
    optimiser, rng = torch.optim.Adam(prior.parameters(), 1e-2), np.random.default_rng(0)
    for _ in range(200):
        drawn = [(int(rng.integers(32)), int(rng.integers(3 * N_CTX))) for _ in range(8)]
        cond = stack([window_conditions(ready[i], config, start) for i, start in drawn])
        codes = torch.stack([songs[i][0][start : start + N_CTX] for i, start in drawn])
        optimiser.zero_grad()
        prior.loss(Batch({"vq.2": codes}, cond))["loss"].backward()
        optimiser.step()
    model.save_prior("prior_2", prior)
    return ModelFolder.from_pretrained(model.folder)


def test_words_are_found_in_unheard_songs_and_another_songs_words_are_not(singer):
    missed, mistaken, evenly = [], [], []
    for seed in (1, 2):
        codes, song = sung(seed, 6 * N_CTX)
        found = align(singer, codes, song)
        missed.append(misses(found.words, song.word_times, song.seconds))
        false = align(singer, codes, sung(seed + 50, 6 * N_CTX)[1]).words[: len(song.word_times)]
        mistaken.append(misses(false, song.word_times, song.seconds))
        spread = place(song.lyrics or "", song.seconds, None)
        evenly.append(np.abs(np.array([w.start for w in spread]) - np.array([w.start for w in song.word_times])))
        assert [word.word for word in found.words] + list(found.left_out) == (song.lyrics or "").split()
        assert found.way == {"way": "likelihood"}
    missed, mistaken, evenly = map(np.concatenate, (missed, mistaken, evenly))
    assert np.median(missed) < 0.03 and missed.mean() < 0.1
    assert missed.mean() < 0.3 * mistaken.mean() and missed.mean() < 0.5 * evenly.mean()


def test_times_that_are_given_are_not_read(singer):
    codes, song = sung(3, 2 * N_CTX)
    assert align(singer, codes, song) == align(singer, codes, replace(song, word_times=()))


def test_words_sung_after_the_end_are_left_out(singer):
    codes, song = sung(1, 6 * N_CTX)
    half = 3 * N_CTX * HOP / RATE
    found = align(singer, codes[: 3 * N_CTX], replace(song, seconds=half))
    inside = sum(word.end < half for word in song.word_times)
    assert abs(len(found.words) - inside) <= 1 and found.words[-1].end <= half + 1e-6


# ---- which way, and where it is kept


def test_the_best_way_is_measured_and_kept_until_the_prior_is_written_anew(tmp_path):
    model = make_model(tmp_path / "model")
    corpus = make_corpus(tmp_path / "corpus", 2, seconds=7.0, workers=1)
    prepare(corpus / "songs.jsonl", tmp_path / "data", workers=1)
    ways = find_way(model, tmp_path / "data", songs=1)
    assert len(ways) == 3 and ways[0]["error_seconds"] == min(way["error_seconds"] for way in ways)  # 2 heads, likelihood
    kept = ModelFolder.from_pretrained(model.folder)
    assert kept.entry("prior_2").alignment == {**ways[0], "found": "songs with known times"}
    kept.save_prior("prior_2", kept.prior("prior_2"))
    assert ModelFolder.from_pretrained(model.folder).entry("prior_2").alignment is None


def test_without_a_kept_way_the_most_monotone_and_sharp_head_is_taken():
    """Of two heads one attends to the characters in their order, the other everywhere."""
    song, text = prepared("abc def"), "abc def"
    sharp = np.full((80, 7), -6.0, np.float32)
    for step in range(80):
        sharp[step, step * 7 // 80] = 2.0
    config = replace(find("test").priors["prior_2"].for_corpus(3, 3), lyrics=None)
    task = AlignmentTask(AutoregressivePrior(config), torch.zeros(80, dtype=torch.long), song, words_of(song, text), 0.2, 0.3)

    def scorer(scores: np.ndarray):
        words = task.words
        return lambda start, done, first, last: (
            np.zeros((min(32, 80 - start) - (done - start), last - first + (last == len(words)))),
            [scores[done : min(start + 32, 80), word.first : word.last] for word in words[first:last]],
        )

    in_order, blurred = task.follow([scorer(sharp), scorer(np.zeros((80, 7), np.float32))])
    assert in_order.score() > blurred.score() + 20


def listener(config: AutoregressiveConfig) -> AutoregressivePrior:
    """A prior of one cross layer whose head 1 attends to the character that the last code names; its head 0 to none."""
    lyrics = LyricConfig(LETTERS.size, 16, TrunkConfig(16, 32, 1, 2, ("full",), m_attn=1.0, m_mlp=1.0))
    prior = AutoregressivePrior(
        replace(config, trunk=TrunkConfig(32, 32, 1, 2, ("cross",), m_attn=1.0), labels=None, lyrics=lyrics)
    )
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.zero_()
        for norm in (m for m in prior.modules() if isinstance(m, torch.nn.LayerNorm)):
            norm.weight.fill_(1.0)
        names = torch.eye(32)
        prior.x_emb.weight.copy_(names[: config.bins])
        prior.lyric_encoder.x_emb.weight.copy_(names[: LETTERS.size])
        prior.lyric_encoder.proj.w.copy_(names)
        attn = prior.trunk.blocks[0].attn
        attn.c_attn.w[:, 16:] = names[:, :16]  # the queries and keys of head 1 are the first 16 names
        attn.c_enc_kv.w[:, 16:32] = names[:, :16]
    return prior


def test_without_a_time_bias_the_head_that_listens_is_found_and_kept(tmp_path):
    model = make_model(tmp_path / "model")
    model.save_prior("prior_2", listener(model.entry("prior_2").config))
    codes, song = sung(1, 4 * N_CTX, noise=0.0)
    found = align(model, codes, song)
    assert {**found.way, "found": ""} == {"way": "attention", "layer": 0, "head": 1, "found": ""}
    assert ModelFolder.from_pretrained(model.folder).entry("prior_2").alignment == found.way
    assert np.median(misses(found.words, song.word_times, song.seconds)) < 0.03
    assert align(ModelFolder.from_pretrained(model.folder), codes, song) == found


def test_a_head_that_has_heard_no_word_is_not_kept(tmp_path):
    model = make_model(tmp_path / "model")
    config = model.entry("prior_2").config
    model.save_prior("prior_2", AutoregressivePrior(replace(config, trunk=replace(config.trunk, time_bias=False))))
    codes, song = sung(1, 2 * N_CTX)
    assert align(model, codes, song).words == ()
    assert ModelFolder.from_pretrained(model.folder).entry("prior_2").alignment is None


def test_published_priors_bring_their_layer_and_head():
    for name, (layer, head), pattern in (("prior_5b_lyrics", (68, 2), "cross"), ("prior_1b_lyrics", (63, 0), "prime")):
        config = prior_config(PRIORS[name], VQVAES["vqvae"])
        assert config.trunk.pattern(layer) == pattern and head < config.trunk.heads
        assert alignment_way(name, config) == {"way": "attention", "layer": layer, "head": head, "found": "published"}
    assert alignment_way("prior_5b", prior_config(PRIORS["prior_5b"], VQVAES["vqvae"])) is None


# ---- files


def test_an_lrc_file_says_the_words_it_was_made_of():
    lines = [
        [TimedText("sun", 1.0, 1.5), TimedText("and", 1.5, 2.0), TimedText("moon", 2.25, 3.0)],
        [TimedText("over", 61.5, 62.0)],
    ]
    text = format_lrc(lines)
    assert text.splitlines()[1] == "[01:01.50] <01:01.50>over <01:02.00>"
    lyrics = parse_lyrics(text)
    assert lyrics.text == "sun and moon\nover" and lyrics.times == tuple(word for line in lines for word in line)


def test_align_writes_lrc_and_json_of_a_recording(tiny_model, tmp_path, capsys):
    corpus = make_corpus(tmp_path, 1, seconds=2.0, workers=1)
    (tmp_path / "words.txt").write_text("sun and moon\n42 over\n")
    assert main(["align", str(tiny_model.folder), str(corpus / "song_0000.wav"), "--lyrics", str(tmp_path / "words.txt")]) == 0
    said = json.loads((tmp_path / "song_0000.json").read_text())
    assert [w["word"] for w in said["words"]] == ["sun", "and", "moon", "over"][: len(said["words"])]
    assert "42" in said["left_out"] and "left out" in capsys.readouterr().out
    assert all(a["end"] <= b["start"] + 1e-9 and 0 <= a["confidence"] <= 1 for a, b in zip(said["words"], said["words"][1:]))
    times = parse_lyrics((tmp_path / "song_0000.lrc").read_text()).times
    assert [t.text for t in times] == [w["word"] for w in said["words"]]
    assert [t.start for t in times] == pytest.approx([w["start"] for w in said["words"]], abs=0.006)


def test_a_run_is_aligned_by_its_codes_and_its_page_follows(tiny_model, tmp_path):
    run = sample(tiny_model, [Song("ann", ("rock",), "sun and moon"), Song()], 0.9, tmp_path / "run", levels=(2,))
    found = align_run(tiny_model, run)
    assert [len(one.words) + len(one.left_out) for one in found] == [3, 0]
    page = (tmp_path / "run" / "index.html").read_text()
    for word in found[0].words:
        assert f'<span data-start="{word.start:.3f}" data-end="{word.end:.3f}">{word.word}</span>' in page
    assert "found by the alignment" in page and found[0].words


def test_an_alignment_with_a_recording_in_which_nothing_is_sung_is_not_credible(tiny_model, tmp_path, capsys):
    """One line, and a mark in the json; of a run on its page, too. One whose words are found is credible."""
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 2 * tiny_model.sample_rate)).astype(np.float32)
    write_wav(tmp_path / "song.wav", noise, tiny_model.sample_rate)
    (tmp_path / "words.txt").write_text("sun and moon and all the cold wind will run " * 3)
    assert main(["align", str(tiny_model.folder), str(tmp_path / "song.wav"), "--lyrics", str(tmp_path / "words.txt")]) == 0
    written = json.loads((tmp_path / "song.json").read_text())
    assert written["credible"] is False and written["confidence"] < 0.2
    assert capsys.readouterr().err.count("the alignment is not credible (mean confidence ") == 1
    good = Alignment((TimedWord("sun", 0, 0.0, 0.5, 0.9), TimedWord("moon", 0, 0.5, 1.0, 0.5)), ("and",), 2.0)
    assert good.to_json()["credible"] and not good.doubt and good.confidence == pytest.approx(1.4 / 3)
    assert not Alignment((), (), 2.0).doubt and Alignment((), ("sun",), 2.0).doubt


def test_mistakes_are_said_in_one_line(tiny_model, tmp_path, capsys):
    corpus = make_corpus(tmp_path, 1, seconds=1.0, workers=1)
    song, words, empty = str(corpus / "song_0000.wav"), tmp_path / "words.txt", tmp_path / "empty.txt"
    words.write_text("42 43"), empty.write_text(" \n")
    for flags, said in (
        ([song], "--lyrics is missing"),
        ([song, "--lyrics", str(empty)], "there are no lyrics"),
        ([song, "--lyrics", str(words)], "none with a character"),
        ([str(tmp_path), "--lyrics", str(words)], "neither a run"),
    ):
        assert main(["align", str(tiny_model.folder), *flags]) == 2
        assert said in capsys.readouterr().err
    mute = make_model(tmp_path / "mute")
    mute.save_prior("prior_2", AutoregressivePrior(replace(mute.entry("prior_2").config, lyrics=None)))
    with pytest.raises(UserError, match="is conditioned on lyrics"):
        lyric_entry(mute)


def test_of_two_codecs_the_prior_that_scores_lyrics_aligns(two_codecs):
    assert lyric_entry(two_codecs).name == "prior_2"


def test_a_prior_that_cannot_score_lyrics_is_one_line(tiny_model, monkeypatch):
    other = torch.nn.Module()
    other.kind = "other"  # type: ignore[assignment]
    monkeypatch.setattr(type(tiny_model), "prior", lambda model, name: other)
    with pytest.raises(UserError, match=r"prior_2 of .* \(other\) cannot score lyrics"):
        align(tiny_model, *sung(1, N_CTX))


def test_a_song_shorter_than_a_code_is_named(tiny_model, tmp_path):
    from data_prep.audio.audio import write_wav

    write_wav(tmp_path / "short.wav", np.zeros((1, 100), np.float32), RATE)
    (tmp_path / "words.txt").write_text("sun")
    words = ["align", str(tiny_model.folder), str(tmp_path / "short.wav"), "--lyrics", str(tmp_path / "words.txt")]
    assert main(words) == 2
