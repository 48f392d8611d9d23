"""Songs of a demo's data folder as pieces with figures (`jukebox.evaluation.sound`), and the training of their recogniser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data_prep.align import TimedText
from data_prep.audio import audio as sound
from data_prep.codes import CodesReader
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.manifest import SongRow, audio_path, load_manifest
from data_prep.synthetic.annotation import Seconds, annotate_song
from data_prep.synthetic.songs import corpus_song
from jukebox.evaluation import metrics
from jukebox.evaluation.recogniser import Recogniser, train_recogniser
from jukebox.evaluation.reconstruction import SyntheticTruth, synthetic_truth
from jukebox.evaluation.sound import EvaluatedSong, TrainingSongs, chroma_track, control_pieces, song_rows, song_table
from jukebox.model.codes import open_codes
from jukebox.model.folder import ModelFolder
from jukebox.runs.request import song_of_entry
from jukebox.runs.run import Run
from jukebox.song import Song, song_of
from vqvae.spectral.config import TOKENS

REFERENCE_SONGS = 48  # number of songs for the Frechet distance
RECOGNISER_SONGS = 96  # number of songs that the recogniser is trained on, which takes half a CPU minute
SECONDS = 20.0  # first seconds of each of these songs
Rows = list[dict[str, str | int | float | None]]


def recogniser(data: str, *, out: str, sample_rate: int = 22050, seed: int = 0, steps: int = 400) -> None:
    """Train the recogniser of artist, genre and sung characters on real training songs, unless it exists.

    data: data folder with word times
    out: file to write
    sample_rate: sample rate of the audio to classify
    seed: seed of its initial weights and of the order of the songs
    steps: steps of training
    """
    if not Path(out).is_file():
        rows = [row for row in load_manifest(Path(data)) if row.split == "train"][:RECOGNISER_SONGS]
        songs = ((sound.read(audio_path(Path(data), r), sample_rate=sample_rate, seconds=SECONDS)[0], song_of(r)) for r in rows)
        train_recogniser(songs, sample_rate, seed=seed, steps=steps).save(Path(out))
    print(f"recogniser {Recogniser.load(Path(out)).hash}")


def cut_song(song: Song, start: float, seconds: float) -> Song:
    """Return the song for a part of the audio: the words inside of the part, with times relative to it."""
    inside = [t for t in song.word_times if t.start >= start and t.end <= start + seconds]
    return replace(song, seconds=seconds, word_times=tuple(TimedText(t.text, t.start - start, t.end - start) for t in inside))


def truth_of(row: SongRow, seed: int, seconds: Seconds) -> SyntheticTruth:
    """Return the events of a song of the corpus with this seed and these lengths; UserError for a song of another corpus."""
    own, artist, genre = corpus_song(int(Path(row.song).stem.rpartition("_")[2]), seed)
    annotation = annotate_song(own, seconds=seconds, artist=artist, genre=genre)
    if annotation.lyrics != (row.lyrics or "") or abs(annotation.seconds - row.seconds) > 0.01:
        raise UserError(f"{row.song} is not that of a corpus of seed {seed} and {seconds} seconds; make the corpus again")
    return synthetic_truth(annotation)


@dataclass(frozen=True)
class Corpus:
    """The songs of a data folder, read with the sample rate and the channels of a model."""

    model: ModelFolder
    data: Path

    @cached_property
    def train(self) -> list[SongRow]:
        return [row for row in load_manifest(self.data) if row.split == "train"]

    @cached_property
    def held(self) -> list[SongRow]:
        return [row for row in load_manifest(self.data) if row.split == "test"]

    @cached_property
    def reader(self) -> CodesReader:
        return open_codes(self.data, self.model.info, [TOKENS])

    def audio(self, row: SongRow, seconds: float | None = None, start: float = 0.0) -> np.ndarray:
        """Return the audio (C, T) from second `start` on, at most `seconds` long."""
        rate, channels = self.model.sample_rate, self.model.spec.channels
        return sound.read(audio_path(self.data, row), sample_rate=rate, channels=channels, start=start, seconds=seconds)[0]

    def codes(self, row: SongRow, seconds: float | None = None) -> np.ndarray:
        """Return the tokens (t, books) of the whole frames in the first `seconds` of a song (None: of the whole song)."""
        frames = None if seconds is None else int(seconds * self.model.sample_rate) // self.model.spec.stream(TOKENS).hop
        return self.reader.read(row.song, TOKENS, 0, frames)

    def piece(self, row: SongRow, seconds: float = SECONDS, start: float = 0.0) -> EvaluatedSong:
        """Return a part of a song, with its codes if the part begins at 0."""
        codes = None if start else self.codes(row, seconds)
        return EvaluatedSong(self.audio(row, seconds, start), cut_song(song_of(row), start, seconds), codes)

    def training(self) -> TrainingSongs:
        """Return the reference data for novelty and the Frechet distance."""
        rate = self.model.sample_rate
        features = [metrics.sound_features(self.audio(row, SECONDS), rate) for row in self.train[:REFERENCE_SONGS]]
        tracks = [chroma_track(self.audio(row), rate) for row in self.train]
        return TrainingSongs(tracks, [self.codes(row) for row in self.train], torch.cat(features))


def run_pieces(run: Run, start: float = 0.0, seconds: float | None = None) -> list[EvaluatedSong]:
    """Return the samples of a run from `start` on (0: after the prompt) as pieces, each with the requested song.

    Only whole songs have codes.
    """
    level, asked = run.request["levels"][-1], run.request
    begin = start or (asked["prompt"] or {}).get("seconds", 0.0)
    length = asked["seconds"] - begin if seconds is None else seconds
    found = []
    for i, entry in enumerate(asked["samples"]):
        audio = sound.read(run.audio_path(level, i), start=begin, seconds=length)[0]
        song = cut_song(song_of_entry(entry, asked["total_seconds"]), begin, length)
        has_codes = not begin and not seconds and run.stream(level).bins  # latents have no codes to compare
        found.append(EvaluatedSong(audio, song, run.codes(level, [i])[0] if has_codes else None))
    return found


def run_rows(corpus: Corpus, recogniser: Recogniser, runs: Mapping[str, Path], held: int = 4) -> Rows:
    """Measure runs (title -> folder), held-out songs and two controls; return a row of figures for each."""
    opened = {title: run_pieces(Run.open(folder)) for title, folder in runs.items()}
    longest = max(len(piece.audio[0]) for pieces in opened.values() for piece in pieces) / corpus.model.sample_rate
    true = [corpus.piece(row, longest) for row in corpus.held[:held]]
    controls = control_pieces(
        true, [corpus.audio(row, SECONDS) for row in corpus.train[:REFERENCE_SONGS]], corpus.model.sample_rate
    )
    kept = {name: controls[name] for name in ("noise of the same spectrum", "collage of 1 s")}
    groups: dict[str, Sequence[EvaluatedSong]] = {"held-out songs": true, **opened, **kept}
    return song_rows(groups, recogniser, corpus.training())


def table(runs: tuple[str, ...], *, model: str, data: str, recogniser: str, out: str) -> None:
    """Measure runs beside held-out songs and controls, as the demo does.

    model: folder of the model
    data: data folder that it was trained on
    runs: run folders
    recogniser: file of a recogniser
    out: json file to write
    """
    corpus = Corpus(ModelFolder.from_pretrained(model), Path(data))
    rows = run_rows(corpus, Recogniser.load(Path(recogniser)), {Path(run).name: Path(run) for run in runs})
    write_json(Path(out), {"rows": rows})
    print(song_table(rows))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
