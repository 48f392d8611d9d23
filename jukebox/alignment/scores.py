"""Scores in bits of each lyric token at each code of a song, computed by a prior with one of two methods.

    attention   attention of a head of a cross or prime layer to a token, relative to the mean over tokens. The song is
                processed in windows, as in sampling. The tokens of a window are mapped to the whole text.
    likelihood  likelihood of the codes if this token is sung at every step. This method is for priors with a time bias in
                their attention. Each token in turn is placed at the current time. Its neighbours are placed before and after
                it at the pace of singing. All placements form one batch.

The times of the song are not an input. A head with a time bias attends to the given times and would only return them. Without
times such a head has not learned to attend. `LikelihoodScores` tries all times and compares the likelihoods of the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jukebox.song import PreparedSong, window_conditions
from priors.conditioning.conditions import Lyrics, stack
from priors.prior import ScoresLyrics

REST = 0.5  # seconds added to the distance of all tokens for a rest
FLOOR = 6.0  # lowest attention score of a token, bits


class LyricPrior(ScoresLyrics, Protocol):
    """A prior that can score lyrics, and its configuration."""

    config: Any  # a PriorConfig


def has_time_bias(config: Any) -> bool:
    """Whether a prior's attention to lyrics depends on the seconds to each token. `nll_at_distance` requires this."""
    return bool(getattr(getattr(config, "trunk", None), "time_bias", False))


class Word(NamedTuple):
    """A word of the lyrics with the number of its line. Its tokens are `first` to `last` (exclusive)."""

    text: str
    line: int
    first: int
    last: int


def words_of(song: PreparedSong, text: str) -> list[Word]:
    """Return the words of a text that have at least one character in the vocabulary."""
    found, at = [], 0
    for number, line in enumerate(text.split("\n")):
        for word in line.split():
            start = text.index(word, at)
            at = start + len(word)
            first, last = np.searchsorted(song.tokens.positions, [start, at])
            if last > first:
                found.append(Word(word, number, int(first), int(last)))
    return found


Scorer = Callable[[int, int, int, int], tuple[np.ndarray, list[np.ndarray]]]
# (start of the window, first new code, first word, last word) -> scores of rests (t, w) and of each word's tokens (t, l)


class LikelihoodScores:
    """Scores from the prior's likelihood of the codes if a token is sung at every step, for each token in turn."""

    def __init__(self, prior: LyricPrior, codes: Int[Tensor, " t"], song: PreparedSong, words: Sequence[Word], pace: float):
        self.prior, self.codes, self.song, self.words, self.pace = prior, codes, song, words, pace

    def __call__(self, start: int, done: int, first: int, last: int) -> tuple[np.ndarray, list[np.ndarray]]:
        words, n = self.words[first:last], self.prior.config.n_ctx
        rests = [(word.first - 0.5, REST) for word in words]
        if last == len(self.words):
            rests.append((self.words[-1].last - 0.5, REST))
        tokens = [(float(token), 0.0) for word in words for token in range(word.first, word.last)]
        bits = self.bits(start, self.codes[start : start + n], rests + tokens)[:, done - start :]
        ends = np.cumsum([len(rests)] + [word.last - word.first for word in words])
        return -bits[: len(rests)].T, [-part.T for part in np.split(bits, ends)[1:-1]]

    @torch.no_grad()
    def bits(self, start: int, codes: Int[Tensor, " t"], playheads: Sequence[tuple[float, float]]) -> Float[np.ndarray, "p t"]:
        """Return the bits of each code of a window for every playhead: (position in the lyrics, seconds added to distances)."""
        size = max(1, 8192 // len(codes))
        bare = replace(self.song, ids=self.song.ids[:0], seconds=self.song.seconds[:0])
        parts = []
        for i in range(0, len(playheads), size):
            ids, away = zip(*(self.around(*playhead) for playhead in playheads[i : i + size]), strict=True)
            cond = stack([window_conditions(bare, self.prior.config, start)] * len(ids)).to(codes.device)
            lyrics = Lyrics(torch.stack(ids), torch.full((len(ids), len(ids[0])), torch.nan, device="cpu"))
            cond = replace(cond, lyrics=Lyrics(*(x.to(codes.device) for x in lyrics)))
            distance = torch.stack(away).to(codes.device)[:, None].expand(-1, len(codes), -1)
            parts.append(self.prior.nll_at_distance(codes[None].expand(len(ids), -1), cond, distance))
        return torch.cat(parts).cpu().numpy()

    def around(self, place: float, extra: float) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Return the tokens around a position in the text, and their distances in seconds, with padding on the left."""
        n, count = self.prior.config.n_tokens, len(self.song.ids)
        first = min(max(int(place) - n // 2, 0), max(count - n, 0))
        ids = torch.from_numpy(self.song.ids[first : first + n])
        away = (torch.arange(first, first + len(ids), device="cpu") - place).abs() * self.pace + extra
        pad = (n - len(ids), 0)
        return F.pad(ids, pad), F.pad(away.float(), pad, value=torch.nan)


class AttentionScores:
    """Scores from the attention of the heads of one layer. Tokens outside the window of lyrics have the lowest score."""

    def __init__(self, prior: LyricPrior, codes: Int[Tensor, " t"], song: PreparedSong, words: Sequence[Word], layer: int):
        self.prior, self.codes, self.song, self.words, self.layer = prior, codes, song, words, layer
        self.window: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def scores(self, start: int) -> Float[np.ndarray, "h t n"]:
        """Return, for one window, the attention of each head to each token of the text, in bits relative to the mean."""
        if self.window[0] != start:
            config, count = self.prior.config, len(self.song.ids)
            numbered = replace(self.song, ids=np.arange(1, count + 1))  # the window returns indices of its tokens
            places = window_conditions(numbered, config, start)
            cond = window_conditions(self.song, config, start).to(self.codes.device)
            weights = self.prior.lyric_attention(self.codes[None, start : start + config.n_ctx], cond, self.layer)[0]
            assert places.lyrics is not None
            index = places.lyrics.ids[0].numpy()
            there = index > 0
            on_text = np.zeros((*weights.shape[:2], count), np.float32)
            on_text[:, :, index[there] - 1] = weights.float().cpu().numpy()[:, :, there]
            self.window = (start, np.log2(on_text * there.sum() + 2.0**-FLOOR))
        return self.window[1]

    def scorers(self) -> list[Scorer]:
        """Return a scorer for each head."""
        return [partial(self._score, head) for head in range(len(self.scores(0)))]

    def _score(self, head: int, start: int, done: int, first: int, last: int) -> tuple[np.ndarray, list[np.ndarray]]:
        scores = self.scores(start)[head, done - start :]
        rests = np.zeros((len(scores), last - first + (last == len(self.words))), np.float32)
        return rests, [scores[:, word.first : word.last] for word in self.words[first:last]]
