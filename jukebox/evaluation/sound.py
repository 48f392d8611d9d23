"""Musical metrics of one piece: tempo, scale, attacks, moving pitch, form, novelty.

Each metric is a function of audio, sample rate and the expected content. Each has a control that it must reject: shuffled bars,
shuffled frames, noise of the same spectrum, or a collage of training songs. The statistics of a whole piece
(`jukebox/evaluation/metrics.py`) do not reject several of these controls. `song_rows` compares pieces with controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.labels import name_key
from data_prep.synthetic.band import ARTISTS, GENRES, NEWCOMER, Artist, Genre
from jukebox.evaluation import metrics
from jukebox.evaluation.recogniser import Recogniser, label_accuracy, vowel_accuracy
from jukebox.evaluation.reconstruction import (
    SyntheticTruth,
    band_envelope,
    mono_sound,
    reconstruction_figures,
    rise_times,
    spectral_peaks,
)
from jukebox.song import Song

Audio = Float[np.ndarray, "*c t"] | Float[Tensor, "*c t"]
Codes = Int[np.ndarray, "t books"]
NO_ATTACK = 40.0  # ms, the limit of `rise_times`

# ---- pulse and attacks


def tempo(audio: Audio, sample_rate: int, lowest: float = 80.0) -> float:
    """Tempo in beats per minute, between `lowest` and twice `lowest`.

    The beat period has the largest mean autocorrelation of the onset strength at its first eight multiples. Tempi that
    differ by octaves have the same result. Other ratios (2/3, 3/4) are errors.
    """
    flux = metrics.spectral_flux(mono_sound(audio), sample_rate, 100)
    flux = flux - flux.mean()
    size = 2 ** math.ceil(math.log2(2 * len(flux)))
    repeats = torch.fft.irfft(torch.fft.rfft(flux, size).abs().square(), size)[: len(flux)]
    repeats = repeats / torch.arange(len(flux), 0, -1)  # long lags have fewer terms
    bpm = lowest * 2 ** torch.linspace(0, 1, 300)
    lags = (torch.arange(1, 9)[:, None] * 6000 / bpm).clamp(max=len(flux) - 2)  # (8, 300) frames
    below = lags.long()
    return bpm[torch.lerp(repeats[below], repeats[below + 1], lags - below).mean(0).argmax()].item()


def tempo_is_right(audio: Audio, sample_rate: int, bpm: float, tolerance: float = 0.04) -> bool:
    """Whether the tempo is within `tolerance` (relative) of `bpm` or of an octave of `bpm`."""
    octaves = math.log2(tempo(audio, sample_rate) / bpm)
    return abs(octaves - round(octaves)) < math.log2(1 + tolerance)


def find_strokes(audio: Audio, sample_rate: int, low: float = 2600.0, high: float = 5500.0) -> list[float]:
    """Return the times in seconds at which the level between `low` and `high` Hz rises by more than 9 dB within 20 ms."""
    hop = sample_rate // 400
    level = 10 * band_envelope(audio, sample_rate, low, high, 0.01)[::hop].clamp(min=1e-10).log10()
    level = level.clamp(min=level.max().item() - 40)
    rise = F.pad(level[8:] - level[:-8], (8, 0))
    largest = F.max_pool1d(rise[None], 41, stride=1, padding=20)[0]
    at = ((rise == largest) & (rise > 9)).nonzero()[:, 0]
    return ((at - 4) * hop / sample_rate).tolist()


def attack(audio: Audio, sample_rate: int, strokes: Sequence[float] | None = None) -> float:
    """Median rise time (10-90 %) in ms of the drum strokes at `strokes` (seconds); None detects the strokes.

    A piece without strokes has NO_ATTACK, so that it does not score better.
    """
    found = rise_times(audio, sample_rate, find_strokes(audio, sample_rate) if strokes is None else strokes)
    return float(np.median(found)) if found else NO_ATTACK


# ---- pitch


def in_scale(audio: Audio, sample_rate: int, scale: Sequence[int], tonics: Sequence[int]) -> float:
    """Share of spectral peaks (100-2000 Hz, weighted by amplitude) with a pitch class of the scale, for the best of the tonics.

    White noise has a share of about 7/12, noise with the song's spectrum nearly the share of the song, one held note 1. Use
    this metric together with `progression`, which excludes noise and held notes.
    """
    hz, level = spectral_peaks(mono_sound(audio), sample_rate, 10, 0.186, (100.0, 2000.0))
    pitch = (69 + 12 * (hz / 440).log2()).round().long() % 12
    weight = torch.zeros(12).index_add_(0, pitch.reshape(-1), level.reshape(-1))
    weight = weight / weight.sum().clamp(min=1e-9)
    return max(weight[[(tonic + degree) % 12 for degree in scale]].sum().item() for tonic in tonics)


def moving_pitch(audio: Audio, sample_rate: int, partials: int = 4) -> float:
    """Share of frames in which at least `partials` spectral peaks move together: vibrato and glides of a voice.

    Peaks of 250-3000 Hz (46 ms frames, interpolated) are matched with the peaks 30 ms later. Peaks move together if their
    shifts are more than 6 cents and agree within 3 cents. This holds for the harmonics of one voice, but not for peaks of
    noise or of steady notes.
    """
    hz, level = spectral_peaks(mono_sound(audio), sample_rate, 100, 0.046, (250.0, 3000.0), padding=4)
    cents = torch.where(level > 0, 1200 * hz.log2(), torch.inf).sort(1).values[:, :40]  # the lowest 40 peaks
    shift = cents[3:, None, :] - cents[:-3, :, None]  # (T, before, after)
    shift = torch.where(shift.isfinite(), shift, 1e6)
    shift = shift.gather(2, shift.abs().argmin(2, keepdim=True))[..., 0]
    moves = (shift.abs() > 6) & (shift.abs() < 70)
    agrees = (shift[:, :, None] - shift[:, None, :]).abs() < 3
    together = (agrees & moves[:, :, None] & moves[:, None, :]).sum(2).amax(1)
    return (together >= partials).float().mean().item()


def progression(audio: Audio, sample_rate: int, bar: float) -> float:
    """Chroma similarity at a lag of 4 bars, minus the mean similarity at 2, 2.5 and 3 bars; nan for less than five bars.

    A bar has `bar` seconds. Similarity is the mean cosine of chroma after subtraction of the piece's mean. The result is above
    0 if a progression of four bars repeats.
    """
    classes = metrics.chroma(mono_sound(audio), sample_rate, 10)
    classes = F.normalize(classes - classes.mean(1, keepdim=True), dim=0)
    if classes.shape[1] < 50 * bar:
        return math.nan

    def similarity(bars: float) -> float:
        lag = round(10 * bars * bar)
        return (classes[:, lag:] * classes[:, :-lag]).sum(0).mean().item()

    return similarity(4) - (similarity(2) + similarity(2.5) + similarity(3)) / 3


# ---- novelty


def longest_shared_run(codes: Codes, training: Sequence[Codes]) -> int:
    """Length in frames of the longest run of `codes` that occurs in a training song, with equal codes in all books.

    The result is exact. Equal runs of length 2^k get equal numbers, computed from the numbers of their halves (Karp, Miller and
    Rosenberg 1972).
    """
    songs = [np.asarray(song) for song in (codes, *training) if len(song)]
    frames = np.concatenate(songs)
    _, numbers = np.unique(frames, axis=0, return_inverse=True)
    owner = np.repeat(np.arange(len(songs)), [len(song) for song in songs])  # 0 is the piece
    ranks = [numbers.reshape(-1).astype(np.int64)]

    def shared(length: int) -> bool:
        while 2 ** len(ranks) <= length:
            ranks.append(_join(ranks[-1], 2 ** (len(ranks) - 1), len(frames) - 2 ** len(ranks) + 1))
        k = length.bit_length() - 1
        joined = _join(ranks[k], length - 2**k, len(frames) - length + 1)
        whole = owner[: len(joined)] == owner[length - 1 :]
        own = whole & (owner[: len(joined)] == 0)
        return bool(np.isin(joined[own], joined[whole & ~own]).any())

    low, high = 0, len(codes) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= len(frames) and shared(middle) else (low, middle)
    return low


def _join(ranks: Int[np.ndarray, " n"], step: int, count: int) -> Int[np.ndarray, " m"]:
    """Number the first `count` pairs of runs that begin `step` frames apart, so that equal pairs get equal numbers."""
    pairs = ranks[:count] * (int(ranks.max()) + 1) + ranks[step : step + count]
    return np.unique(pairs, return_inverse=True)[1].astype(np.int64)


def chroma_track(audio: Audio, sample_rate: int) -> Float[Tensor, "12 n"]:
    """Chroma of unit norm, 4 frames per second, as the input of `nearest_song`."""
    return F.normalize(metrics.chroma(mono_sound(audio), sample_rate, 4), dim=0)


def nearest_song(audio: Audio, sample_rate: int, training: Sequence[Float[Tensor, "12 n"]]) -> float:
    """Smallest cosine distance (0 for a copy) between the chroma of audio and of a training song, at the best lag.

    Pieces are not transposed. Lags leave an overlap of at least half of the shorter piece.

    training: chroma tracks of the training songs
    """
    piece, best = chroma_track(audio, sample_rate), 2.0
    for song in training:
        least = min(piece.shape[1], song.shape[1]) // 2
        pad = piece.shape[1] - least
        total = F.conv1d(F.pad(song, (pad, pad))[None], piece[None])[0, 0]
        overlap = F.conv1d(F.pad(torch.ones(1, song.shape[1]), (pad, pad))[None], torch.ones(1, 1, piece.shape[1]))[0, 0]
        best = min(best, 1 - (total / overlap).max().item())
    return best


# ---- controls


def coloured_noise(wave: np.ndarray, seed: int = 0) -> np.ndarray:
    """Noise with the long-term spectrum of `wave` (C, T): the phases are random."""
    spectrum = np.fft.rfft(wave)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, spectrum.shape)
    return np.fft.irfft(np.abs(spectrum) * np.exp(1j * phases), n=wave.shape[-1]).astype(np.float32)


def shuffled(audio: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return audio with its pieces of `size` samples (a bar, a frame) in random order. The remainder stays at the end."""
    count = audio.shape[-1] // size
    cut = np.split(audio, [size * i for i in range(1, count + 1)], axis=-1)
    return np.concatenate([*(cut[i] for i in rng.permutation(count)), *cut[count:]], axis=-1)


def shuffled_codes(codes: Codes, rng: np.random.Generator) -> Codes:
    """Return the frames of `codes` in random order."""
    return codes[rng.permutation(len(codes))]


def unigram_codes(training: Sequence[Codes], frames: int, rng: np.random.Generator) -> Codes:
    """Sample codes (frames, books) without context, from the frequencies of each book in the training songs."""
    everything = np.concatenate(training)
    return np.stack([rng.choice(book, frames) for book in everything.T], 1)


def collage(training: Sequence[np.ndarray], samples: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Join pieces of `size` samples from random places of random training songs to audio of (C, samples)."""
    parts = []
    for _ in range(-(-samples // size)):
        song = training[int(rng.integers(len(training)))]
        start = int(rng.integers(song.shape[-1] - size + 1))
        parts.append(song[..., start : start + size])
    return np.concatenate(parts, axis=-1)[..., :samples]


# ---- pieces and their controls


class EvaluatedSong(NamedTuple):
    """Audio to evaluate, and reference data as far as they are known."""

    audio: np.ndarray
    song: Song  # the expected content
    codes: Codes | None = None  # of the audio
    original: np.ndarray | None = None  # the recording, if the audio is a reconstruction
    truth: SyntheticTruth | None = None  # events of the original


@dataclass(frozen=True)
class TrainingSongs:
    """Reference data of training songs: chroma tracks (`chroma_track`), codes and features (`metrics.sound_features`)."""

    tracks: Sequence[Float[Tensor, "12 n"]] = ()
    codes: Sequence[Codes] = field(default=())
    features: Float[Tensor, "n d"] | None = None


def named_artist(song: Song) -> Artist | None:
    """Return the synthetic artist of a song; None if the song has another artist or none."""
    return next((a for a in (*ARTISTS, NEWCOMER) if name_key(a.name) == name_key(song.artist or "")), None)


def named_genre(song: Song) -> Genre | None:
    """Return the synthetic genre of a song; None if the song has only other genres or none."""
    return next((g for g in GENRES if name_key(g.name) in map(name_key, song.genres)), None)


def control_pieces(
    pieces: Sequence[EvaluatedSong], training: Sequence[np.ndarray], sample_rate: int, seed: int = 0
) -> dict[str, list[EvaluatedSong]]:
    """Return the controls of the true `pieces` by name: the same songs with false conditions, or with false audio."""
    rng = np.random.default_rng(seed)
    others = [_other(piece, pieces, i) for i, piece in enumerate(pieces)]

    def words(song: Song, other: Song) -> Song:
        return replace(song, lyrics=other.lyrics, word_times=other.word_times)

    def labels(song: Song, other: Song) -> Song:
        return replace(song, artist=other.artist, genres=other.genres)

    def audio(change: Callable[[np.ndarray, Song], np.ndarray]) -> list[EvaluatedSong]:
        return [EvaluatedSong(change(piece.audio, piece.song), piece.song) for piece in pieces]

    def bars(wave: np.ndarray, song: Song) -> np.ndarray:
        genre = named_genre(song)
        return shuffled(wave, round((genre.bar * genre.beat if genre else 2.0) * sample_rate), rng)

    found = {
        "another song's lyrics": [EvaluatedSong(p.audio, words(p.song, o)) for p, o in zip(pieces, others, strict=True)],
        "another's labels": [EvaluatedSong(p.audio, labels(p.song, o)) for p, o in zip(pieces, others, strict=True)],
        "bars shuffled": audio(bars),
        "frames of 50 ms shuffled": audio(lambda wave, _: shuffled(wave, sample_rate // 20, rng)),
        "noise of the same spectrum": audio(lambda wave, _: coloured_noise(wave, int(rng.integers(2**31)))),
    }
    if training:
        found["collage of 1 s"] = audio(lambda wave, _: collage(training, wave.shape[-1], sample_rate, rng))
    return found


def _other(piece: EvaluatedSong, pieces: Sequence[EvaluatedSong], at: int) -> Song:
    """Return the next song with another artist and another genre; if there is none, the next song."""
    later = [p.song for p in (*pieces[at + 1 :], *pieces[:at])]
    differs = [s for s in later if s.artist != piece.song.artist and s.genres != piece.song.genres]
    return (*differs, *later, piece.song)[0]


def piece_figures(piece: EvaluatedSong, recogniser: Recogniser, training: TrainingSongs) -> dict[str, float]:
    """Compute every metric of one piece. A metric is nan if its input is unknown."""
    rate, artist, genre = recogniser.config.sample_rate, named_artist(piece.song), named_genre(piece.song)
    read_artist, read_genre = label_accuracy(recogniser, piece.audio, piece.song)
    statistics, features = metrics.sound_statistics(piece.audio, rate), metrics.sound_features(piece.audio, rate)
    found = {
        "frechet": math.nan if training.features is None else metrics.frechet_distance(training.features, features),
        "peakiness": statistics.peakiness,
        "onsets": statistics.onsets,
        "artist": read_artist,
        "genre": read_genre,
        "vowels": vowel_accuracy(recogniser, piece.audio, piece.song),
        "tempo": float(tempo_is_right(piece.audio, rate, genre.bpm)) if genre else math.nan,
        "in_scale": in_scale(piece.audio, rate, artist.scale, artist.tonics) if artist else math.nan,
        "attack_ms": attack(piece.audio, rate),
        "moving_pitch": moving_pitch(piece.audio, rate),
        "progression": progression(piece.audio, rate, genre.bar * genre.beat) if genre else math.nan,
        "nearest_song": nearest_song(piece.audio, rate, training.tracks) if training.tracks else math.nan,
        "shared_s": math.nan,
    }
    if piece.codes is not None and len(piece.codes) and training.codes:
        seconds = np.shape(piece.audio)[-1] / rate
        found["shared_s"] = longest_shared_run(piece.codes, training.codes) * seconds / len(piece.codes)
    if piece.original is not None:
        found["mel_db"] = metrics.mel_distance(mono_sound(piece.original), mono_sound(piece.audio), rate)
        found |= reconstruction_figures(piece.original, piece.audio, rate, piece.truth)
    return found


def song_rows(
    groups: Mapping[str, Sequence[EvaluatedSong]], recogniser: Recogniser, training: TrainingSongs | None = None
) -> list[dict[str, str | int | float | None]]:
    """Return a row for each group, for json: the mean of each metric over the pieces, and its standard error as `NAME_se`.

    Pieces without a value do not count. The mean of no values and the error of fewer than two values are None.
    """
    rows: list[dict[str, str | int | float | None]] = []
    for name, pieces in groups.items():
        figures = [piece_figures(piece, recogniser, training or TrainingSongs()) for piece in pieces]
        row: dict[str, str | int | float | None] = {"what": name, "pieces": len(pieces)}
        for key in dict.fromkeys(key for one in figures for key in one):
            values = [one[key] for one in figures if math.isfinite(one.get(key, math.nan))]
            mean, error = metrics.mean_and_error(values) if values else (math.nan, math.nan)
            row |= {key: mean if values else None, f"{key}_se": error if len(values) > 1 else None}
        rows.append(row)
    return rows


def song_table(rows: Sequence[Mapping[str, str | int | float | None]]) -> str:
    """Format the rows of `song_rows` as plain text. Each cell has the mean and its standard error."""
    keys = dict.fromkeys(k for row in rows for k in row if k not in ("what", "pieces") and not k.endswith("_se"))
    keys = [key for key in keys if any(row.get(key) is not None for row in rows)]

    def cell(row: Mapping[str, str | int | float | None], key: str) -> str | None:
        mean, error = row.get(key), row.get(f"{key}_se")
        return None if mean is None else f"{mean:.2f}" + ("" if error is None else f" +-{error:.2f}")

    return metrics.table([["sound", *keys], *[[row["what"], *[cell(row, key) for key in keys]] for row in rows]])
