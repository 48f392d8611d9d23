"""Checks of audio while the audio is written, in blocks and nearly constant memory. Findings are printed and shown on the page.

    clipped     samples beyond full scale, which the file cannot hold: 10 or more, and more than 1 in 1000 or by more than 1 dB
    silent      a peak below -60 dBFS for more than 4 s, or in the whole audio
    not finite  nan or infinite values; silence is written in their place
    repeated    one frame of codes repeated for more than 1 s, while the audio is not silent
    noise       2 s of even level without tones: noise of any colour, the output of an untrained decoder
    constant    2 s of an unchanging level: the hum of an untrained decoder

Audio is noise if its level is even, and its spectrum is flat or has no lines. The level is even if the standard deviation over
frames of 23 ms is below 1.5 dB. The spectrum is flat if the median spectral flatness of frames of 186 ms is above .36; white
noise has .56. The spectrum has no lines if less than .05 of the energy from 60 to 5000 Hz is in line bins. A line bin is 10 dB
above the median of its band of 16 bins. Noise of any colour has .01 to .04. Music of even level has more than .09, and a drum
solo has no even level.

A finding is an object in run.json with "kind", "start" and "end" (seconds of the first place) and "text". A finding about one
sample at one level also has "level" and "sample".
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

QUIET, LOUD = 1e-3, -60  # thresholds: amplitude of silence, and dBFS below which audio is not classified
SILENCE, SHORT_SILENCE, REPEAT, PIECE = 4.0, 0.5, 1.0, 2.0  # seconds
FRAME, PARTS, SPECTRA = 0.186, 8, 4  # seconds per spectrum, level frames per spectrum, spectra per piece
EVEN, CONSTANT = 1.5, 0.1  # largest standard deviation of the level, dB
FLAT, LINES, BAND = 0.36, 0.05, 16
KINDS = ("not finite", "clipped", "silent", "repeated", "noise", "constant")
OF_CODES = ("repeated", "not finite")  # findings of a coarse level that affect finer levels
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
    """Return a line for each finding of a run, or of `samples`.

    Findings of a coarser level are included only if they affect finer levels.
    """
    found = [each for each in request.get("findings", ()) if samples is None or each.get("sample", samples[0]) in samples]
    finest = [level for level in request["levels"] if level not in request.get("encodes", ())][-1]
    lines = []
    for each in found:
        if each.get("level", finest) == finest or each["kind"] in OF_CODES:
            of = f" of take {each['sample'] + 1}" if len(request["samples"]) > 1 and "sample" in each else ""
            lines.append(f"level {each['level']}{of}: {each['text']}" if "level" in each else each["text"])
    return lines


def no_beats(start: float, end: float) -> dict[str, Any]:
    """Return the finding that a prompt keeps beats but the recording has no clear beats."""
    return _finding("no beats", "--beat has no clear beats to keep", [(start, end)])


def _finding(kind: str, what: str, spans: Spans) -> dict[str, Any]:
    """Return the finding of one kind, whose text has the first span, the total length and advice."""
    (start, end), total = spans[0], sum(b - a for a, b in spans)
    more = f" and in {len(spans) - 1} more places, {total:.1f} s in all" if len(spans) > 1 else ""
    text = f"{what} from {start:.2f} s to {end:.2f} s{more}; {ADVICE[kind]}"
    return {"kind": kind, "start": round(start, 3), "end": round(end, 3), "text": text}


# ---- measures


def line_share(power: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
    """Share of the energy of each power spectrum in bins that are 10 dB above the median of their band of 16 bins."""
    bands = power[:, : power.shape[1] // BAND * BAND].reshape(len(power), -1, BAND)
    lines = bands * (bands > 10 * np.median(bands, axis=2, keepdims=True))
    return lines.sum((1, 2)) / np.maximum(bands.sum((1, 2)), 1e-20)


def flatness(power: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
    """Spectral flatness: the geometric mean over the arithmetic mean of each power spectrum."""
    return np.exp(np.log(power + 1e-20).mean(1)) / (power.mean(1) + 1e-20)


def levels(audio: Float[np.ndarray, " t"], size: int) -> Float[np.ndarray, " n"]:
    """Level of each frame of `size` samples, in dBFS."""
    frames = audio[: len(audio) // size * size].reshape(-1, size)
    return 10 * np.log10(np.einsum("nt,nt->n", frames, frames) / size + 1e-12)


@lru_cache(2)
def hann(size: int) -> Float[np.ndarray, " n"]:
    return np.hanning(size).astype(np.float32)


def kind_of(audio: Float[np.ndarray, " t"], sample_rate: int) -> str:
    """Classify a piece of audio as "noise", "constant" or "" (neither).

    Only pieces of even level are tested further, by about SPECTRA spectra.
    """
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
    """Number of samples per spectrum: the power of two nearest to FRAME seconds."""
    return 2 ** round(math.log2(FRAME * sample_rate))


def runs_of(true: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """Return the index range [start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def joined(spans: Spans, new: Spans, gap: float = 0.0, shortest: float = 0.0) -> None:
    """Append the spans `new` to `spans` in place.

    A span that begins at most `gap` after the last one is joined to the last one. A span that stays shorter than `shortest` is
    dropped.
    """
    for start, end in new:
        if spans and start <= spans[-1][1] + gap + 1e-9:
            spans[-1] = (spans[-1][0], end)
            continue
        if spans and spans[-1][1] - spans[-1][0] < shortest:
            spans.pop()
        spans.append((start, end))


def is_covered(span: tuple[float, float], spans: Spans) -> bool:
    """Whether `spans` cover more than 80 % of `span`."""
    return sum(max(0.0, min(span[1], end) - max(span[0], start)) for start, end in spans) > 0.8 * (span[1] - span[0])


# ---- checks during the writing


class OutputCheck:
    """Measures the audio and the codes of one sample in blocks of any size.

    The audio begins at second `start` of the result.
    """

    def __init__(self, sample_rate: int, codes_per_second: float = 0.0, start: float = 0.0) -> None:
        self.sample_rate, self.codes_per_second, self.start = sample_rate, codes_per_second, start
        size = spectrum_size(sample_rate)
        self.frame, self.piece = size // PARTS, round(PIECE * sample_rate / size) * size
        self.measured, self.clipped, self.not_finite, self.peak = 0, 0, 0, 0.0
        self.spans: dict[str, Spans] = {kind: [] for kind in KINDS}
        self.held: list[Float[np.ndarray, "c n"]] = []
        self.waiting = 0  # number of samples in `held`
        self.last: Shaped[np.ndarray, "1 *frame"] | None = None
        self.codes, self.repeats = 0, 0  # frames of codes so far, and repetitions at their end

    def push(self, audio: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c n"]:
        """Measure a block of audio, and return the block with zeros in place of values that are not finite."""
        clean = audio
        if audio.size and not (np.isfinite(audio.max()) and np.isfinite(audio.min())):  # max() is nan if any value is nan
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
        """Measure repetitions in a block of codes."""
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
        """Measure the last piece, and return all findings as json objects."""
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
        """Measure one piece; a shorter last piece is not classified as noise or constant."""
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
        """Add the runs of true frames of the current piece to the spans of a kind."""
        begin = self.measured / self.sample_rate
        second = self.frame / self.sample_rate
        joined(self.spans[kind], [(begin + first * second, begin + end * second) for first, end in runs_of(frames)], **limits)
