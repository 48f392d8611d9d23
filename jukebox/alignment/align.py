"""Alignment of lyrics: a prior that is conditioned on lyrics computes the times of a song's words.

Source: Jukebox, section 5.3 and figure 2. `scores.py` computes a score of each token at each code, by one of two methods.
`viterbi.py` finds the word times with the highest score. `find_way` measures the best method, layer and head on songs with
known times, and stores it with the prior in config.json. Imported models have a stored method. Without one, a prior with a time
bias uses the likelihood. For other priors, the head with the highest path score in this song is chosen and stored. This head
has the most monotone and sharp attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.align import TimedText, syllables
from data_prep.audio import audio as sound
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.manifest import audio_path, load_manifest
from data_prep.metadata.stamps import format_lrc
from data_prep.progress import ProgressBar
from jukebox.alignment.scores import AttentionScores, LikelihoodScores, LyricPrior, Scorer, Word, has_time_bias, words_of
from jukebox.alignment.viterbi import Chart
from jukebox.model.folder import ModelFolder
from jukebox.model.info import PriorEntry
from jukebox.report.spectrograms import write_page
from jukebox.runs.run import Run
from jukebox.runs.windows import starts
from jukebox.song import PreparedSong, Song, song_of
from priors.prior import ScoresLyrics
from priors.registry import PRIORS
from vqvae.codec import as_tensor

SHORTEST, LONGEST, LENGTHS = 0.1, 2.0, 20  # shortest and longest word in seconds, and number of lengths tried
BEAT, LOOSE = 0.3, 0.7  # without a measured pace: seconds per syllable, and deviation of the logarithm of a word's length
SPREAD = 0.3  # deviation of the logarithm with a measured pace
CREDIBLE = 0.2  # least mean confidence; instrumental recordings have .06
PLACES = 8.0  # binary logarithm of the number of possible positions of a word (one code apart)


class TimedWord(NamedTuple):
    """A word with its time in seconds."""

    word: str
    line: int  # number of its line
    start: float
    end: float
    confidence: float  # probability (0..1) of the word against a rest


@dataclass(frozen=True)
class Alignment:
    """Times of the words of a song."""

    words: tuple[TimedWord, ...]
    left_out: tuple[str, ...]  # words that were not found
    seconds: float  # length of the song
    way: dict[str, Any] = field(default_factory=dict)  # the method, as in config.json

    @property
    def confidence(self) -> float:
        """Mean confidence of all words. A word that was not found has confidence 0."""
        count = len(self.words) + len(self.left_out)
        return sum(word.confidence for word in self.words) / count if count else 0.0

    @property
    def doubt(self) -> str:
        """Warning if the alignment is not credible. It is empty for a credible alignment, or without words."""
        if self.confidence >= CREDIBLE or not (self.words or self.left_out):
            return ""
        return (
            f"the alignment is not credible (mean confidence {self.confidence:.2f}, expected at least {CREDIBLE:g}): "
            "the recording may be instrumental, the lyrics may be of another song, or the model may know no singing"
        )

    def to_json(self) -> dict[str, Any]:
        words = [word._asdict() for word in self.words]
        more = {"confidence": round(self.confidence, 4), "credible": not self.doubt}
        return {"seconds": self.seconds, "way": self.way, **more, "words": words, "left_out": list(self.left_out)}

    def lines(self) -> list[list[TimedText]]:
        """Return the found words with their times, by line."""
        lines = sorted({word.line for word in self.words})
        return [[TimedText(*w[:1], *w[2:4]) for w in self.words if w.line == line] for line in lines]

    def to_lrc(self) -> str:
        """Return the found words as the text of an .lrc file."""
        return format_lrc(self.lines())


def confidence(gain: float) -> float:
    """Probability of a word at the best of 2 ** PLACES positions. Its score exceeds the score of a rest by `gain` bits."""
    return 1 / (1 + 2.0 ** min(PLACES - gain, 60.0))


# ---- one song


def lyric_entry(model: ModelFolder) -> PriorEntry:
    """Return the coarsest prior conditioned on lyrics, preferably one that can score lyrics; UserError if there is none."""
    written = (model.info.writer(stream.name) for stream in reversed(model.spec.streams))
    entries = [entry for entry in written if entry and entry.config.lyrics]
    if entries:
        return next((each for each in entries if issubclass(PRIORS.load(each.config.kind), ScoresLyrics)), entries[0])
    raise UserError(
        f"no prior of {model.folder} is conditioned on lyrics, so lyrics cannot be aligned; train one on songs with lyrics "
        "(docs/training.md), or import 5b_lyrics or 1b_lyrics"
    )


def lyric_prior(model: ModelFolder, device: str = "cpu") -> tuple[PriorEntry, LyricPrior]:
    """Load the prior of `lyric_entry`; raise UserError if it cannot score lyrics."""
    entry = lyric_entry(model)
    prior = model.prior(entry.name).to(device)
    if not isinstance(prior, ScoresLyrics):
        raise UserError(
            f"the prior {entry.name} of {model.folder} ({prior.kind}) cannot score lyrics; align needs one that can"
        )
    return entry, prior


@dataclass(frozen=True)
class AlignmentTask:
    """A song to align, with the prior that scores its lyrics."""

    prior: LyricPrior
    codes: Int[Tensor, " t"]
    prepared: PreparedSong
    words: list[Word]
    beat: float  # seconds per syllable
    spread: float  # deviation of the logarithm of a word's length

    @staticmethod
    def of(model: ModelFolder, entry: PriorEntry, prior: LyricPrior, codes: Int[Tensor, " t"], song: Song) -> AlignmentTask:
        """Prepare a song for `prior`, which belongs to `entry`. `codes` are on the prior's device.

        Raise UserError if no word has a character of the vocabulary.
        """
        text = song.lyrics or ""
        bare = Song(song.artist, song.genres, text, (), song.seconds)  # without word times
        prepared = PreparedSong.of(bare, model.labels_of(entry.name), model.vocabulary, model.sample_rate)
        words, pace = words_of(prepared, text), model.labels.pace
        if not words:
            raise UserError(
                f"the lyrics have {len(text.split())} words and none with a character of {model.folder}'s vocabulary "
                "(lyrics.json); expected the words that are sung"
            )
        beat, spread = (pace.of(song.genres).beat, SPREAD) if pace else (BEAT, LOOSE)
        return AlignmentTask(prior, codes, prepared, words, beat, spread)

    @property
    def step(self) -> float:
        """Seconds per code."""
        return self.prior.config.hop / self.prior.config.sample_rate

    def chart(self) -> Chart:
        lengths = np.unique(np.maximum(1, np.round(np.geomspace(SHORTEST, LONGEST, LENGTHS) / self.step))).astype(int)
        expected = self.beat * np.array([syllables(word.text) for word in self.words])
        costs = (np.log(lengths * self.step / expected[:, None]) / self.spread) ** 2 / 2 / np.log(2)
        return Chart([word.last - word.first for word in self.words], lengths.tolist(), costs)

    def likelihood(self) -> LikelihoodScores:
        tokens = sum(word.last - word.first for word in self.words)
        pace = self.beat * sum(syllables(word.text) for word in self.words) / tokens
        return LikelihoodScores(self.prior, self.codes, self.prepared, self.words, pace)

    def attention(self, layer: int) -> list[Scorer]:
        """Return a scorer for each head of a layer."""
        return AttentionScores(self.prior, self.codes, self.prepared, self.words, layer).scorers()

    def follow(self, scorers: Sequence[Scorer], bar: ProgressBar | None = None) -> list[Chart]:
        """Run a search with each scorer over the windows of the song, and return the charts."""
        charts, done, total = [self.chart() for _ in scorers], 0, len(self.codes)
        n_ctx = self.prior.config.n_ctx
        for start in starts(total, n_ctx, n_ctx // 2):
            stop = min(start + n_ctx, total)
            for chart, scorer in zip(charts, scorers, strict=True):
                first, last = chart.alive(stop - done)
                chart.extend(first, *scorer(start, done, first, last))
            if bar is not None:
                bar.update(stop - done)
            done = stop
        return charts

    def timed(self, chart: Chart) -> tuple[TimedWord, ...]:
        """Return the words of the best path of a search, with times."""
        return tuple(
            TimedWord(word.text, word.line, span.start * self.step, span.end * self.step, confidence(span.gain))
            for word, span in zip(self.words, chart.best())
        )

    def heads(self, bar: ProgressBar | None = None) -> list[tuple[dict[str, Any], Chart]]:
        """Run a search with every head that attends to lyrics, and return (method, chart) for each head."""
        return [
            ({"way": "attention", "layer": layer, "head": head}, chart)
            for layer in self.prior.lyric_layers()
            for head, chart in enumerate(self.follow(self.attention(layer), bar))
        ]

    def encode_conditions(self, way: dict[str, Any], bar: ProgressBar | None = None) -> Chart:
        """Run the search with one method."""
        scorers = [self.likelihood()] if way["way"] == "likelihood" else [self.attention(way["layer"])[way["head"]]]
        return self.follow(scorers, bar)[0]


def align(model: ModelFolder, codes: Int[Tensor, " t"], song: Song, *, device: str = "cpu") -> Alignment:
    """Align `song.lyrics` with codes of the stream of `lyric_entry`. The song's word times are not read."""
    entry, prior = lyric_prior(model, device)
    task = AlignmentTask.of(model, entry, prior, codes.to(device), song)
    way = entry.alignment or ({"way": "likelihood"} if has_time_bias(entry.config) else None)
    passes = 1 if way else len(prior.lyric_layers())
    with ProgressBar(total=passes * len(codes), desc="listening", unit="code") as bar:
        if way is None:
            way, chart = max(task.heads(bar), key=lambda pair: pair[1].score())
            way["found"] = "the most monotone and sharp of a song"
            if chart.score() > 0:  # otherwise no head has found a word
                with suppress(OSError):  # the model folder may be read-only
                    model.save_alignment(entry.name, way)
        else:
            chart = task.encode_conditions(way, bar)
    words, left = task.timed(chart), (song.lyrics or "").split()
    for word in words:
        left.remove(word.word)
    return Alignment(words, tuple(left), len(codes) * task.step, way)


def codes_of_file(model: ModelFolder, path: str | Path, stream: str) -> Int[Tensor, " t"]:
    """Encode a recording of any length to the codes of `stream`; raise UserError if it is shorter than one code."""
    wave, _ = sound.read(path, sample_rate=model.sample_rate, channels=model.spec.channels)
    hop = model.spec.stream(stream).hop
    if wave.shape[1] < hop:
        raise UserError(f"{path} has {wave.shape[1]} samples, less than one code ({hop}); give a longer recording")
    wave = torch.from_numpy(wave[:, : wave.shape[1] // hop * hop])
    return model.codec([stream]).encode_long(wave[None], [stream])[stream][0]


def align_file(model: ModelFolder, path: str | Path, song: Song, *, device: str = "cpu") -> Alignment:
    """Align `song.lyrics` with a recording; UserError without lyrics."""
    if not (song.lyrics and song.lyrics.strip()):
        raise UserError(f"there are no lyrics to find in {path}; give their text")
    config = lyric_entry(model).config
    codes = codes_of_file(model, path, config.spec.writes[0])
    seconds = len(codes) * config.hop / model.sample_rate
    return align(model, codes, Song(song.artist, song.genres, song.lyrics, (), seconds), device=device)


def align_run(model: ModelFolder, run: Run, *, device: str = "cpu") -> list[Alignment]:
    """Align each sample of a run, and write RUN/alignment.json and the page."""
    level, found = model.spec.names.index(lyric_entry(model).config.spec.writes[0]), []
    asked, codes = run.song(), as_tensor(run.codes(level))
    for number, entry in enumerate(asked["samples"]):
        song = Song(entry["artist"], tuple(entry["genres"]), entry["lyrics"], (), asked["total_seconds"])
        known = bool((song.lyrics or "").strip())
        found.append(align(model, codes[number], song, device=device) if known else Alignment((), (), 0.0))
    write_json(run.folder / "alignment.json", {"samples": [one.to_json() for one in found]})
    write_page(run.folder)
    return found


# ---- choice of the method


def misses(words: Sequence[TimedWord], true: Sequence[TimedText], seconds: float) -> Float[np.ndarray, " w"]:
    """Error of the start of each word in seconds. A word that was not found counts as if it began at the end of the song."""
    predicted = [word.start for word in words] + [seconds] * (len(true) - len(words))
    return np.abs(np.array(predicted) - np.array([word.start for word in true]))


def find_way(model: ModelFolder, data: str | Path, *, songs: int = 8, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure every method on songs with known word times, store the best one in the model folder, and return all, best first.

    Held-out songs are preferred. UserError if no song has a time for every word.
    """
    entry, prior = lyric_prior(model, device)
    rows = [row for row in load_manifest(data) if [t.text for t in row.word_times] == (row.lyrics or "").split() != []]
    rows = sorted(rows, key=lambda row: row.split != "test")[:songs]
    if not rows:
        raise UserError(f"no song of {data} has a time for every word; a way is found by such songs only (docs/data.md)")
    ways: dict[str, tuple[dict[str, Any], list[np.ndarray]]] = {}  # name -> (method, its errors by song)
    for row in ProgressBar(rows, desc="songs with known times", unit="song"):
        codes = codes_of_file(model, audio_path(data, row), entry.config.spec.writes[0])
        task = AlignmentTask.of(model, entry, prior, codes.to(device), song_of(row))
        found_words = task.heads()
        if has_time_bias(entry.config):
            found_words.append(({"way": "likelihood"}, task.encode_conditions({"way": "likelihood"})))
        for way, chart in found_words:
            ways.setdefault(str(way), (way, []))[1].append(misses(task.timed(chart), row.word_times, row.seconds))
    all_errors = [(way, np.concatenate(errors)) for way, errors in ways.values()]
    table = [
        {**way, "error_seconds": float(errors.mean()), "median_seconds": float(np.median(errors)), "songs": len(rows)}
        for way, errors in all_errors
    ]
    table.sort(key=lambda way: way["error_seconds"])
    model.save_alignment(entry.name, {**table[0], "found": "songs with known times"})
    return table
