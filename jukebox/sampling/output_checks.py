"""Checks of audio while it is written, in blocks and nearly constant memory; findings are printed and shown on the page.

    clipped     samples beyond full scale, which the file cannot hold: 10 or more, and more than 1 in 1000 or by more than 1 dB
    silent      a peak below -60 dBFS for more than 4 s, or in all of it
    not finite  nan or infinite values; silence is written in their place
    repeated    one frame of codes for more than 1 s where the audio is not silent
    noise       2 s of even level without tones: noise of any colour, as an untrained decoder makes it
    constant    2 s of an unchanging level: the hum of an untrained decoder

Noise is even: the levels of frames of 23 ms spread by less than 1.5 dB. It is also flat or without lines. Flat means a median
spectral flatness of frames of 186 ms above .36; white noise has .56. Without lines means that less than .05 of the energy of 60
to 5000 Hz is in bins 10 dB above the median of their band of 16 bins. Noise of any colour has .01 to .04. Music has lines
(above .09 if it is even), and a drum solo is not even.

An object of run.json has "kind", "start" and "end" (seconds of the first place), "text", and "level" and "sample" where it is
of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from data_prep.audio.blocks import is_clipped

Spans = list[tuple[float, float]]  # seconds [start, end)

QUIET, LOUD = 1e-3, -60  # of full scale, and in dBFS
SILENCE, SHORT_SILENCE, REPEAT, PIECE = 4.0, 0.5, 1.0, 2.0  # seconds
FRAME, PARTS, SPECTRA = 0.186, 8, 4  # seconds of a spectrum, its parts whose levels are compared, spectra of a piece
EVEN, CONSTANT = 1.5, 0.1  # spread of levels, dB
FLAT, LINES, BAND = 0.36, 0.05, 16
KINDS = ("not finite", "clipped", "silent", "repeated", "noise", "constant")
OF_CODES = ("repeated", "not finite")  # findings of a coarse level that affect the finer ones
UNTRAINED = "the model may be untrained, or the codes may be of another model: train it further (`jukebox report train`)"
ADVICE = {
    "not finite": "silence is written there; the weights are damaged or overflow: try --dtype float32, or an earlier checkpoint",
    "clipped": "use a quieter recording, another --seed or a lower --temperature",
    "silent": "check that the recording or prompt is not silent, or use another --seed",
    "repeated": "use another --seed or a higher --temperature",
    "noise": UNTRAINED,
    "constant": UNTRAINED,
    "no beats": "name another prompt, such as --periodic or --onset, or a range or recording with a beat",
}


def lines_of(request: Mapping[str, Any], samples: Sequence[int] | None = None) -> list[str]:
    """A line for each finding of a run: all of its finest level, and those of a coarser level that affect finer ones."""
    found = [each for each in request.get("findings", ()) if samples is None or each.get("sample", samples[0]) in samples]
    finest = [level for level in request["levels"] if level not in request.get("encodes", ())][-1]
    lines = []
    for each in found:
        if each.get("level", finest) == finest or each["kind"] in OF_CODES:
            of = f" of take {each['sample'] + 1}" if len(request["samples"]) > 1 and "sample" in each else ""
            lines.append(f"level {each['level']}{of}: {each['text']}" if "level" in each else each["text"])
    return lines


def no_beats(start: float, end: float) -> dict[str, Any]:
    """The finding that beats were to be kept but none are clear."""
    return _finding("no beats", "--beat has no clear beats to keep", [(start, end)])


def _finding(kind: str, what: str, spans: Spans) -> dict[str, Any]:
    """The record of one kind of finding: its first position, its total length, and what to do."""
    (start, end), total = spans[0], sum(b - a for a, b in spans)
    more = f" and in {len(spans) - 1} more places, {total:.1f} s in all" if len(spans) > 1 else ""
    text = f"{what} from {start:.2f} s to {end:.2f} s{more}; {ADVICE[kind]}"
    return {"kind": kind, "start": round(start, 3), "end": round(end, 3), "text": text}


# ---- measures


def line_share(power: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
    """The share of the energy of each frame in bins 10 dB above the median of their band of 16 bins."""
    bands = power[:, : power.shape[1] // BAND * BAND].reshape(len(power), -1, BAND)
    lines = bands * (bands > 10 * np.median(bands, axis=2, keepdims=True))
    return lines.sum((1, 2)) / np.maximum(bands.sum((1, 2)), 1e-20)


def flatness(power: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
    """The geometric over the arithmetic mean of each power spectrum."""
    return np.exp(np.log(power + 1e-20).mean(1)) / (power.mean(1) + 1e-20)


def levels(audio: Float[np.ndarray, " t"], size: int) -> Float[np.ndarray, " n"]:
    """The level of each frame of `size` samples, in dB of full scale."""
    frames = audio[: len(audio) // size * size].reshape(-1, size)
    return 10 * np.log10(np.einsum("nt,nt->n", frames, frames) / size + 1e-12)


@lru_cache(2)
def hann(size: int) -> Float[np.ndarray, " n"]:
    return np.hanning(size).astype(np.float32)


def kind_of(audio: Float[np.ndarray, " t"], sample_rate: int) -> str:
    """Kind of a piece of audio: "noise", "constant" or ""; SPECTRA spectra of it are tested if its level is even."""
    size = spectrum_size(sample_rate)
    level = levels(audio, size // PARTS)
    if level.max() < LOUD or (spread := float(np.std(level))) > EVEN:
        return ""
    whole = audio[: len(audio) // size * size].reshape(-1, size)
    frames = whole[:: max(1, len(whole) // SPECTRA)] * hann(size)
    first, last = (round(hz * size / sample_rate) for hz in (60, min(5000, 0.4 * sample_rate)))
    power = np.square(np.abs(np.fft.rfft(frames)[:, first:last]))
    if np.median(flatness(power)) > FLAT or line_share(power).mean() < LINES:
        return "noise"
    return "constant" if spread < CONSTANT else ""


def spectrum_size(sample_rate: int) -> int:
    """Samples of a spectrum: the power of two nearest to FRAME."""
    return 2 ** round(math.log2(FRAME * sample_rate))


def runs_of(true: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """[start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def joined(spans: Spans, new: Spans, gap: float = 0.0, shortest: float = 0.0) -> None:
    """Append spans, each joined to the last where it begins at most `gap` after it; one that stays shorter than `shortest` is dropped."""
    for start, end in new:
        if spans and start <= spans[-1][1] + gap + 1e-9:
            spans[-1] = (spans[-1][0], end)
            continue
        if spans and spans[-1][1] - spans[-1][0] < shortest:
            spans.pop()
        spans.append((start, end))


def is_covered(span: tuple[float, float], spans: Spans) -> bool:
    """Whether spans cover most of another one."""
    return sum(max(0.0, min(span[1], end) - max(span[0], start)) for start, end in spans) > 0.8 * (span[1] - span[0])


# ---- while audio and codes come


class OutputCheck:
    """Measures the audio of one sample, and its codes if any; blocks may have any sizes.

    The audio begins `start` seconds into the result.
    """

    def __init__(self, sample_rate: int, codes_per_second: float = 0.0, start: float = 0.0) -> None:
        self.sample_rate, self.codes_per_second, self.start = sample_rate, codes_per_second, start
        size = spectrum_size(sample_rate)
        self.frame, self.piece = size // PARTS, round(PIECE * sample_rate / size) * size
        self.measured, self.clipped, self.not_finite, self.peak = 0, 0, 0, 0.0
        self.spans: dict[str, Spans] = {kind: [] for kind in KINDS}
        self.held: list[Float[np.ndarray, "c n"]] = []
        self.waiting = 0  # samples that are held
        self.last: Shaped[np.ndarray, "1 *frame"] | None = None
        self.codes, self.repeats = 0, 0  # number of frames of codes, and of the last equal ones

    def push(self, audio: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c n"]:
        """Measure a block; return it with silence in place of values that are not finite."""
        clean = audio
        if audio.size and not (np.isfinite(audio.max()) and np.isfinite(audio.min())):  # nan is the maximum where there is one
            bad = ~np.isfinite(audio)
            clean, at = np.where(bad, np.float32(0), audio), self.measured + self.waiting
            self.not_finite += int(bad.sum())
            runs = [(at + first, at + end) for first, end in runs_of(bad.max(axis=0))]
            joined(self.spans["not finite"], [(a / self.sample_rate, b / self.sample_rate) for a, b in runs], gap=1.0)
        self.held.append(clean)
        self.waiting += clean.shape[1]
        if self.waiting >= self.piece:
            joint = np.concatenate(self.held, axis=1)
            whole = joint.shape[1] // self.piece * self.piece
            for first in range(0, whole, self.piece):
                self._measure(joint[:, first : first + self.piece])
            self.held, self.waiting = [joint[:, whole:]], joint.shape[1] - whole
        return clean

    def push_codes(self, codes: Shaped[np.ndarray, "t *frame"]) -> None:
        """Measure frames of codes: the length of repetitions."""
        if not len(codes):
            return
        before = codes[:1] if self.last is None else self.last
        same = (codes == np.concatenate([before, codes[:-1]])).reshape(len(codes), -1).all(1)
        same[0] &= self.last is not None
        for first, end in runs_of(same):
            begun = self.repeats if first == 0 else 0
            if begun + end - first >= REPEAT * self.codes_per_second:
                span = self.codes + first - begun - 1, self.codes + end
                joined(self.spans["repeated"], [(span[0] / self.codes_per_second, span[1] / self.codes_per_second)])
        changes = np.flatnonzero(~same)
        self.repeats = len(same) - 1 - int(changes[-1]) if len(changes) else self.repeats + len(same)
        self.codes, self.last = self.codes + len(codes), codes[-1:].copy()

    def finish(self) -> list[dict[str, Any]]:
        """All findings, ready for json."""
        if self.held and self.held[0].size:
            self._measure(np.concatenate(self.held, axis=1))
            self.held, self.waiting = [], 0
        spans, seconds = dict(self.spans), self.measured / self.sample_rate
        loudest = f"peak {self.peak:.2f}, {20 * math.log10(max(self.peak, QUIET)):+.1f} dBFS"
        what = {
            "not finite": f"{self.not_finite} values that are not finite",
            "clipped": f"{self.clipped} samples are clipped ({loudest})",
            "silent": "silence",
            "repeated": "one code is repeated",
            "noise": "noise without tones",
            "constant": "a hum that does not change",
        }
        spans["repeated"] = [span for span in spans["repeated"] if not is_covered(span, spans["silent"])]
        spans["clipped"] = spans["clipped"] if is_clipped(self.clipped, self.peak, self.measured) else []
        spans["silent"] = [(a, b) for a, b in spans["silent"] if b - a > min(SILENCE, 0.999 * seconds)]
        placed = {kind: [(self.start + a, self.start + b) for a, b in where] for kind, where in spans.items() if where}
        return [_finding(kind, what[kind], where) for kind, where in placed.items()]

    def _measure(self, piece: Float[np.ndarray, "c n"]) -> None:
        """Findings of one piece; the last piece, which may be shorter, is not classified."""
        frames = -(-piece.shape[1] // self.frame)
        rest = -piece.shape[1] % self.frame
        parts = (np.pad(piece, ((0, 0), (0, rest))) if rest else piece).reshape(len(piece), frames, self.frame)
        peaks = np.maximum(parts.max(axis=(0, 2)), -parts.min(axis=(0, 2)))
        self.peak = max(self.peak, float(peaks.max()))
        if self.peak > 1:
            self.clipped += int((np.abs(piece) > 1).sum())
        self._add("clipped", peaks > 1, gap=1.0)
        self._add("silent", peaks < QUIET, shortest=SHORT_SILENCE)
        if piece.shape[1] == self.piece and (kind := kind_of(piece[0] if len(piece) == 1 else piece.mean(0), self.sample_rate)):
            self._add(kind, np.ones(frames, bool))
        self.measured += piece.shape[1]

    def _add(self, kind: str, frames: Bool[np.ndarray, " n"], **limits: float) -> None:
        """Note the runs of frames of the piece that is measured."""
        begin = self.measured / self.sample_rate
        second = self.frame / self.sample_rate
        joined(self.spans[kind], [(begin + first * second, begin + end * second) for first, end in runs_of(frames)], **limits)
