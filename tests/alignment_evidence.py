"""Alignment errors on songs with known times: `python -m tests.alignment_evidence demo [demo ..] [--songs 4]`.

For each folder that `jukebox demo` made, there are two kinds of songs outside of the training set. Synthetic songs have a
random part of the beginning cut off and random rests between lines, so that no rule about bars places them. Held-out songs of
the corpus follow the rule. The stored method is compared with single attention heads and with controls: words spread evenly, or
placed by line and beat; another song's words; the same model with random weights.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_prep.align import TimedText, place
from data_prep.manifest import audio_path, load_manifest
from data_prep.synthetic.annotation import make_lyrics
from data_prep.synthetic.band import ARTISTS, GENRES
from data_prep.synthetic.songs import make_song
from jukebox.alignment.align import AlignmentTask, codes_of_file, lyric_entry, lyric_prior, misses
from jukebox.alignment.scores import LyricPrior
from jukebox.evaluation.metrics import table
from jukebox.model.folder import ModelFolder
from jukebox.song import Song, song_of
from priors.autoregressive.model import AutoregressivePrior

SECONDS, FIRST_SEED = 20.0, 5_000_000


def irregular_song(seed: int, sample_rate: int) -> tuple[np.ndarray, Song]:
    """A synthetic song (T,) that begins anywhere in its intro and whose lines begin on any later bar; "-" is a beat of silence."""
    rng, artist, genre = np.random.default_rng([seed, 77]), ARTISTS[seed % 4], GENRES[seed // 4 % 3]
    lines: list[str] = []
    for line in make_lyrics(genre, SECONDS, rng).split("\n"):
        bars = int(rng.integers(0, 3))
        lines += [" ".join(["-"] * (genre.bar * bars - 1))] * (bars > 0) + [line]
    while True:  # without what is cut off at the end
        made = make_song(FIRST_SEED + seed, seconds=SECONDS, sample_rate=sample_rate, artist=artist.name, genre=genre.name,
                         lyrics="\n".join(lines))  # fmt: skip
        if len(made.words) == sum(len(line.split()) for line in lines) and lines[-1][0] != "-":
            break
        lines.pop()
    words = [word for word in made.words if word[0] != "-"]
    cut = min(rng.uniform(0, 3), words[0][1] - 0.05)
    audio = made.audio[0, int(cut * sample_rate) :]
    times = tuple(TimedText(word, start - cut, end - cut) for word, start, end in words)
    text = "\n".join(line for line in lines if line[0] != "-")
    return audio, Song(artist.name, (genre.name,), text, times, len(audio) / sample_rate)


def songs_of(model: ModelFolder, data: Path, count: int, seed: int) -> dict[str, list[tuple[torch.Tensor, Song]]]:
    """Kind -> (codes, song) of `count` songs."""
    stream = lyric_entry(model).config.spec.writes[0]
    codec, hop = model.codec([stream]), model.spec.stream(stream).hop
    made: dict[str, list[tuple[torch.Tensor, Song]]] = {"irregular": [], "held out": []}
    for number in range(count):
        audio, song = irregular_song(100 * seed + number, model.sample_rate)
        wave = torch.from_numpy(audio[: len(audio) // hop * hop].copy())
        made["irregular"].append((codec.encode_long(wave[None, None], [stream])[stream][0], song))
    for row in [row for row in load_manifest(data) if row.split == "test"][:count]:
        made["held out"].append((codes_of_file(model, audio_path(data, row), stream), song_of(row)))
    return made


def errors(model: ModelFolder, untrained: LyricPrior, codes: torch.Tensor, song: Song, other: Song) -> dict[str, np.ndarray]:
    """Way or control -> seconds by which each word's start is missed."""
    (entry, prior), true = lyric_prior(model), song.word_times
    task = AlignmentTask.of(model, entry, prior, codes, song)
    found = {"likelihood": task.timed(task.encode_conditions({"way": "likelihood"}))}
    found |= {f"attention, head {way['head']}": task.timed(chart) for way, chart in task.heads()}
    blank = AlignmentTask.of(model, entry, untrained, codes, song)
    found["untrained"] = blank.timed(blank.encode_conditions({"way": "likelihood"}))
    mistaken = AlignmentTask.of(model, entry, prior, codes, replace(song, lyrics=other.lyrics))
    found["another song's words"] = mistaken.timed(mistaken.encode_conditions({"way": "likelihood"}))[: len(true)]
    result = {name: misses(words, true, song.seconds) for name, words in found.items()}
    sure = np.array([word.confidence > 0.5 for word in found["likelihood"]])
    result["likelihood, sure"] = result["likelihood"][: len(sure)][sure]
    for name, pace in (("even", None), ("by line and beat", model.labels.pace)):
        placed = place(song.lyrics or "", song.seconds, pace, song.genres)
        result[name] = np.abs(np.array([word.start for word in placed]) - np.array([word.start for word in true]))
    return result


def measured(folders: Sequence[Path], count: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(kind of song, errors by way or control), the folders in turn, so that all have a share of what is measured so far."""
    models = [ModelFolder.from_pretrained(folder / "model") for folder in folders]
    songs = [songs_of(model, folder / "data", count, seed) for seed, (model, folder) in enumerate(zip(models, folders))]
    for number, seed in tqdm(list(itertools.product(range(count), range(len(folders)))), unit="two songs"):
        torch.manual_seed(seed)
        untrained = AutoregressivePrior(lyric_entry(models[seed]).config).eval()  # type: ignore[arg-type]
        for kind, made in songs[seed].items():
            yield kind, errors(models[seed], untrained, *made[number], made[(number + 1) % count][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--songs", type=int, default=4, help="of each kind and folder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    missed: dict[tuple[str, str], list[np.ndarray]] = {}
    with suppress(KeyboardInterrupt):  # what was measured so far is shown
        for kind, errors_ in measured(asked.folders, asked.songs):
            for name, seconds in errors_.items():
                missed.setdefault((kind, name), []).append(seconds)
    rows = [
        [kind, name, len(parts), len(e), e.mean(), np.median(e), f"{np.mean(e < 0.1):.0%}", f"{np.mean(e < 0.3):.0%}"]
        for (kind, name), parts in sorted(missed.items(), reverse=True)
        for e in [np.concatenate(parts)]
    ]
    print(table([["songs", "way", "number", "words", "mean, s", "median, s", "< 0.1 s", "< 0.3 s"], *rows]))


if __name__ == "__main__":
    main()
