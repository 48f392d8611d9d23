"""Evaluation of a model on held-out songs; every figure has a control.

codec    Spectral convergence in dB of each stream. Control: the same network untrained. Share of codes used, and entropy of
         the codes. Effective dimension of latents: a value far below their width means collapse. Errors by band, at several
         gains and in silence, and upsampling tones (`fidelity.py`).
priors   Bits per code of each window under true conditions, paired with bits under false ones (`controls.py`: `CONTROLS`).
         For a prior that inpaints or has no likelihood: bits or loss if half of the frames are known.

A difference is control minus true, so a positive difference means that the condition helps. Standard errors are over windows
and over songs. The unigram entropy is the entropy of the held-out codes: the lower bound for a prior without context.
`jukebox/evaluation/attention.py` measures the attention to lyrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.audio import audio as sound
from data_prep.manifest import SongRow, audio_path, load_manifest
from jukebox.device import device_of
from jukebox.evaluation import metrics
from jukebox.evaluation.attention import alignment_figures
from jukebox.evaluation.controls import CONTROLS, HALF_KNOWN_CONTROLS, Control
from jukebox.evaluation.fidelity import FIDELITY, fidelity_figures, silence_level
from jukebox.evaluation.held_out import HeldOut, PriorWindows, hold_out
from jukebox.evaluation.sound import coloured_noise
from jukebox.model.folder import ModelFolder, build_codec
from jukebox.runs.run import Run
from jukebox.song import song_of
from priors.conditioning.conditions import Conditions, stack
from priors.prior import Batch, Mask, Prior, ScoresLyrics, Sequences
from vqvae.codec import as_tensor, effective_dimension

REFERENCE_SECONDS = 20.0  # seconds of each training song for the Frechet distance
HALF_KNOWN_WINDOWS = 24  # largest number of windows, because a window of all streams is slow

# ---- the codec


def codec_figures(model: ModelFolder, held: HeldOut, seconds: float = 10.0) -> dict[str, dict[str, float]]:
    """Return the figures of the reconstruction by level, with an untrained codec as control.

    A stream of codes adds the use of the codebook. A stream of latents adds the effective dimension.
    """
    figures = {}
    for name in model.decodable_streams():
        trained, stream, unit = model.codec([name]), model.spec.stream(name), model.spec.unit
        torch.manual_seed(0)
        untrained = build_codec(model.info.codec_of(name).config, [name])
        untrained.initialise(held.waves[0][None, :, : 2**16], torch.Generator().manual_seed(0))
        untrained.eval()
        trained_sc, untrained_sc, fidelity = [], [], []
        for wave, codes in zip(held.waves, held.codes, strict=True):
            length = min(wave.shape[1], int(seconds * model.sample_rate)) // unit * unit
            true = wave[None, :, :length]
            made = trained.decode_long(as_tensor(codes[name][None, : length // stream.hop]), name)
            trained_sc.append(metrics.spectral_convergence(true, made).item())
            fidelity.append(fidelity_figures(trained, name, true, made))
            control = untrained.decode_long(untrained.encode_long(true, [name])[name], name)
            untrained_sc.append(metrics.spectral_convergence(true, control).item())
        mean, error = metrics.mean_and_error([20 * np.log10(value) for value in trained_sc])
        level = str(model.spec.names.index(name))
        control_db = float(np.mean(20 * np.log10(untrained_sc)))
        figures[level] = {"spectral_convergence_db": mean, "se": error, "untrained_db": control_db}
        means = {key: float(np.mean([each[key] for each in fidelity])) for key in fidelity[0]}
        figures[level] |= {**means, "silence_db": silence_level(trained, name)}
        if stream.bins:
            used, entropy = metrics.codebook_use(_all_codes(held, name), stream.bins)
            figures[level] |= {"codes_used": used, "entropy_bits": entropy}
        else:
            figures[level]["effective_dimension"] = effective_dimension(_all_codes(held, name)).item()
    return figures


def _all_codes(held: HeldOut, stream: str) -> Tensor:
    return as_tensor(np.concatenate([codes[stream] for codes in held.codes]))


# ---- priors


@torch.no_grad()
def window_bits(prior: Prior, codes: Tensor, conditions: Sequence[Conditions], batch: int = 8) -> Float[np.ndarray, " n"]:
    """Bits per code of each window of `codes` (n, t). The prior writes one stream and has a likelihood."""
    (stream,), parts, device = prior.spec.writes, [], device_of(prior)
    for i in range(0, len(codes), batch):
        bits = prior.nll({stream: codes[i : i + batch].to(device)}, stack(conditions[i : i + batch]).to(device))
        assert bits is not None, "a prior without likelihood"
        parts.append(bits[stream].mean(dim=1).cpu())
    return torch.cat(parts).double().numpy()


@torch.no_grad()
def window_cost(
    prior: Prior, sequences: Sequences, known: Mask, conditions: Sequence[Conditions]
) -> tuple[str, Float[np.ndarray, " n"]]:
    """Return ("bits", mean bits of the unknown frames of each window), or ("loss", losses) if the prior has no likelihood."""
    costs, measure, device = [], "bits", device_of(prior)
    for i, cond in enumerate(conditions):
        window, mask = ({stream: x[i : i + 1] for stream, x in each.items()} for each in (sequences, known))
        batch = Batch(window, cond, mask).to(device)
        with torch.random.fork_rng(devices=[]):  # the noise in a loss is the same under all conditions
            torch.manual_seed(i)
            if (bits := prior.nll(batch.sequences, batch.cond, batch.known)) is None:
                measure = "loss"
                costs.append(prior.loss(batch)["loss"].item())
            else:
                costs.append(torch.stack([x.nanmean() for x in bits.values()]).mean().item())
    return measure, np.array(costs)


def prior_figures(model: ModelFolder, held: HeldOut, name: str, count: int, seed: int, device: str = "cpu") -> dict:
    """Return bits per code of one prior under true and false conditions, or `half_known_figures`.

    `half_known_figures` are for priors that inpaint, write several streams or have no likelihood.
    """
    prior, labels = model.prior(name).to(device), model.labels_of(name)
    config, (stream, *others) = prior.config, prior.config.spec.writes
    drawn = PriorWindows.draw(model, config, held, count, seed, labels)
    if config.spec.prompt != "prefix" or others or not _has_likelihood(prior, drawn):
        return half_known_figures(prior, drawn, seed)
    codes, written = drawn.sequences()[stream], model.spec.stream(stream)
    rng = np.random.default_rng([seed, written.seed_key])
    figures = control_figures(CONTROLS, drawn, lambda cond: ("bits", window_bits(prior, codes, cond)), rng)
    songs = [song_of(row) for row in held.rows]
    given = (prior, songs, labels, model.vocabulary, drawn.windows, codes, seed)
    alignment = alignment_figures(*given) if config.lyrics and isinstance(prior, ScoresLyrics) else None
    # in bits per frame, over all books of a frame
    entropy = written.books * metrics.codebook_use(_all_codes(held, stream), written.bins)[1] if written.bins else None
    return {**figures, "unigram_bits": entropy, "alignment": alignment}


@torch.no_grad()
def _has_likelihood(prior: Prior, drawn: PriorWindows) -> bool:
    one = replace(drawn, windows=drawn.windows[:1])
    batch = Batch(one.sequences(), one.conditions()[0]).to(device_of(prior))
    return prior.nll(batch.sequences, batch.cond) is not None


def control_figures(
    controls: Sequence[Control[PriorWindows]], drawn: PriorWindows, cost: Callable[[list[Conditions]], tuple[str, np.ndarray]],
    rng: np.random.Generator,
) -> dict:  # fmt: skip
    """Return the bits or the loss of windows under their true conditions, compared with each control that applies."""
    measure, costs = cost(drawn.conditions())
    mean, error = metrics.mean_and_error(costs)
    songs, figures = [window.song for window in drawn.windows], {}
    for control in controls:
        if control.applies(drawn):
            true = cost(control.truth(drawn, rng))[1] if control.truth else costs
            false = cost(control.corrupt(drawn, rng))[1]
            means = {f"true_{measure}": float(true.mean()), f"control_{measure}": float(false.mean())}
            figures[control.name] = means | metrics.paired_figures(true, false, songs)
    return {measure: mean, "se": error, "windows": len(costs), "controls": figures}


def half_known_figures(prior: Prior, drawn: PriorWindows, seed: int) -> dict:
    """Return bits or loss if half of the frames of each written stream are known.

    Known frames are the first half, or random frames for a prior with prompt "any".
    """
    drawn, rng = replace(drawn, windows=drawn.windows[:HALF_KNOWN_WINDOWS]), torch.Generator().manual_seed(seed)
    sequences, known = drawn.sequences(), {}
    for stream, x in sequences.items():
        at_random = torch.rand(x.shape[:2], generator=rng) < 0.5
        first = (torch.arange(x.shape[1]) < x.shape[1] // 2).expand(x.shape[:2])
        known[stream] = at_random if prior.spec.prompt == "any" else first
    cost, others = partial(window_cost, prior, sequences, known), np.random.default_rng(seed)
    return {**control_figures(HALF_KNOWN_CONTROLS, drawn, cost, others), "alignment": None}


# ---- all figures of a model


def evaluate_model(
    model: ModelFolder, data: Path, *, windows: int = 96, songs: int = 16, seed: int = 0, device: str = "cpu"
) -> dict:
    """Compute all figures of a model on the held-out songs of a data folder, for json.

    Priors run on `device`, codecs on the CPU.
    """
    held = hold_out(model, data, songs)
    figures: dict = {
        "songs": len(held.rows), "seconds": float(sum(w.shape[1] for w in held.waves) / model.sample_rate), "seed": seed,
        "codec": codec_figures(model, held), "priors": {},
    }  # fmt: skip
    for name in sorted(model.info.priors, reverse=True):
        key = name[6:] if re.fullmatch(r"prior_\d+", name) else name  # the prior of a level has its number as key
        figures["priors"][key] = prior_figures(model, held, name, windows, seed, device)
    return figures


def tables(figures: dict) -> str:
    """Format the figures as plain tables: codec, fidelity, priors and attention."""
    codec: list[list[object]] = [["codec", "SC dB", "se", "untrained dB", "codes used", "entropy bits", "dimensions"]]
    for level, f in sorted(figures["codec"].items()):
        used = f"{f['codes_used']:.0%}" if "codes_used" in f else None
        more = [f.get(name) for name in ("entropy_bits", "effective_dimension")]
        codec.append([f"level {level}", f["spectral_convergence_db"], f["se"], f["untrained_db"], used, *more])
    fidelity: list[list[object]] = [["fidelity", *(f"level {level}" for level in sorted(figures["codec"]))]]
    fidelity += [[name, *(f.get(name) for _, f in sorted(figures["codec"].items()))] for name in FIDELITY]
    rows: list[list[object]] = [["prior", "condition", "bits true", "bits false", "difference", "se", "z", "z by song"]]
    for key, f in sorted(figures["priors"].items(), key=lambda each: (each[0].isdigit(), each[0]), reverse=True):
        rows += _prior_rows(f"level {key}" if key.isdigit() else key, f)
    head = f"held out: {figures['songs']} songs, {figures['seconds']:.0f} s"
    followed = [alignment_table(level, f["alignment"]) for level, f in figures["priors"].items() if f["alignment"]]
    return "\n\n".join(
        [head, metrics.table(codec), metrics.table(fidelity), *([metrics.table(rows)] if len(rows) > 1 else []), *followed]
    )


def _prior_rows(name: str, f: dict[str, Any]) -> list[list[object]]:
    """Return a prior's rows of the table. If the values are a loss instead of bits, the name of the condition states this."""
    rows: list[list[object]] = []
    measure, what = ("bits", "") if "bits" in f else ("loss", ", loss")
    if (entropy := f.get("unigram_bits")) is not None:
        rows.append([name, "unigram entropy", f["bits"], entropy, entropy - f["bits"], f["se"], None, None])
    for control, c in f["controls"].items():
        values = [c[f"true_{measure}"], c[f"control_{measure}"], c["difference"], c["se"], c["z"], c["z_songs"]]
        rows.append([name, control + what, *values])
    return rows


def alignment_table(level: str, figures: dict) -> str:
    """Format the scores of one prior's attention to lyrics as a plain table."""
    rows: list[list[object]] = [["attention beside control", "on the word", "control", "difference", "se", "z", "z by song"]]
    columns = ("score", "control", "difference", "se", "z", "z_songs")
    rows += [[name, *(trial[c] for c in columns)] for name, trial in figures["trials"].items()]
    head = (
        f"level {level}: share of sung steps whose most attended token is of the word being sung (layer {figures['layer']}, "
        f"head {figures['head']}; by chance {figures['chance']:.3f})"
    )
    return head + "\n" + metrics.table(rows)


# ---- the sound of generated audio


def sound_figures(model: ModelFolder, data: Path, runs: Sequence[Path], reference_songs: int = 48) -> list[dict]:
    """Compute mean statistics of the audio of runs, held-out songs, their reconstructions, and noise of the same spectrum.

    The Frechet distance compares features (`metrics.sound_features`) with the features of `reference_songs` training songs.
    Held-out songs and their reconstructions have the length of the first run, so that distances are comparable.
    """
    rows = load_manifest(data)
    opened = [Run.open(run) for run in runs]
    seconds = opened[0].request["seconds"]

    def load(row: SongRow, length: float | None = None) -> np.ndarray:
        return sound.read(audio_path(data, row), sample_rate=model.sample_rate, channels=model.spec.channels, seconds=length)[0]

    train = [row for row in rows if row.split == "train"][:reference_songs]
    held = [row for row in rows if row.split == "test"][:4]
    reference = torch.cat([metrics.sound_features(load(row, REFERENCE_SECONDS), model.sample_rate) for row in train])

    def figures(name: str, waves: Sequence[np.ndarray | Tensor]) -> dict:
        values = [
            {**metrics.sound_statistics(w, model.sample_rate)._asdict(),
             "frechet": metrics.frechet_distance(reference, metrics.sound_features(w, model.sample_rate))}
            for w in waves
        ]  # fmt: skip
        return {"what": name, "pieces": len(values)} | {key: float(np.mean([v[key] for v in values])) for key in values[0]}

    real = [load(row, seconds) for row in held]
    table = [figures("held-out songs", real)]
    written = {stream for route in model.info.routes.values() for stream in route.priors}
    for stream in model.decodable_streams()[::-1]:
        if stream not in written:  # no route writes it
            continue
        codec, unit = model.codec([stream]), model.spec.unit
        cut = [torch.from_numpy(w[:, : w.shape[1] // unit * unit]) for w in real]
        made = [codec.decode_long(codec.encode_long(w[None], [stream])[stream], stream)[0] for w in cut]
        table.append(figures(f"reconstructed from level {model.spec.names.index(stream)}", made))
    for run in opened:
        for level in run.request["levels"]:
            prompt = (run.request["prompt"] or {}).get("seconds", 0.0)
            waves = [sound.read(run.audio_path(level, i), start=prompt)[0] for i in range(run.n_samples)]
            table.append(figures(f"{run.folder.name}, level {level}{' (new part)' if prompt else ''}", waves))
    table.append(figures("noise of the same spectrum", [coloured_noise(w) for w in real]))
    return table


def sound_table(rows: list[dict]) -> str:
    columns = ["loudness_db", "peak", "clipped", "flatness", "onsets", "peakiness", "chroma_change", "frechet"]
    return metrics.table([["sound", *columns], *[[row["what"], *[row[c] for c in columns]] for row in rows]])


def joins(model: ModelFolder, run: Run, level: int) -> list[float]:
    """Return the boundaries in seconds between sampled windows of a level. Given codes have no boundaries."""
    given, hop = run.request["given"].get(str(level), 0), run.request["hops"][level]
    made = run.segments(level, given) if str(level) in run.request.get("planners", {}) else ()
    return [segment.begin * hop / model.sample_rate for segment in made if segment.begin]


def seam_figures(model: ModelFolder, run: Run, level: int) -> list[metrics.Seams]:
    """Return `metrics.seams` of each sample of a run at the window boundaries of one level; empty if there is one window."""
    where = joins(model, run, level)
    waves = [sound.read(run.audio_path(level, i))[0] for i in range(run.n_samples)] if where else []
    return [metrics.seams(wave, model.sample_rate, where) for wave in waves]
