"""`jukebox ablate codec DATA MODEL`: effect of each part of the spectral codec, in one table of decodings of the same songs.

Each row replaces one part. The phases are learned, by Griffin-Lim, zero, random, or those of the original. The quantiser is
replaced by latents or has fewer books. The magnitudes are those of the original. The original itself is the upper bound. Two
curves show the distance by bit rate and by minutes of training, for the checkpoints of MODEL and for further models. Nothing is
trained.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data_prep.audio.audio import read, write_wav
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.manifest import SongRow, audio_path
from data_prep.progress import ProgressBar
from data_prep.synthetic.annotation import annotate_song
from data_prep.synthetic.songs import corpus_song
from jukebox.evaluation import metrics
from jukebox.evaluation.held_out import read_wave, split_rows
from jukebox.evaluation.reconstruction import SyntheticTruth, mono_sound, reconstruction_figures, synthetic_truth
from jukebox.model.folder import ModelFolder, build_codec
from launch.engines.checkpoint import open_checkpoint, written
from launch.training.export import filled
from vqvae.spectral.config import LATENTS, TOKENS, SpectralConfig
from vqvae.spectral.model import SpectralCodec
from vqvae.spectral.phase import Propagation, griffin_lim, peak_slopes, unit

Figures = dict[str, Any]
SECONDS = 20.0  # largest length of a song in seconds
REFERENCE_SONGS = 48  # number of training songs for the Frechet distance
REFINING = 8  # rounds of Griffin-Lim that start from the learned phases
TRUE = "true"  # name of the original's magnitudes


class Decoding(NamedTuple):
    """A row of the table.

    `source` is where the magnitudes come from: a stream, or `TRUE`. `books` is the number of books of the tokens (0: all).
    `phases` is a key of `PHASES`.
    """

    name: str
    source: str = TOKENS
    books: int = 0
    phases: str = "refined"


DECODINGS = (
    Decoding("learned phases"),
    Decoding("learned, no Griffin-Lim after them", phases="learned"),
    Decoding("these without random phases", phases="coherent"),
    Decoding("learned, 8 rounds of Griffin-Lim", phases="consistent"),
    Decoding("Griffin-Lim from peaks", phases="griffin_lim"),
    Decoding("zero phase", phases="zero"),
    Decoding("random phase", phases="random"),
    Decoding("true phases", phases="true"),
    Decoding("latents, not quantised", LATENTS),
    Decoding("latents, true phases", LATENTS, phases="true"),
    Decoding("1 book", books=1),
    Decoding("2 books", books=2),
    Decoding("true magnitudes, learned phases", TRUE),
    Decoding("true magnitudes, Griffin-Lim", TRUE, phases="griffin_lim"),
)
COLUMNS = {"mel": "mel, dB", "multiscale": "multi-scale, dB", "frechet": "Frechet", "convergence_db": "convergence, dB",
           "leak_db": "leakage, dB", "false": "false partials", "vibrato": "vibrato", "rise_ms": "rise, ms",
           "music_seconds_per_second": "music s/s"}  # fmt: skip


class HeldOutSong(NamedTuple):
    """A held-out song (c, t) in whole frames of the codec. `truth` has its events if they are known."""

    audio: Float[Tensor, "c t"]
    truth: SyntheticTruth | None


# ---- phases: functions that return phasors (n, c, f) or (n, 1, f) for magnitudes


class Predicted(NamedTuple):
    """Magnitudes and phase derivatives, from which phasors are computed, and the spectra of the original."""

    magnitudes: Float[Tensor, "n c f"]
    slopes: Float[Tensor, "n 2 2 f"]
    spectra: Complex[Tensor, "n c f"]


def learned_phases(config: SpectralConfig, given: Predicted) -> Complex[Tensor, "n 1 f"]:
    return Propagation(config.n_fft, config.hop_fft, config.chance)(given.magnitudes.mean(1), given.slopes)[:, None]


def griffin_lim_phases(config: SpectralConfig, given: Predicted) -> Complex[Tensor, "n 1 f"]:
    together = given.magnitudes.mean(1)
    start = learned_phases(config, given._replace(slopes=peak_slopes(together, config.n_fft, config.hop_fft)))
    return griffin_lim(together, start[:, 0], config.n_fft, config.hop_fft, config.peak_rounds)[:, None]


def refined_phases(config: SpectralConfig, given: Predicted, rounds: int | None = None) -> Complex[Tensor, "n 1 f"]:
    start, rounds = learned_phases(config, given)[:, 0], config.rounds if rounds is None else rounds
    return griffin_lim(given.magnitudes.mean(1), start, config.n_fft, config.hop_fft, rounds)[:, None]


def random_phases(config: SpectralConfig, given: Predicted) -> Complex[Tensor, "n 1 f"]:
    one = given.magnitudes[:, :1]
    return torch.polar(torch.ones_like(one), 2 * torch.pi * torch.rand(one.shape, generator=torch.Generator().manual_seed(0)))


PHASES: dict[str, Callable[[SpectralConfig, Predicted], Tensor]] = {
    "refined": refined_phases,
    "learned": learned_phases,
    "coherent": lambda config, given: learned_phases(replace(config, chance=0.0), given),
    "consistent": partial(refined_phases, rounds=REFINING),
    "griffin_lim": griffin_lim_phases,
    "zero": lambda config, given: torch.ones_like(given.spectra[:, :1]),
    "random": random_phases,
    "true": lambda config, given: unit(given.spectra),
}


# ---- decoding and measuring


class Decoded(NamedTuple):
    """The audio of a decoding, the seconds that it took, and its magnitudes."""

    audio: Float[Tensor, "c t"]
    took: float
    magnitudes: Float[Tensor, "n c f"]


def decode_as(codec: SpectralCodec, song: HeldOutSong, decoding: Decoding) -> Decoded:
    """Encode a held-out song, and decode it as a row of the table specifies."""
    with torch.no_grad():
        spectra = codec.spectra(song.audio[None])
        stream = LATENTS if decoding.source == LATENTS else TOKENS
        values = codec.encode_long(song.audio[None], [stream])[stream]
        values = values[..., : decoding.books] if decoding.books else values
        began = time.perf_counter()
        hidden = codec.decoder.hidden(codec.latents_of({stream: values}, stream))
        made = spectra.abs() if decoding.source == TRUE else codec.magnitudes(hidden)
        phasors = PHASES[decoding.phases](codec.config, Predicted(made[0], codec.decoder.slopes(hidden)[0], spectra[0]))
        audio = codec.audio_of(made * phasors)[0]
    return Decoded(audio, time.perf_counter() - began, made[0])


def distances(song: HeldOutSong, made: Float[Tensor, "c t"], sample_rate: int, reference: Float[Tensor, "n d"]) -> Figures:
    """Return the figures of one reconstruction of a song."""
    x, y = mono_sound(song.audio), mono_sound(made)
    return {
        "mel": metrics.mel_distance(x, y, sample_rate),
        "multiscale": metrics.multiscale_distance(x, y),
        "frechet": metrics.frechet_distance(reference, metrics.sound_features(made, sample_rate)),
        "convergence": metrics.spectral_convergence(song.audio[None], made[None]).item(),
        **reconstruction_figures(song.audio, made, sample_rate, song.truth),
    }


def mean_figures(songs: Sequence[Figures]) -> Figures:
    """Return the means over songs of their finite figures. The spectral convergence is the mean ratio in dB."""
    found: Figures = {}
    for name in songs[0]:
        values = [song[name] for song in songs if np.isfinite(song[name])]
        found[name] = float(np.mean(values)) if values else None
    ratio = found.pop("convergence")
    return found | {"convergence_db": 20 * float(np.log10(ratio)) if ratio else None}


def decoding_row(
    codec: SpectralCodec, songs: Sequence[HeldOutSong], decoding: Decoding, reference: Float[Tensor, "n d"], sound: Path
) -> Figures:
    """Return one row of the table of decodings, averaged over songs. Write the first song's audio to the folder `sound`."""
    rate = codec.config.sample_rate
    decode_as(codec, songs[0], decoding)  # a warm-up, because the first call allocates memory
    made = [decode_as(codec, song, decoding) for song in songs]
    write_wav(sound / f"{decoding.name.replace(',', '').replace(' ', '_')}.wav", made[0].audio.numpy(), rate)
    figures = mean_figures([distances(song, m.audio, rate, reference) for song, m in zip(songs, made, strict=True)])
    seconds = sum(song.audio.shape[-1] for song in songs) / rate
    return {"decoding": decoding.name, **figures, "music_seconds_per_second": seconds / sum(m.took for m in made)}


def codec_checks(codec: SpectralCodec, songs: Sequence[HeldOutSong], rows: Sequence[Figures]) -> list[Figures]:
    """Return sanity checks of the codec.

    The inverse transform is exact. Magnitudes are better than a mean frame. Learned phases are better than zero and random
    phases.
    """
    ratios, losses = [], []
    for song in songs:
        spectra = codec.spectra(song.audio[None])
        again = codec.audio_of(spectra)[0]
        ratios.append(((again - song.audio).norm() / song.audio.norm()).item())
        true, made = (
            (m + codec.config.floor).log() for m in (spectra[0].abs(), decode_as(codec, song, DECODINGS[0]).magnitudes)
        )
        losses.append([(true - other).abs().mean().item() for other in (made, codec.features.mean)])
    ours, mean_frame = np.mean(losses, axis=0)
    named = {row["decoding"]: row["multiscale"] for row in rows}
    learned = named["learned phases"]
    values = [
        ("transform and its inverse: signal to error, dB", -20 * float(np.log10(max(np.mean(ratios), 1e-10))), "at least 60"),
        ("log magnitudes: L1 / that of the mean frame", float(ours / mean_frame), "at most 0.35"),
        ("multi-scale: learned phases / zero phase", learned / named["zero phase"], "at most 0.8"),
        ("multi-scale: learned phases / random phase", learned / named["random phase"], "at most 0.8"),
    ]
    return [{"what": what, "value": value, "aim": aim} for what, value, aim in values]


# ---- curves


def curve_rows(name: str, codec: SpectralCodec, minutes: float | None, songs: Sequence[HeldOutSong]) -> list[Figures]:
    """Return one row per number of books, from 1 to all: the bit rate, and the distances with refined phases."""
    config, rows = codec.config, []
    for books in range(1, config.books + 1):
        made = [decode_as(codec, song, Decoding("", books=books)).audio for song in songs]
        pairs = [(mono_sound(song.audio), mono_sound(audio)) for song, audio in zip(songs, made, strict=True)]
        rows.append({
            "model": name, "minutes": minutes, "books": books, "bits_per_second": bit_rate(config, books),
            "mel": sum(metrics.mel_distance(x, y, config.sample_rate) for x, y in pairs) / len(pairs),
            "multiscale": sum(metrics.multiscale_distance(x, y) for x, y in pairs) / len(pairs),
        })  # fmt: skip
    return rows


def bit_rate(config: SpectralConfig, books: int) -> float:
    return books * math.log2(config.bins) * config.sample_rate / config.hop


def codecs_of(folder: str, checkpoints: bool) -> Iterator[tuple[str, SpectralCodec, float | None]]:
    """Yield the codecs of a model folder with their names and minutes of training: checkpoints first, then the final codec."""
    model, training = ModelFolder.from_pretrained(folder), Path(folder) / "training" / "spectral"
    codec, log = spectral_codec(model), training / "log.jsonl"
    for path in reversed(written(training)[1:]) if checkpoints else ():  # the newest checkpoint is the model itself
        checkpoint = open_checkpoint(path)
        early: Any = filled(build_codec(codec.config), checkpoint).eval()
        yield f"{folder}, step {checkpoint.metadata['step']}", early, checkpoint.metadata["minutes"]
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    yield folder, codec, json.loads(lines[-1]).get("minutes") if lines else None


def spectral_codec(model: ModelFolder) -> SpectralCodec:
    """Return the spectral codec of a model. UserError if there is none."""
    if TOKENS not in model.trained_streams():
        raise UserError(
            f"{model.folder} has no trained spectral codec; train one with `jukebox train spectral`, or leave MODEL away"
        )
    codec: Any = model.codec([TOKENS])
    return codec


# ---- songs


def held_out_songs(data: Path, config: SpectralConfig, songs: int, corpus_seed: int) -> list[HeldOutSong]:
    """Return the first songs of the split "test".

    If `corpus_seed` is at least 0, the songs are those of a synthetic corpus with this seed, and their events are added.
    """
    found = []
    for row in split_rows(data, "test", songs):
        truth = synthetic_truth_of(audio_path(data, row), row, corpus_seed) if corpus_seed >= 0 else None
        found.append(HeldOutSong(read_wave(data, row, config.spec, SECONDS), truth))
    return found


def synthetic_truth_of(path: Path, row: SongRow, corpus_seed: int) -> SyntheticTruth:
    """Return the events of a song of a synthetic corpus. UserError for other songs, or for a corpus of another seed."""
    listed = path.parent / "songs.jsonl"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    paths = [json.loads(line)["path"] for line in lines]
    if path.name in paths:
        seed, artist, genre = corpus_song(paths.index(path.name), corpus_seed)
        annotation = annotate_song(seed, seconds=row.seconds, artist=artist, genre=genre)
        if annotation.lyrics == (row.lyrics or ""):
            return synthetic_truth(annotation)
    raise UserError(f"--corpus_seed {corpus_seed}: {path} is no song of a synthetic corpus of this seed; give its seed, or -1")


def reference_features(data: Path, config: SpectralConfig) -> Float[Tensor, "n d"]:
    """Return the sound features of training songs, the reference of Frechet distances."""
    rate, options = config.sample_rate, {"sample_rate": config.sample_rate, "channels": config.channels}
    rows = split_rows(data, "train", REFERENCE_SONGS)
    return torch.cat([metrics.sound_features(read(audio_path(data, row), seconds=SECONDS, **options)[0], rate) for row in rows])


# ---- the verb


def ablate_decodings(data: Path, model: str, models: Sequence[str], out: Path, songs: int, corpus_seed: int) -> Figures:
    """Measure all rows and curves, print the tables and write decodings.json."""
    codec = spectral_codec(ModelFolder.from_pretrained(model))
    out.mkdir(parents=True, exist_ok=True)
    held, reference = held_out_songs(data, codec.config, songs, corpus_seed), reference_features(data, codec.config)
    rate = codec.config.sample_rate
    original = mean_figures([distances(song, song.audio, rate, reference) for song in held])
    rows: list[Figures] = [{"decoding": "original", **original, "music_seconds_per_second": None}]
    for decoding in ProgressBar([d for d in DECODINGS if d.books < codec.config.books], desc="decodings", unit="row"):
        rows.append(decoding_row(codec, held, decoding, reference, out))
    figures: Figures = {
        "songs": len(held),
        "model": model,
        "rows": rows,
        "checks": codec_checks(codec, held, rows),
        "curve": [],
    }
    for i, folder in enumerate((model, *models)):
        for name, each, minutes in codecs_of(folder, checkpoints=i == 0):
            figures["curve"] += curve_rows(name, each, minutes, held)
    write_json(out / "decodings.json", figures)
    print_decodings(figures)
    print(f"\nwritten to {out / 'decodings.json'}; the first song by each decoding is beside it")
    return figures


def print_decodings(figures: Figures) -> None:
    columns = {key: title for key, title in COLUMNS.items() if any(row.get(key) is not None for row in figures["rows"])}
    body = [[row["decoding"], *(row[each] for each in columns)] for row in figures["rows"]]
    print("\n" + metrics.table([["decoding", *columns.values()], *body]))
    print("\n" + metrics.table([["check", "value", "aim"], *([*each.values()] for each in figures["checks"])]))
    titles = {"model": "model", "minutes": "minutes", "books": "books", "bits_per_second": "bit/s", "mel": "mel, dB",
              "multiscale": "multi-scale, dB"}  # fmt: skip
    print("\n" + metrics.table([list(titles.values()), *[[row[key] for key in titles] for row in figures["curve"]]]))
