"""Does a prior listen to the word that is being sung? Its attention to the lyrics beside the true times of the words.

The score is the share of sung steps whose most heard letter is of the word being sung (`metrics.alignment_score`). Any
head of any layer that hears lyrics may be the one that follows them: the best is chosen on half of the songs and scored
on the other half. Every control chooses its own, so that it is as free as what it is compared with:

    times shuffled          the true letters, their times shuffled among them
    another song            letters and times of another song, letter i taken for letter i of the true window
    no times                the true letters without times: the time bias is off, and sound and letters alone are left
    untrained               a net of the same shape that has learned nothing, told the times: what the time bias does alone
    untrained, line times   both are told only when each line begins and ends, as an .lrc file does
    untrained, no times     neither is told anything

Notable: a prior that is told when each word is sung follows the words by its bias, by design, and so does an untrained
one. What it has learned to hear shows where the times are coarse: within a line only the sound says which word it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_prep.align import TimedText, word_seconds
from data_prep.labels import Labels
from jukebox.alignment.scores import has_time_bias
from jukebox.device import device_of
from jukebox.evaluation import metrics
from jukebox.evaluation.held_out import HeldOutWindow
from jukebox.model.folder import build_prior
from jukebox.song import PreparedSong, Song, window_conditions
from priors.conditioning.conditions import Conditions, Lyrics, stack
from priors.conditioning.vocabulary import Vocabulary
from priors.prior import Prior, ScoresLyrics
from priors.spec import PriorConfig


class AttentionWindow(NamedTuple):
    """A window's conditions, and which of its letters are of the word sung at each step."""

    conditions: Conditions
    sung: Bool[Tensor, "t n"]

    @property
    def lyrics(self) -> Lyrics:
        assert self.conditions.lyrics is not None
        return self.conditions.lyrics

    def given(self, lyrics: Lyrics) -> AttentionWindow:
        """The same window, its prior told other lyrics."""
        return self._replace(conditions=replace(self.conditions, lyrics=lyrics))


class Best(NamedTuple):
    """The head that follows the words best on half of the songs, and its score in every window of the other half."""

    layer: int
    head: int
    scores: Float[np.ndarray, " w"]


def by_lines(song: Song) -> Song:
    """The same song as an .lrc file tells it: when each of its lines begins and ends."""
    text, at, lines = song.lyrics or "", 0, []
    spans = word_seconds(text, song.word_times)
    for line in text.splitlines(keepends=True):
        known = spans[at : at + len(line)]
        at += len(line)
        if not np.isnan(known).all():
            lines.append(TimedText(line.strip(), float(np.nanmin(known)), float(np.nanmax(known))))
    return replace(song, word_times=tuple(lines))


def tokens_sung(song: Song, prepared: PreparedSong, config: PriorConfig, start: int) -> Bool[Tensor, "t n"]:
    """Which letters of a window, as the prior is conditioned on it by `prepared`, are of the word that `song` truly sings at each step."""
    spans = word_seconds(song.lyrics or "", song.word_times)[prepared.tokens.positions]  # (letters of the song, 2)
    numbers = np.arange(1, len(spans) + 1)  # numbers in place of letters tell which of them the window holds
    window = window_conditions(replace(prepared, ids=numbers), config, start).lyrics
    assert window is not None
    begin, end = np.concatenate([spans, [[np.nan, np.nan]]])[window.ids[0].numpy() - 1].T  # padding takes the last row
    when = (start + np.arange(config.n_ctx) + 0.5) * config.hop / config.sample_rate
    return torch.from_numpy((begin <= when[:, None]) & (when[:, None] < end))


def best_head(
    prior: ScoresLyrics, codes: Int[Tensor, "w t"], read: Sequence[AttentionWindow], choosing: Bool[np.ndarray, " w"],
    batch: int = 4,
) -> Best:  # fmt: skip
    """Choose the head with the highest alignment score on the windows `choosing`, and score it on the others."""
    found, device = [], device_of(prior)
    for layer in prior.lyric_layers():
        parts = []
        for i in range(0, len(read), batch):
            some = read[i : i + batch]
            cond = stack([t.conditions for t in some]).to(device)
            weights = prior.lyric_attention(codes[i : i + batch].to(device), cond, layer).cpu()
            parts.append(metrics.alignment_score(weights, torch.stack([t.sung for t in some])))
        scores = torch.cat(parts).double().numpy()  # (windows, heads)
        found += [(scores[choosing, head].mean(), layer, head, scores[~choosing, head]) for head in range(scores.shape[1])]
    _, layer, head, scores = max(found, key=lambda f: f[0])
    return Best(layer, head, scores)


def attention_windows(
    songs: Sequence[Song], read: Sequence[Song], labels: Labels, vocabulary: Vocabulary, config: PriorConfig,
    windows: Sequence[HeldOutWindow],
) -> list[AttentionWindow]:  # fmt: skip
    """Every window with the conditions of the songs `read`, beside what the `songs` truly sing."""
    prepared = [PreparedSong.of(song, labels, vocabulary, config.sample_rate) for song in read]
    return [
        AttentionWindow(window_conditions(prepared[w.song], config, w.start), tokens_sung(songs[w.song], prepared[w.song], config, w.start))
        for w in windows
    ]  # fmt: skip


def alignment_figures(
    prior: Prior, songs: Sequence[Song], labels: Labels, vocabulary: Vocabulary,
    windows: Sequence[HeldOutWindow], codes: Int[Tensor, "w t"], seed: int,
) -> dict | None:  # fmt: skip
    """Scores and controls over windows of codes, ready for json; none where fewer than two songs have times of words.

    None, too, of a prior whose attention to lyrics cannot be read.
    """
    config, known = prior.config, (labels, vocabulary, prior.config)
    given = attention_windows(songs, songs, *known, windows)
    coarse = attention_windows(songs, [by_lines(s) for s in songs], *known, windows)
    timed = [all(len(time.text.split()) == 1 for time in song.word_times) for song in songs]  # words, not lines
    kept = [i for i, w in enumerate(windows) if timed[w.song] and given[i].sung.any() and coarse[i].sung.any()]
    order = sorted({windows[i].song for i in kept})
    if len(order) < 2 or not isinstance(prior, ScoresLyrics):
        return None
    windows, given, coarse = [windows[i] for i in kept], [given[i] for i in kept], [coarse[i] for i in kept]
    choosing = np.array([order.index(w.song) % 2 == 0 for w in windows])
    torch.manual_seed(seed)
    untrained, rng = build_prior(config).eval().to(device_of(prior)), np.random.default_rng([seed, 1])
    assert isinstance(untrained, ScoresLyrics)

    def best(net: ScoresLyrics, read: Sequence[AttentionWindow]) -> Best:
        return best_head(net, codes[kept], read, choosing)

    others = attention_windows(songs, songs, *known, [replace(w, song=w.other) for w in windows])
    true = best(prior, given)
    trials = {
        "another song": (true, best(prior, [t.given(o.lyrics) for t, o in zip(given, others, strict=True)])),
        "untrained": (true, best(untrained, given)),
    }
    if has_time_bias(config):
        silent = [t.given(t.lyrics._replace(seconds=torch.full_like(t.lyrics.seconds, torch.nan))) for t in given]
        untimed = best(prior, silent)
        trials |= {
            "times shuffled": (true, best(prior, [t.given(_shuffled(t.lyrics, rng)) for t in given])),
            "no times": (true, untimed),
            "untrained, line times": (best(prior, coarse), best(untrained, coarse)),
            "untrained, no times": (untimed, best(untrained, silent)),
        }
    scored = [w.song for w, chose in zip(windows, choosing, strict=True) if not chose]
    chance = metrics.alignment_chance(torch.stack([t.sung for t in given]), torch.cat([t.lyrics.ids for t in given]) > 0)
    return {
        "windows": len(scored), "songs": len(set(scored)), "chance": float(chance[torch.from_numpy(~choosing)].mean()),
        "layer": true.layer, "head": true.head,
        "trials": {name: _figures(a.scores, b.scores, scored) for name, (a, b) in trials.items()},
    }  # fmt: skip


def _shuffled(lyrics: Lyrics, rng: np.random.Generator) -> Lyrics:
    """The same letters, the known times shuffled among them."""
    seconds, known = lyrics.seconds.clone(), ~lyrics.seconds.isnan()
    seconds[known] = seconds[known][torch.from_numpy(rng.permutation(int(known.sum())))]
    return lyrics._replace(seconds=seconds)


def _figures(score: np.ndarray, control: np.ndarray, songs: Sequence[int]) -> dict[str, float]:
    means = {"score": float(score.mean()), "control": float(control.mean())}
    return means | metrics.paired_figures(control, score, songs)
