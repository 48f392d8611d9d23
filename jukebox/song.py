"""Song: the user's description of a song, and the conditions of each window of a level.

`PreparedSong` converts a song once: names to ids, and lyrics to tokens with times. `window_conditions` computes the conditions
of a window from a prepared song. Lyrics without times get times by line and beat at the pace of the training music
(`data_prep.align`). torch is imported with the first window, because a request must be on disk before heavy imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_prep.align import TimedText, character_seconds, place, word_seconds
from data_prep.labels import Labels

if TYPE_CHECKING:
    from data_prep.manifest import SongRow
    from jukebox.model.info import ModelInfo
    from priors.conditioning.conditions import Conditions, Lyrics, SungFrames
    from priors.conditioning.vocabulary import Tokens, Vocabulary
    from priors.spec import PriorConfig


@dataclass(frozen=True)
class Song:
    """Description of a song.

    `seconds` is the length of the whole song, which is part of the timing condition. `genre` is one name or several names with
    commas between them; all are added to `genres`.
    """

    artist: str | None = None
    genres: tuple[str, ...] = ()
    lyrics: str | None = None
    word_times: tuple[TimedText, ...] = ()
    seconds: float = 0.0
    genre: InitVar[str] = ""

    def __post_init__(self, genre: str) -> None:
        if genre:
            object.__setattr__(self, "genres", (*self.genres, *filter(None, map(str.strip, genre.split(",")))))

    def placed(self, labels: Labels) -> Song:
        """Return the song with an estimated time for each word of plain lyrics; a song with word times stays the same."""
        if self.word_times or not (self.lyrics and self.lyrics.strip()):
            return self
        return replace(self, word_times=tuple(place(self.lyrics, self.seconds, labels.pace, self.genres)))


@dataclass(frozen=True)
class ConditionDropout:
    """Condition dropout in training, so that a prior can also sample without a condition.

    `labels`, `lyrics` and `times` are the probabilities that a window lacks that condition. `jitter` is the standard deviation
    of the noise on lyric times, in seconds.
    """

    labels: float = 0.0
    lyrics: float = 0.0
    times: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True)
class PreparedSong:
    """A song as ids: artist, genres, and lyric tokens with a time for each token (nan: unknown)."""

    artist: int
    genres: tuple[int, ...]
    ids: Int[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]  # time of the middle of each token
    words: Float[np.ndarray, "n 2"]  # begin and end of the word that contains each token, in seconds
    total: int  # samples of the whole song
    tokens: Tokens

    @staticmethod
    def of(song: Song, labels: Labels, vocabulary: Vocabulary, sample_rate: int) -> PreparedSong:
        text = song.lyrics or ""
        tokens = vocabulary.encode(text)
        when = character_seconds(text, song.word_times) if song.word_times else np.full(len(text), np.nan, np.float32)
        return PreparedSong(
            labels.artist_id(song.artist),
            tuple(labels.genre_ids(song.genres)),
            tokens.ids,
            when[tokens.positions] if len(tokens.ids) else np.zeros(0, np.float32),
            word_seconds(text, song.word_times)[tokens.positions] if len(tokens.ids) else np.zeros((0, 2)),
            round(song.seconds * sample_rate),
            tokens,
        )


def window_conditions(
    song: PreparedSong,
    config: PriorConfig,
    start: int,
    above: Int[np.ndarray, " s"] | None = None,
    dropout: ConditionDropout | None = None,
    rng: np.random.Generator | None = None,
) -> Conditions:
    """Compute the conditions of a prior's window that starts at frame `start`, as a batch of one.

    `above` has the frames of the stream above in this window. In training, `dropout` and `rng` drop labels, lyrics and lyric
    times at random and add noise to lyric times.
    """
    import torch

    from priors.conditioning.conditions import Conditions
    from priors.conditioning.config import FrameLyricConfig, LyricConfig
    from vqvae.codec import as_tensor

    def chance(p: float) -> bool:
        return rng is not None and p > 0 and rng.random() < p

    dropout = dropout or ConditionDropout()
    offset, length = start * config.hop, config.n_ctx * config.hop
    fields: dict = {}
    if config.labels:
        known = not chance(dropout.labels)
        bag = (list(song.genres) if known else [0])[: config.labels.max_genres]
        fields["artist"] = torch.tensor([song.artist if known else 0], device="cpu")
        fields["genres"] = torch.tensor([bag + [-1] * (config.labels.max_genres - len(bag))], device="cpu")
        if config.labels.timing_bins:
            fields["timing"] = torch.tensor([[max(song.total, offset + 1), offset, length]], device="cpu")
    if isinstance(config.lyrics, LyricConfig):
        ids, seconds = (song.ids, song.seconds) if not chance(dropout.lyrics) else (song.ids[:0], song.seconds[:0])
        if chance(dropout.times):
            seconds = np.full_like(seconds, np.nan)
        elif rng is not None and dropout.jitter:
            seconds = seconds + rng.normal(0.0, dropout.jitter, len(seconds)).astype(np.float32)
        fields["lyrics"] = _lyric_window(ids, seconds, config, max(song.total, offset + 1), offset, length)
    if isinstance(config.lyrics, FrameLyricConfig):
        begin = offset / config.sample_rate
        if rng is not None and dropout.jitter:
            begin += rng.normal(0.0, dropout.jitter)
        words = song.words[:0] if chance(dropout.lyrics) or chance(dropout.times) else song.words
        fields["sung"] = sung_frames(
            song.ids, words, begin, length / config.sample_rate, config.n_ctx * config.lyrics.per_frame
        )
    if above is not None:
        fields["above"] = as_tensor(np.ascontiguousarray(above))[None]
    return Conditions(**fields)


def sung_frames(
    ids: Int[np.ndarray, " n"], words: Float[np.ndarray, "n 2"], begin: float, seconds: float, places: int
) -> SungFrames:
    """Find the token that is sung at each of `places` evenly spaced times of a window, as a batch of one.

    The window begins at second `begin` and lasts `seconds`. The tokens of a word divide the duration of the word evenly.
    """
    import torch

    from priors.conditioning.conditions import SungFrames

    when = begin + (np.arange(places) + 0.5) * (seconds / places)
    sung, left = np.zeros(places, np.int64), np.zeros(places, np.float32)
    known = np.flatnonzero(~np.isnan(words[:, 0])) if len(words) else np.zeros(0, np.int64)
    if len(known):
        starts = np.flatnonzero(np.r_[True, (words[known][1:] != words[known][:-1]).any(axis=1)])  # first token of each word
        counts = np.diff(np.r_[starts, len(known)])
        bounds, first = words[known[starts]], known[starts]
        order = np.argsort(bounds[:, 0], kind="stable")
        at = order[np.clip(np.searchsorted(bounds[order, 0], when, side="right") - 1, 0, None)]
        share = (when - bounds[at, 0]) / np.maximum(bounds[at, 1] - bounds[at, 0], 1e-6)
        inside = (share >= 0) & (share < 1)
        token = first[at] + np.minimum((share.clip(0, 1) * counts[at]).astype(np.int64), counts[at] - 1)
        sung[inside], left[inside] = ids[token[inside]], 1 - share[inside]
    return SungFrames(torch.from_numpy(sung)[None], torch.from_numpy(left)[None])


def _lyric_window(ids, seconds, config: PriorConfig, total: int, offset: int, length: int) -> Lyrics:
    import torch

    from priors.conditioning.conditions import Lyrics
    from priors.conditioning.vocabulary import linear_window, timed_window

    n = config.n_tokens
    if not np.isnan(seconds).all():
        first = timed_window(seconds, n, (offset + length / 2) / config.sample_rate)
    else:
        first = linear_window(len(ids), n, total, offset, length)
    pad, first = max(0, -first), max(0, first)
    window = np.concatenate([np.zeros(pad, np.int64), ids[first : first + n - pad]])
    when = np.concatenate([np.full(pad, np.nan), seconds[first : first + n - pad] - offset / config.sample_rate])
    return Lyrics(torch.from_numpy(window)[None], torch.from_numpy(when.astype(np.float32))[None])


def unknown_names(song: Song, labels: Labels) -> list[str]:
    """Return a warning for each artist or genre outside the model's labels; the model treats such a name as unknown."""
    named = [("artist", song.artist, labels.artists), *(("genre", genre, labels.genres) for genre in song.genres)]
    return [
        f"the model knows no {what} {name!r} and takes it as unknown; it knows {', '.join(known[1:9]) or 'none'}"
        for what, name, known in named
        if name and name != known[0] and (labels.artist_id(name) if what == "artist" else labels.genre_ids([name])[0]) == 0
    ]


def without_effect(song: Song, info: ModelInfo) -> list[str]:
    """Return a warning if a song has lyrics but no prior of the model was trained with lyrics."""
    if not song.lyrics or not info.priors or any(entry.knows_lyrics for entry in info.priors.values()):
        return []
    return ["the model was trained without lyrics, they have no effect; train a prior on songs with lyrics (docs/training.md)"]


def left_out(vocabulary: Vocabulary, texts: Sequence[str]) -> list[str]:
    """Return a warning for each text with characters outside the vocabulary."""
    lines = []
    for text in dict.fromkeys(text for text in texts if text):
        if dropped := vocabulary.encode(text).dropped:
            listed = ", ".join(f"{character!r} x{count}" for character, count in dropped.most_common(8))
            lines.append(f"left out of the lyrics, because the model has no character for it: {listed}")
    return lines


def prepare_all(songs: Sequence[Song], labels: Labels, vocabulary: Vocabulary, sample_rate: int) -> list[PreparedSong]:
    return [PreparedSong.of(song, labels, vocabulary, sample_rate) for song in songs]


def song_of(row: SongRow) -> Song:
    """Convert a row of the manifest to a Song."""
    return Song(row.artist, row.genres, row.lyrics, row.word_times, row.seconds)
