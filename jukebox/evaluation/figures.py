"""What a model learned, on held-out songs, every figure beside its control.

codec    spectral convergence in dB of each level and of the same net untrained; share and entropy of the codebook's use
priors   bits per code under the true conditions and under false ones, window by window, in pairs:
             lyrics          letters and times of another song
             letters         letters of another song at the true times (the strict control)
             plain           the true text without its times, placed by line and beat, against another song's so placed
             labels          another artist and another genre; artist, genre: one of the two
             timing          another place in another song
             above           codes of the level above from another song
A difference is control minus truth, so positive means that the condition helps. Its standard error is taken over windows and
over songs. The unigram entropy is that of the held-out codes themselves: the best that a prior without memory could do.
Whether attention follows the words is measured in `jukebox/evaluation/attention.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data_prep.audio import audio as sound
from data_prep.errors import UserError
from data_prep.manifest import SongRow, audio_path, load_manifest
from jukebox.evaluation import metrics
from jukebox.evaluation.attention import alignment_figures
from jukebox.model.folder import Jukebox
from jukebox.song import PreparedSong, Song, song_of, window_conditions
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import Conditions, Lyrics, stack
from vqvae.jukebox.stream import decode_long, encode_long
from vqvae.jukebox.vqvae import VQVAE


@dataclass
class HeldOut:
    """Held-out songs with their sound (C, T) and codes."""

    rows: list[SongRow]
    waves: list[Tensor]
    codes: list[dict[int, np.ndarray]]


def hold_out(model: Jukebox, data: Path, songs: int, seconds: float = 60.0) -> HeldOut:
    """The first `songs` songs of the split "test" (at most `seconds` of each), encoded."""
    rows = [row for row in load_manifest(data) if row.split == "test"][: songs or None]
    if not rows:
        raise UserError(f"{data} has no songs of the split test; prepare it with a larger --test_share")
    levels, waves, codes = model.trained_levels(), [], []
    codec = model.codec(levels)
    for row in tqdm(rows, desc="held-out songs", unit="song"):
        wave, _ = sound.read(
            audio_path(data, row), sample_rate=model.sample_rate, channels=model.codec_config.channels, seconds=seconds
        )
        wave = torch.from_numpy(wave[:, : wave.shape[1] // model.hops[-1] * model.hops[-1]])
        waves.append(wave)
        codes.append({level: z[0].numpy() for level, z in encode_long(codec, wave[None], levels).items()})
    return HeldOut(rows, waves, codes)


# ---- the codec


def codec_figures(model: Jukebox, held: HeldOut, seconds: float = 10.0) -> dict[int, dict[str, float]]:
    """Reconstruction of every level, trained and untrained, and the use of its codebook."""
    figures = {}
    for level in model.trained_levels():
        trained, hop = model.codec([level]), model.hops[level]
        torch.manual_seed(0)
        untrained = VQVAE(model.codec_config, (level,))
        with torch.no_grad():  # its codebook is drawn from its own outputs, as at the first step of training
            untrained.train().loss(held.waves[0][None, :, : 2**16], generator=torch.Generator().manual_seed(0))
        untrained.eval()
        trained_sc, untrained_sc = [], []
        for wave, codes in zip(held.waves, held.codes, strict=True):
            length = min(wave.shape[1], int(seconds * model.sample_rate)) // model.hops[-1] * model.hops[-1]
            true = wave[None, :, :length]
            made = decode_long(trained, torch.from_numpy(codes[level][None, : length // hop]).long(), level)
            trained_sc.append(metrics.spectral_convergence(true, made).item())
            control = decode_long(untrained, encode_long(untrained, true, (level,))[level], level)
            untrained_sc.append(metrics.spectral_convergence(true, control).item())
        used, entropy = metrics.codebook_use(
            torch.from_numpy(np.concatenate([c[level] for c in held.codes])), model.codec_config.bins
        )
        decibels = [20 * np.log10(value) for value in trained_sc]
        mean, error = metrics.mean_and_error(decibels)
        figures[level] = {
            "spectral_convergence_db": mean, "se": error, "untrained_db": float(np.mean(20 * np.log10(untrained_sc))),
            "codes_used": used, "entropy_bits": entropy,
        }  # fmt: skip
    return figures


# ---- priors


@dataclass
class HeldOutWindow:
    """A window of a held-out song, and another song that plays the false one."""

    song: int
    other: int
    start: int


def draw_windows(lengths: Sequence[int], n_ctx: int, ratio: int, count: int, seed: int) -> list[HeldOutWindow]:
    """`count` windows spread over the songs that are long enough, each with another such song."""
    rng = np.random.default_rng(seed)
    fitting = [i for i, length in enumerate(lengths) if length >= n_ctx]
    if len(fitting) < 2:
        raise UserError(
            f"{len(fitting)} held-out songs are as long as a window of {n_ctx} codes; expected 2 or more: prepare more songs"
        )
    windows = []
    for k in range(count):
        song = fitting[k % len(fitting)]
        other = int(rng.choice([i for i in fitting if i != song]))
        last = min(lengths[song], lengths[other]) - n_ctx  # the false codes above must reach as far
        windows.append(HeldOutWindow(song, other, int(rng.integers(last // ratio + 1)) * ratio))
    return windows


@torch.no_grad()
def window_bits(
    prior: AutoregressivePrior, codes: Tensor, conditions: Sequence[Conditions], batch: int = 8
) -> np.ndarray:
    """Bits per code of every window (n t)."""
    parts = [
        prior.bits(codes[i : i + batch], stack(conditions[i : i + batch])).mean(dim=1)
        for i in range(0, len(codes), batch)
    ]
    return torch.cat(parts).double().numpy()


def prior_figures(model: Jukebox, held: HeldOut, level: int, count: int, seed: int) -> dict:
    """Bits per code of one prior under true and false conditions."""
    prior, labels = model.prior(level), model.labels_of(level)
    config = prior.config
    ratio = config.above.ratio if config.above else 1
    windows = draw_windows([len(c[level]) for c in held.codes], config.n_ctx, ratio, count, seed)
    rng = np.random.default_rng([seed, level])
    true_songs = [song_of(row) for row in held.rows]
    plain_songs = [replace(song, word_times=()).placed(labels) for song in true_songs]

    def ready(songs: Sequence[Song]) -> list[PreparedSong]:
        return [PreparedSong.of(song, labels, model.vocabulary, model.sample_rate) for song in songs]

    songs, plain = ready(true_songs), ready(plain_songs)

    def above(window: HeldOutWindow, song: int) -> np.ndarray | None:
        first = window.start // ratio
        return held.codes[song][level + 1][first : first + config.n_ctx // ratio] if config.above else None

    def conditions(
        change: Callable[[HeldOutWindow], PreparedSong], upper: Callable[[HeldOutWindow], int] = lambda w: w.song
    ) -> list[Conditions]:
        return [window_conditions(change(w), config, w.start, above(w, upper(w))) for w in windows]

    def false_label(true: int, size: int) -> int:
        others = [i for i in range(1, size) if i != true]
        return int(rng.choice(others)) if others else 0

    def relabel(w: HeldOutWindow, artist: bool, genre: bool) -> PreparedSong:
        song = songs[w.song]
        return replace(
            song,
            artist=false_label(song.artist, len(labels.artists)) if artist else song.artist,
            genres=(false_label(song.genres[0] if song.genres else 0, len(labels.genres)),) if genre else song.genres,
        )

    def with_words(w: HeldOutWindow, text: PreparedSong) -> PreparedSong:
        return replace(songs[w.song], ids=text.ids, seconds=text.seconds)

    codes = torch.from_numpy(
        np.stack([held.codes[w.song][level][w.start : w.start + config.n_ctx] for w in windows]).astype(np.int64)
    )
    truth = conditions(lambda w: songs[w.song])
    bits = window_bits(prior, codes, truth)
    trials: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def trial(name: str, false: list[Conditions], true: np.ndarray = bits) -> None:
        trials[name] = (true, window_bits(prior, codes, false))

    if config.lyrics and any(song.ids.size for song in songs):
        false = conditions(lambda w: with_words(w, songs[w.other]))
        trial("lyrics", false)
        trial("letters", [replace(t, lyrics=_lyrics_at_true_times(f, t)) for t, f in zip(truth, false, strict=True)])
        placed = window_bits(prior, codes, conditions(lambda w: with_words(w, plain[w.song])))
        trial("plain", conditions(lambda w: with_words(w, plain[w.other])), placed)
    if config.labels and len(labels.artists) > 2 and len(labels.genres) > 2:
        trial("labels", conditions(lambda w: relabel(w, True, True)))
        trial("artist", conditions(lambda w: relabel(w, True, False)))
        trial("genre", conditions(lambda w: relabel(w, False, True)))
    if config.labels and config.labels.timing_bins:
        shuffled = [truth[i].timing for i in rng.permutation(len(truth))]
        trial("timing", [replace(t, timing=s) for t, s in zip(truth, shuffled, strict=True)])
    if config.above:
        trial("above", conditions(lambda w: songs[w.song], upper=lambda w: w.other))

    alignment = None
    if config.lyrics:
        alignment = alignment_figures(prior, true_songs, labels, model.vocabulary, windows, codes, seed)
    mean, error = metrics.mean_and_error(bits)
    _, entropy = metrics.codebook_use(torch.from_numpy(np.concatenate([c[level] for c in held.codes])), config.bins)
    return {
        "bits": mean, "se": error, "unigram_bits": entropy, "windows": len(windows), "alignment": alignment,
        "controls": {name: _figures(true, false, [w.song for w in windows]) for name, (true, false) in trials.items()},
    }  # fmt: skip


def _lyrics_at_true_times(false: Conditions, true: Conditions) -> Lyrics:
    """Another song's letters at the true song's times."""
    assert false.lyrics is not None and true.lyrics is not None
    return Lyrics(false.lyrics.ids, true.lyrics.seconds)


def _figures(true: np.ndarray, false: np.ndarray, songs: Sequence[int]) -> dict[str, float]:
    windows, by_song = metrics.paired(true, false), metrics.paired_by_song(list(true), list(false), songs)
    return {
        "true_bits": float(true.mean()), "control_bits": float(false.mean()), "difference": windows.mean,
        "se": windows.se, "z": windows.z, "se_songs": by_song.se, "z_songs": by_song.z,
    }  # fmt: skip


# ---- all of it


def evaluate_model(model: Jukebox, data: Path, *, windows: int = 96, songs: int = 16, seed: int = 0) -> dict:
    """Every figure of a model on the held-out songs of a data folder, ready for json."""
    held = hold_out(model, data, songs)
    figures: dict = {
        "songs": len(held.rows), "seconds": float(sum(w.shape[1] for w in held.waves) / model.sample_rate), "seed": seed,
        "codec": {str(level): f for level, f in codec_figures(model, held).items()}, "priors": {},
    }  # fmt: skip
    for level in sorted(model.prior_configs, reverse=True):
        figures["priors"][str(level)] = prior_figures(model, held, level, windows, seed)
    return figures


def tables(figures: dict) -> str:
    """The figures as two plain tables."""
    codec: list[list[object]] = [["codec", "SC dB", "se", "untrained dB", "codes used", "entropy bits"]]
    for level, f in sorted(figures["codec"].items()):
        codec.append(
            [
                f"level {level}",
                f["spectral_convergence_db"],
                f["se"],
                f["untrained_db"],
                f"{f['codes_used']:.0%}",
                f["entropy_bits"],
            ]
        )
    rows: list[list[object]] = [["prior", "condition", "bits true", "bits false", "difference", "se", "z", "z by song"]]
    for level, f in sorted(figures["priors"].items(), reverse=True):
        rows.append(
            [
                f"level {level}",
                "unigram entropy",
                f["bits"],
                f["unigram_bits"],
                f["unigram_bits"] - f["bits"],
                f["se"],
                None,
                None,
            ]
        )
        rows += [
            [f"level {level}", name, c["true_bits"], c["control_bits"], c["difference"], c["se"], c["z"], c["z_songs"]]
            for name, c in f["controls"].items()
        ]
    head = f"held out: {figures['songs']} songs, {figures['seconds']:.0f} s"
    followed = [alignment_table(level, f["alignment"]) for level, f in figures["priors"].items() if f["alignment"]]
    return "\n\n".join([head, metrics.table(codec), *([metrics.table(rows)] if len(rows) > 1 else []), *followed])


def alignment_table(level: str, figures: dict) -> str:
    """The scores of one prior's attention to its lyrics."""
    rows: list[list[object]] = [
        ["attention beside control", "on the word", "control", "difference", "se", "z", "z by song"]
    ]
    rows += [
        [name, t["score"], t["control"], t["difference"], t["se"], t["z"], t["z_songs"]]
        for name, t in figures["trials"].items()
    ]
    head = (
        f"level {level}: share of sung steps whose most heard letter is of the word being sung (layer {figures['layer']}, "
        f"head {figures['head']}; by chance {figures['chance']:.3f})"
    )
    return head + "\n" + metrics.table(rows)


# ---- the sound of what was made


def sound_figures(model: Jukebox, data: Path, runs: Sequence[Path], reference_songs: int = 48) -> list[dict]:
    """Statistics of every wav of some runs, beside recordings, their reconstructions and noise of the same colour.

    The Frechet distance is to the features (`metrics.sound_features`) of `reference_songs` training songs; the rows of real music
    and of its reconstructions are of pieces as long as the first run's, so that distances compare.
    """
    from jukebox.sampling.run import Run

    rows = load_manifest(data)
    opened = [Run.open(run) for run in runs]
    seconds = opened[0].request["seconds"]

    def load(row: SongRow, length: float | None = None) -> np.ndarray:
        return sound.read(
            audio_path(data, row), sample_rate=model.sample_rate, channels=model.codec_config.channels, seconds=length
        )[0]

    train = [row for row in rows if row.split == "train"][:reference_songs]
    held = [row for row in rows if row.split == "test"][:4]
    reference = torch.cat([metrics.sound_features(load(row), model.sample_rate) for row in train])

    def figures(name: str, waves: Sequence[np.ndarray | Tensor]) -> dict:
        values = [
            {**metrics.sound_statistics(w, model.sample_rate)._asdict(),
             "frechet": metrics.frechet_distance(reference, metrics.sound_features(w, model.sample_rate))}
            for w in waves
        ]  # fmt: skip
        return {"what": name, "pieces": len(values)} | {
            key: float(np.mean([v[key] for v in values])) for key in values[0]
        }

    real = [load(row, seconds) for row in held]
    table = [figures("held-out songs", real)]
    for level in model.trained_levels()[::-1]:
        codec, hop = model.codec([level]), model.hops[-1]
        cut = [torch.from_numpy(w[:, : w.shape[1] // hop * hop]) for w in real]
        made = [decode_long(codec, encode_long(codec, w[None], (level,))[level], level)[0] for w in cut]
        table.append(figures(f"reconstructed from level {level}", made))
    for run in opened:
        for level in run.request["levels"]:
            files = [run.audio_path(level, i) for i in range(run.n_samples)]
            prompt = (run.request["prompt"] or {}).get("seconds", 0.0)
            waves = [sound.read(file, start=prompt)[0] for file in files]
            table.append(figures(f"{run.folder.name}, level {level}{' (new part)' if prompt else ''}", waves))
    table.append(figures("noise of the same spectrum", [coloured_noise(w) for w in real]))
    return table


def coloured_noise(wave: np.ndarray, seed: int = 0) -> np.ndarray:
    """The sound (C, T) with random phases: the same long-term spectrum, and no music."""
    spectrum = np.fft.rfft(wave)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, spectrum.shape)
    return np.fft.irfft(np.abs(spectrum) * np.exp(1j * phases), n=wave.shape[-1]).astype(np.float32)


def sound_table(rows: list[dict]) -> str:
    columns = ["loudness_db", "peak", "clipped", "flatness", "onsets", "peakiness", "chroma_change", "frechet"]
    return metrics.table([["sound", *columns], *[[row["what"], *[row[c] for c in columns]] for row in rows]])
