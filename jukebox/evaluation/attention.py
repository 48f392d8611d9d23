"""Attention of a prior to the lyrics, compared with the true times of the words.

The score is the share of sung steps at which the most attended token belongs to the word being sung
(`metrics.alignment_score`). The best head of any layer with lyrics is chosen on half of the songs and scored on the other half.
Every control (`ATTENTION_CONTROLS`) chooses its best head in the same way:

    times shuffled          the true characters with shuffled times
    another song            characters and times of another song; its character i replaces character i of the true window
    no times                the true characters without times: the time bias is off, only codes and characters remain
    untrained               an untrained network of the same shape with the times: the effect of the time bias alone
    untrained, line times   trained and untrained network get only the start and end of each line, as in an .lrc file
    untrained, no times     neither network gets times

Notable: a prior with a time bias and the time of each word attends to the right words by design, even if it is untrained. So
learned attention is measured with the times of lines. Within a line only the audio identifies the word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data_prep.align import TimedText, word_seconds
from data_prep.labels import Labels
from jukebox.alignment.scores import has_time_bias
from jukebox.device import device_of
from jukebox.evaluation import metrics
from jukebox.evaluation.controls import Control
from jukebox.evaluation.held_out import HeldOutWindow
from jukebox.model.folder import build_prior
from jukebox.song import PreparedSong, Song, window_conditions
from priors.conditioning.conditions import Conditions, Lyrics, stack
from priors.conditioning.vocabulary import Vocabulary
from priors.prior import Prior, ScoresLyrics
from priors.spec import PriorConfig


class AttentionWindow(NamedTuple):
    """Conditions of a window, and a mask: `sung` is true if token n belongs to the word that is sung at step t."""

    conditions: Conditions
    sung: Bool[Tensor, "t n"]

    @property
    def lyrics(self) -> Lyrics:
        assert self.conditions.lyrics is not None
        return self.conditions.lyrics

    def given(self, lyrics: Lyrics) -> AttentionWindow:
        """Return this window with other lyrics as the condition."""
        return self._replace(conditions=replace(self.conditions, lyrics=lyrics))


class Best(NamedTuple):
    """The head with the highest alignment score on half of the songs."""

    layer: int
    head: int
    scores: Float[np.ndarray, " w"]  # in the windows of the other half


def by_lines(song: Song) -> Song:
    """Return the song with the times of an .lrc file: start and end of each line instead of each word."""
    text, at, lines = song.lyrics or "", 0, []
    spans = word_seconds(text, song.word_times)
    for line in text.splitlines(keepends=True):
        known = spans[at : at + len(line)]
        at += len(line)
        if not np.isnan(known).all():
            lines.append(TimedText(line.strip(), float(np.nanmin(known)), float(np.nanmax(known))))
    return replace(song, word_times=tuple(lines))


def tokens_sung(song: Song, prepared: PreparedSong, config: PriorConfig, start: int) -> Bool[Tensor, "t n"]:
    """Mask of the tokens of a window of `prepared` that belong to the word that is sung in `song` at each step.

    The window begins at frame `start`.
    """
    spans = word_seconds(song.lyrics or "", song.word_times)[prepared.tokens.positions]  # (characters of the song, 2)
    numbers = np.arange(1, len(spans) + 1)  # indices in place of characters: the window returns the indices of its tokens
    window = window_conditions(replace(prepared, ids=numbers), config, start).lyrics
    assert window is not None
    begin, end = np.concatenate([spans, [[np.nan, np.nan]]])[window.ids[0].numpy() - 1].T  # padding uses the last row
    when = (start + np.arange(config.n_ctx) + 0.5) * config.hop / config.sample_rate
    return torch.from_numpy((begin <= when[:, None]) & (when[:, None] < end))


def best_head(
    prior: ScoresLyrics, codes: Int[Tensor, "w t"], read: Sequence[AttentionWindow], choosing: Bool[np.ndarray, " w"],
    batch: int = 4,
) -> Best:  # fmt: skip
    """Choose the head with the highest alignment score on the windows `choosing`, and score this head on the other windows."""
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
    """Return each window with the conditions of its song in `read` and the true words of its song in `songs`."""
    prepared = [PreparedSong.of(song, labels, vocabulary, config.sample_rate) for song in read]
    return [
        AttentionWindow(window_conditions(prepared[w.song], config, w.start), tokens_sung(songs[w.song], prepared[w.song], config, w.start))
        for w in windows
    ]  # fmt: skip


# ---- controls


class TimedWindows(NamedTuple):
    """Windows with three kinds of lyrics."""

    config: PriorConfig
    own: list[AttentionWindow]  # lyrics of the song
    others: list[AttentionWindow]  # lyrics of another song
    coarse: list[AttentionWindow]  # lyrics of the song with times of lines

    def have_bias(self) -> bool:
        return has_time_bias(self.config)

    def own_lyrics(self, rng: np.random.Generator) -> list[AttentionWindow]:
        return self.own

    def other_lyrics(self, rng: np.random.Generator) -> list[AttentionWindow]:
        return [t.given(o.lyrics) for t, o in zip(self.own, self.others, strict=True)]

    def line_times(self, rng: np.random.Generator) -> list[AttentionWindow]:
        return self.coarse

    def no_times(self, rng: np.random.Generator) -> list[AttentionWindow]:
        return [t.given(t.lyrics._replace(seconds=torch.full_like(t.lyrics.seconds, torch.nan))) for t in self.own]

    def shuffled_times(self, rng: np.random.Generator) -> list[AttentionWindow]:
        """Return the windows with the same characters, and with their known times shuffled."""
        shuffled = []
        for t in self.own:
            seconds, known = t.lyrics.seconds.clone(), ~t.lyrics.seconds.isnan()
            seconds[known] = seconds[known][torch.from_numpy(rng.permutation(int(known.sum())))]
            shuffled.append(t.given(t.lyrics._replace(seconds=seconds)))
        return shuffled


ATTENTION_CONTROLS: tuple[Control[TimedWindows], ...] = (
    Control("another song", TimedWindows.other_lyrics),
    Control("untrained", TimedWindows.own_lyrics, untrained=True),
    Control("times shuffled", TimedWindows.shuffled_times, TimedWindows.have_bias),
    Control("no times", TimedWindows.no_times, TimedWindows.have_bias),
    Control("untrained, line times", TimedWindows.line_times, TimedWindows.have_bias, TimedWindows.line_times, untrained=True),
    Control("untrained, no times", TimedWindows.no_times, TimedWindows.have_bias, TimedWindows.no_times, untrained=True),
)


def alignment_figures(
    prior: Prior, songs: Sequence[Song], labels: Labels, vocabulary: Vocabulary,
    windows: Sequence[HeldOutWindow], codes: Int[Tensor, "w t"], seed: int,
) -> dict | None:  # fmt: skip
    """Return scores and controls over windows of codes, for json.

    None if fewer than two songs have word times, or if the prior does not return its attention to lyrics.
    """
    config, known = prior.config, (labels, vocabulary, prior.config)
    given = attention_windows(songs, songs, *known, windows)
    coarse = attention_windows(songs, [by_lines(s) for s in songs], *known, windows)
    timed = [all(len(time.text.split()) == 1 for time in song.word_times) for song in songs]  # times of words, not of lines
    kept = [i for i, w in enumerate(windows) if timed[w.song] and given[i].sung.any() and coarse[i].sung.any()]
    order = sorted({windows[i].song for i in kept})
    if len(order) < 2 or not isinstance(prior, ScoresLyrics):
        return None
    windows, given = [windows[i] for i in kept], [given[i] for i in kept]
    others = attention_windows(songs, songs, *known, [replace(w, song=w.other) for w in windows])
    inputs = TimedWindows(config, given, others, [coarse[i] for i in kept])
    choosing = np.array([order.index(w.song) % 2 == 0 for w in windows])
    torch.manual_seed(seed)
    untrained, rng = build_prior(config).eval().to(device_of(prior)), np.random.default_rng([seed, 1])

    @cache
    def best(corrupt: Callable[[TimedWindows, np.random.Generator], list[AttentionWindow]], trained: bool = True) -> Best:
        net: Any = prior if trained else untrained
        return best_head(net, codes[kept], corrupt(inputs, rng), choosing)

    own = TimedWindows.own_lyrics
    scored, true = [w.song for w, chose in zip(windows, choosing, strict=True) if not chose], best(own)
    trials = {
        each.name: _figures(best(each.truth or own).scores, best(each.corrupt, not each.untrained).scores, scored)
        for each in ATTENTION_CONTROLS
        if each.applies(inputs)
    }
    chance = metrics.alignment_chance(torch.stack([t.sung for t in given]), torch.cat([t.lyrics.ids for t in given]) > 0)
    return {
        "windows": len(scored), "songs": len(set(scored)), "chance": float(chance[torch.from_numpy(~choosing)].mean()),
        "layer": true.layer, "head": true.head, "trials": trials,
    }  # fmt: skip


def _figures(score: np.ndarray, control: np.ndarray, songs: Sequence[int]) -> dict[str, float]:
    means = {"score": float(score.mean()), "control": float(control.mean())}
    return means | metrics.paired_figures(control, score, songs)
