"""`jukebox ablate musika`: evaluation of latent GANs over seeds. Each figure has a control.

A unit is a seed and an arm. It trains a GAN in a copy of MODEL on the songs of DATA. The second autoencoder of MODEL is already
trained. In the arm "shuffled" each song has the tempo and note density of another song.

    codec     distance of log magnitudes decoded by both decoders, of held-out songs; control: the mean frame
    phases    multi-scale spectral distance of the decoded audio; controls: phase 0 and random phases with equal magnitudes
    latents   Frechet distance of windows, and deviation; controls: the untrained generator, and distance of true windows
    seams     jumps between patches over jumps inside patches; controls: the same patches in another order, and true windows
              with and without a second half of another window
    style     variance of the mean latent between patches of one style; control: another style for each patch
    controls  rank correlation of requested and measured density, octaves between requested and measured tempo; control: the arm
              "shuffled"
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.errors import UserError
from jukebox.evaluation import metrics
from jukebox.evaluation.held_out import HeldOut, hold_out
from jukebox.evaluation.sound import tempo
from jukebox.model.codes import folders_with
from jukebox.model.folder import ModelFolder, build_prior
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from jukebox.sampling.live import LiveMusic
from jukebox.song import Song
from launch.ablate.experiment import Arm, Experiment, FigureRows, Figures, Unit, preset_and_codec, titled
from launch.render.decodings import PHASES, Predicted
from priors.conditioning.conditions import Conditions, stack
from priors.gan.config import GanParams
from priors.gan.model import GanPrior
from priors.noise import Generators
from priors.prior import Known, Window, sample_window
from vqvae.spectral.config import LATENTS, STACKED
from vqvae.spectral.model import SpectralCodec

WINDOWS, ROWS, PATCHES = 512, 32, 8  # true windows; generated sequences; patches of a generated sequence
LEVELS = 5  # requested values of a control: quantiles of the training songs, because a network cannot know other values
SECONDS = 12.0  # of a clip, and of a held-out song


def check(unit: Unit) -> None:
    """Raise UserError if the preset has no latent GAN, or DATA has no latents of the model."""
    if not find(unit.preset).parts("gan"):
        raise UserError(f"the preset {unit.preset} has no latent GAN; take one that has, such as musika")
    if not folders_with(unit.data, ModelInfo.read(unit.model), STACKED):
        raise UserError(f"{unit.data} holds no {STACKED} of {unit.model}; run `jukebox encode {unit.data} {unit.model}` first")


def train_and_measure(unit: Unit) -> Figures:
    preset, folder = find(unit.preset), unit.folder / "model"
    if not (folder / "config.json").is_file():
        shutil.copytree(unit.model, folder, ignore=shutil.ignore_patterns("training", ".lock"), dirs_exist_ok=True)
    model = ModelFolder.from_pretrained(folder)
    sizes = len(model.labels.artists), len(model.labels.genres)
    task = unit.new_task(model, "gan", preset.prior_recipes["gan"], preset.priors["gan"].for_corpus(*sizes))
    if unit.arm.changes:
        shuffle_controls(task)
    unit.train(task)
    task.open()
    model = ModelFolder.from_pretrained(folder)
    prior: Any = model.prior("gan")
    held = hold_out(model, unit.data, unit.songs, SECONDS)
    codec: Any = model.codec([LATENTS, STACKED])
    return {
        "codec": codec_figures(codec, held),
        "phases": phase_figures(codec, held),
        **latent_figures(prior, *true_windows(task)),
        "controls": control_figures(model, unit.seed, unit.songs, requested_values(task)),
    }


def shuffle_controls(task: Any) -> None:
    """Change a task so that each song has the tempo and note density that the next song has half a song later."""
    opened = task.open

    def open_shuffled() -> None:
        opened()
        own = list(task.curves.values())
        for mine, other in zip(list(task.curves), own[1:] + own[:1], strict=True):
            # half a song later: all songs begin and end with few notes
            task.curves[mine] = {
                name: np.roll(np.resize(other[name], len(curve)), len(curve) // 2) for name, curve in task.curves[mine].items()
            }

    task.open = open_shuffled


# ---- figures


def codec_figures(codec: SpectralCodec, held: HeldOut) -> Figures:
    """Return the mean distance of log magnitudes of held-out songs, decoded by one or both decoders, and of the mean frame."""
    found: dict[str, list[float]] = {"one": [], "both": [], "mean_frame": []}
    for wave in held.waves:
        audio = torch.as_tensor(wave)[None, :, : wave.shape[-1] // codec.spec.unit * codec.spec.unit].to(codec.device)
        with torch.no_grad():
            true = (codec.spectra(audio).abs() + codec.config.floor).log()
            sequences = codec.encode(audio, [LATENTS, STACKED])
            for name, stream in (("one", LATENTS), ("both", STACKED)):
                made = codec.magnitudes(codec.decoder.hidden(codec.latents_of(sequences, stream)))
                found[name].append(((made + codec.config.floor).log() - true).abs().mean().item())
        found["mean_frame"].append((true - true.mean(1, keepdim=True)).abs().mean().item())
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means | {"ratio": means["both"] / means["mean_frame"]}


def phase_figures(codec: SpectralCodec, held: HeldOut) -> Figures:
    """Return the mean multi-scale distance of held-out songs through both decoders, with learned, zero and random phases."""
    found: dict[str, list[float]] = {"refined": [], "zero": [], "random": []}
    for wave in held.waves:
        audio = torch.as_tensor(wave)[None, :, : wave.shape[-1] // codec.spec.unit * codec.spec.unit].to(codec.device)
        with torch.no_grad():
            hidden = codec.decoder.hidden(codec.latents_of(codec.encode(audio, [STACKED]), STACKED))
            made, spectra = codec.magnitudes(hidden), codec.spectra(audio)
            given = Predicted(made[0], codec.decoder.slopes(hidden)[0], spectra[0])
            for name, distances in found.items():
                decoded = codec.audio_of(made * PHASES[name](codec.config, given))[0].mean(0)
                distances.append(metrics.multiscale_distance(audio[0].mean(0), decoded[: audio.shape[-1]]))
    learned, zero, random = (float(np.mean(distances)) for distances in found.values())
    return {"learned": learned, "zero": zero, "random": random, "ratio": learned / min(zero, random)}


def true_windows(task: Any) -> tuple[Float[Tensor, "n t e"], Conditions]:
    """Return WINDOWS windows of latents of the training songs, and the conditions of these windows."""
    batches = [task.batch(step, 0, 1) for step in range(max(1, WINDOWS // task.recipe.batch))]
    return torch.cat([batch.sequences[STACKED] for batch in batches]), stack([batch.cond for batch in batches])


def requested_values(task: Any) -> dict[str, list[float]]:
    """Return LEVELS values of each control: quantiles of its values in the frames of the training songs."""
    shares = np.linspace(0.02, 0.98, LEVELS)
    found = {name: [curves[name] for curves in task.curves.values()] for name in next(iter(task.curves.values()))}
    return {name: np.quantile(np.concatenate(curves), shares).tolist() for name, curves in found.items()}


def sequences_of(
    prior: GanPrior, rows: int, patches: int, params: GanParams | None = None, seed: int = 0, cond: Conditions | None = None
) -> Float[Tensor, "b t e"]:
    """Generate `rows` sequences of `patches` patches. Without `cond` all conditions are unknown."""
    frames, width = patches * prior.config.patch, prior.config.latent
    noise = Generators([torch.Generator().manual_seed(seed + i) for i in range(rows)])
    known = Known.prefix(STACKED, torch.zeros(rows, 0, width), frames)
    given = {STACKED: params or GanParams()}
    return sample_window(prior, Window(0, frames, frames), known, cond or Conditions(), noise, given)[STACKED]


def latent_figures(prior: GanPrior, true: Float[Tensor, "n t e"], cond: Conditions | None = None) -> Figures:
    """Compute the figures that need only latents: Frechet distances, deviations, seams and style.

    `cond` are the conditions of the windows `true`, which the generated windows get as well.
    """
    torch.manual_seed(0)
    untrained, patch = build_prior(prior.config).eval(), prior.config.patch
    assert isinstance(untrained, GanPrior)
    made, before = (sequences_of(each, len(true), 2, cond=cond) for each in (prior, untrained))
    half, reference = len(true) // 2, window_features(true)
    distance = {
        "trained": metrics.frechet_distance(reference, window_features(made)),
        "untrained": metrics.frechet_distance(reference, window_features(before)),
        "true": metrics.frechet_distance(reference[:half], reference[half:]),
    }
    distance["ratio"] = distance["trained"] / distance["untrained"]
    deviation = {"true": true.std(0).mean().item(), "made": made.std(0).mean().item()}
    deviation["ratio"] = deviation["made"] / deviation["true"]
    unrelated = torch.cat([true[:, :patch], true.roll(1, 0)[:, patch:]], dim=1)
    in_true = {"true": seam_figures(true, patch)["own"], "true_unrelated": seam_figures(unrelated, patch)["own"]}
    return {
        "latents": distance,
        "deviation": deviation,
        "seams": seam_figures(sequences_of(prior, ROWS, PATCHES, seed=10_000), patch) | in_true,
        "style": style_figures(prior),
    }


def window_features(windows: Float[Tensor, "n t e"]) -> Float[Tensor, "n d"]:
    """Mean and deviation over time of each channel."""
    return torch.cat([windows.mean(1), windows.std(1)], dim=1).double()


def seam_figures(sequences: Float[Tensor, "b t e"], patch: int) -> Figures:
    """Return the jumps between patches over the jumps inside, in the true order and in another order of patches."""

    def ratio(x: Float[Tensor, "b t e"]) -> float:
        jumps = (x[:, 1:] - x[:, :-1]).norm(dim=-1)
        between = torch.arange(jumps.shape[1]) % patch == patch - 1
        return (jumps[:, between].mean() / jumps[:, ~between].mean()).item()

    patches = sequences.unflatten(1, (-1, patch))
    order = [i for first in range(3) for i in range(first, patches.shape[1], 3)]
    found = {"own": ratio(sequences), "other_order": ratio(patches[:, order].flatten(1, 2))}
    return found | {"ratio": found["other_order"] / found["own"]}


def style_figures(prior: GanPrior) -> Figures:
    """Return the variance of the mean latent between patches of one style, and between patches of different styles."""

    def variance(patches: Float[Tensor, "b p t e"]) -> float:
        return patches.mean(2).var(1).sum(-1).mean().item()

    styles = [sequences_of(prior, ROWS, PATCHES, GanParams(style=i)).unflatten(1, (PATCHES, -1)) for i in range(PATCHES)]
    found = {"one": variance(styles[0]), "each": variance(torch.stack([styles[i][:, i] for i in range(PATCHES)], dim=1))}
    return found | {"ratio": found["one"] / found["each"]}


def control_figures(model: ModelFolder, seed: int, count: int, requested: Mapping[str, Sequence[float]]) -> Figures:
    """Generate `count` clips for each requested density and tempo, and compare requested with measured values."""

    def clips(name: str, values: Sequence[float]) -> list[tuple[float, np.ndarray]]:
        music = LiveMusic(model, Song(), seed=seed)
        made = []
        for i in range(count * len(values)):
            music.params = replace(music.params, **{name: values[i % len(values)]})
            made.append((values[i % len(values)], np.concatenate(list(music.blocks(start=0.0, seconds=SECONDS)), axis=1)))
            music.noise = replace(music.noise, seed=seed + 1 + i)
        return made

    rate = model.sample_rate
    density = [
        (asked, metrics.onset_rate(torch.from_numpy(audio).mean(0), rate))
        for asked, audio in clips("density", requested["density"])
    ]
    octaves = [np.log2(tempo(torch.from_numpy(audio), rate) / asked) for asked, audio in clips("tempo", requested["tempo"])]
    return {
        "density_correlation": rank_correlation(*zip(*density, strict=True)),
        "tempo_octaves": float(np.median(np.abs(octaves - np.round(octaves)))),
    }


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation. Equal values have their mean rank."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        ordered = np.sort(values)
        return np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


EXPERIMENT = Experiment(
    train_and_measure,
    [Arm("own", "own", {"controls_of": "own"}), Arm("shuffled", "shuffled", {"controls_of": "shuffled"}, True)],
    check,
    rows=[
        FigureRows(titled("log magnitudes: ", "codec", "one", "both", "mean_frame", "ratio")),
        FigureRows(titled("multi-scale distance: ", "phases", "learned", "zero", "random", "ratio")),
        FigureRows(titled("Frechet distance of windows: ", "latents", "trained", "untrained", "true", "ratio")),
        FigureRows(titled("deviation of latents: ", "deviation", "made", "true", "ratio")),
        FigureRows(titled("jumps between patches over inside: ", "seams", "own", "other_order", "ratio", "true", "true_unrelated")),
        FigureRows(titled("variance between patches, styles: ", "style", "one", "each", "ratio")),
        FigureRows(titled("asked and found: ", "controls", "density_correlation", "tempo_octaves")),
    ],
    asked=preset_and_codec,
)  # fmt: skip
