"""The songs of the evidence: sampled once per seed, each in a separate run folder, so that interrupted runs can be resumed.

Their labels are spread over all artists and genres. Their lyrics are from songs outside of all corpora. A second set of songs
has only words that are in no corpus. The prior of the control has the same shape and is untrained.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data_prep.manifest import audio_path
from data_prep.synthetic.annotation import SongAnnotation, annotate_song
from data_prep.synthetic.band import ARTISTS, GENRES
from data_prep.synthetic.voice import split_syllables
from jukebox.api import Jukebox
from jukebox.model.folder import build_prior
from jukebox.model.info import ModelInfo
from jukebox.params import MachineOptions, SamplingOptions
from jukebox.planning.sampling import fitted
from jukebox.runs import request
from jukebox.runs.run import Run
from jukebox.runs.run_file import REQUEST
from jukebox.song import Song, song_of
from launch.demo.figures import Corpus
from vqvae.spectral.config import TOKENS

REQUESTED = 2_000_003  # first seed of the requested songs, which are in no corpus
UNSEEN = {
    1: "hand salt lamp grass path bell nest web leg bed ship milk hill fish silk dog rock frog storm cot drum dust cup jump hut".split(),
    2: "garden dragon lantern basket happy winter window mitten ribbon forest pocket robin button number".split(),
}  # syllables -> common words that are in no corpus, without silent e; the vowels are balanced


@dataclass(frozen=True)
class SongPlan:
    """Numbers of sampled songs and of held-out songs for comparison, and lengths in seconds."""

    songs: int = 4
    held: int = 8
    seconds: float = 20.0
    prompt: float = 6.0  # prompt of a continuation
    new: float = 8.0  # new part of a continuation
    minute: float = 60.0
    longest: float = 180.0  # only for the first seed; 0: none

    @property
    def edge(self) -> float:
        """Length in seconds of the first and the last part of long songs, which are compared."""
        return min(self.seconds, self.minute / 3)


def unseen_words(lyrics: str, seed: int) -> str:
    """Replace each word of the lyrics by a word that is in no corpus and has the same number of syllables (1 or 2)."""
    rng = np.random.default_rng([seed, 7])
    return "\n".join(
        " ".join(str(rng.choice(UNSEEN[min(2, len(split_syllables(word)))])) for word in line.split())
        for line in lyrics.splitlines()
    )


def request_seed(seed: int, number: int) -> int:
    """Return the seed of requested song `number` for a seed of the evidence."""
    return REQUESTED + 100 * seed + number


def requested(seed: int, number: int, seconds: float, unseen: bool = False) -> SongAnnotation:
    """Return requested song `number` of a seed; three seeds of four songs combine each artist with each genre."""
    own, artist, genre = request_seed(seed, number), ARTISTS[number % 4].name, GENRES[(number + seed) % 3].name
    annotation = annotate_song(own, seconds=seconds, artist=artist, genre=genre)
    if unseen:
        return annotate_song(own, seconds=seconds, artist=artist, genre=genre, lyrics=unseen_words(annotation.lyrics, own))
    return annotation


def requests(corpus: Corpus, info: ModelInfo, seed: int, plan: SongPlan) -> Iterator[tuple[str, dict]]:
    """Yield (name of the folder, request) of each run of the trained model."""
    settings = request.RunSettings(SamplingOptions(seed=seed), None, MachineOptions(threads=1))

    def sampled(numbers: Sequence[int], seconds: float, unseen: bool = False) -> dict:
        songs = [requested(seed, i, seconds, unseen) for i in numbers]
        return request.sampled(info, [Song(s.artist, (s.genre,), s.lyrics) for s in songs], seconds, settings)

    yield "generated", sampled(range(plan.songs), plan.seconds)
    yield "unseen", sampled(range(plan.songs), plan.seconds, unseen=True)
    for i, row in enumerate(corpus.held[: plan.songs]):
        total = plan.prompt + plan.new
        yield (
            f"continued_{i}",
            request.continued(info, [song_of(row)], [audio_path(corpus.data, row)], plan.prompt, total, settings),
        )
    yield "minute", sampled([plan.songs], plan.minute)
    if plan.longest:
        yield "longest", sampled([plan.songs + 1], plan.longest)


def untrained_model(model: Jukebox, folder: Path) -> Jukebox:
    """Return a copy of the model, in a separate folder, whose prior of tokens has random weights."""
    if not (folder / "config.json").is_file():
        temporary = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(model.folder, temporary, ignore=shutil.ignore_patterns("training", ".lock", "prior_*"))
        torch.manual_seed(0)
        prior, vectors = build_prior(model.entry(TOKENS).config), model.codec([TOKENS]).embeddings(TOKENS)
        prior.initialise_embeddings({} if vectors is None else {TOKENS: vectors})
        Jukebox.from_pretrained(temporary).save_prior(TOKENS, prior)
        temporary.replace(folder)
    return Jukebox.from_pretrained(folder)


def finish_run(model: Jukebox, folder: Path, asked: dict) -> Run:
    """Sample or resume a run."""
    begun = (folder / REQUEST).is_file()
    return model.resume(folder if begun else Run.create(folder, asked | fitted(model.info, asked, "")))


def sample_songs(folder: Path, seed: int, plan: SongPlan) -> None:
    """Sample every run of a seed in `folder`/songs."""
    model = Jukebox.from_pretrained(folder / "model")
    for name, asked in requests(Corpus(model, folder / "data"), model.info, seed, plan):
        finish_run(model, folder / "songs" / name, asked)
    untrained = untrained_model(model, folder / "untrained")
    _, asked = next(requests(Corpus(model, folder / "data"), untrained.info, seed, plan))
    finish_run(untrained, folder / "songs" / "untrained", asked)


def songs(folder: str, *, seed: int = 0, longest: float = 0.0) -> None:
    """Sample or resume the songs of one seed of the evidence.

    folder: folder of the seed, with data and model
    seed: seed of the songs and of their random numbers
    longest: length of one more song, in seconds (0: none)
    """
    sample_songs(Path(folder), seed, replace(SongPlan(), longest=longest))
