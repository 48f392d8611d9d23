"""`jukebox ablate melody`: evaluation of latent diffusion over several seeds. Each figure has a control.

A unit is a seed and an arm. It trains a diffusion prior on DATA in a copy of MODEL. The codecs of MODEL are already trained. In
the arm "one angle" a training window has one diffusion angle (noise level) and no known frames. Measured windows come from
held-out songs and are conditioned on the tokens of these songs.

    codec         mel distance of reconstructions over the mel distance of silence; control: the latents of another song
    following     share of windows with audio that is nearest to the song of their tokens; control: tokens of the next window
    schedule      Frechet distance of windows for the linear and the uniform schedule and several numbers of steps, with equal
                  noise
    deviation     standard deviation of sampled latents over the standard deviation of true latents
    continuation  Frechet distance of the last chunks of a continuation over the distance of the first chunks; jumps between
                  chunks over jumps inside chunks

Windows are sampled with the default guidance, those of `following` also without.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.errors import UserError
from jukebox.evaluation import metrics
from jukebox.evaluation.held_out import HeldOut, hold_out
from jukebox.model.codes import folders_with
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from launch.ablate.experiment import Arm, Comparison, Experiment, FigureRows, Figures, Unit, preset_and_codec, titled
from priors.conditioning.conditions import Conditions
from priors.diffusion.config import DiffusionParams
from priors.diffusion.model import DiffusionPrior
from priors.noise import Generators
from priors.prior import Known, Window, sample_window
from vqvae.codec import Codec, as_tensor
from vqvae.latent.config import LATENT
from vqvae.spectral.config import TOKENS

PRIOR = "diffusion"
SECONDS, ROWS, CHUNKS = 12.0, 16, 8  # seconds of a held-out song; windows; chunks of a continuation
STEPS, MOST = 5, (2, 5, 10, 20)


class HeldOutWindows(NamedTuple):
    """Windows of held-out songs: latents, and the tokens of the same frames."""

    latents: Float[Tensor, "n t e"]
    tokens: Int[Tensor, "n s books"]


def check(unit: Unit) -> None:
    """Raise UserError if the preset has no latent diffusion, or DATA lacks latents or tokens of the model."""
    if not find(unit.preset).parts(PRIOR):
        raise UserError(f"the preset {unit.preset} has no latent diffusion; take one that has, such as melody")
    for stream in (LATENT, TOKENS):
        if not folders_with(unit.data, ModelInfo.read(unit.model), stream):
            raise UserError(
                f"{unit.data} holds no {stream} of {unit.model}; run `jukebox encode {unit.data} {unit.model}` first"
            )


def train_and_measure(unit: Unit) -> Figures:
    preset, folder = find(unit.preset), unit.folder / "model"
    if not (folder / "config.json").is_file():
        shutil.copytree(unit.model, folder, ignore=shutil.ignore_patterns("training", ".lock"), dirs_exist_ok=True)
    model = ModelFolder.from_pretrained(folder)
    config: Any = preset.priors[PRIOR].for_corpus(len(model.labels.artists), len(model.labels.genres))
    unit.train(unit.new_task(model, PRIOR, preset.prior_recipes[PRIOR], replace(config, **(unit.arm.changes or {}))))
    model = ModelFolder.from_pretrained(folder)
    prior: Any = model.prior(PRIOR)
    held, codec = hold_out(model, unit.data, unit.songs, SECONDS), model.codec([LATENT])
    windows = windows_of(held, prior, prior.config.window, ROWS)
    return {
        "codec": codec_figures(codec, held),
        "following": following_figures(prior, codec, windows),
        **schedule_figures(prior, windows),
        "continuation": continuation_figures(prior, held),
    }


# ---- windows


def windows_of(held: HeldOut, prior: DiffusionPrior, frames: int, most: int) -> HeldOutWindows:
    """Return at most `most` windows of `frames` frames, spread over the songs; UserError if all songs are shorter."""
    ratio, places = prior.config.ratio, []
    for codes in held.codes:
        places += [(codes, start) for start in range(0, len(codes[LATENT]) - frames + 1, frames)]
    if not places:
        raise UserError(f"no held-out song has {frames} frames of {LATENT}; prepare longer songs")
    some = [places[i * len(places) // min(most, len(places))] for i in range(min(most, len(places)))]
    latents = [as_tensor(codes[LATENT][start : start + frames]) for codes, start in some]
    tokens = [as_tensor(codes[TOKENS][start // ratio : (start + frames) // ratio]) for codes, start in some]
    return HeldOutWindows(torch.stack(latents), torch.stack(tokens))


def sampled(
    prior: DiffusionPrior,
    tokens: Int[Tensor, "n s books"],
    params: DiffusionParams,
    known: Tensor | None = None,
    start: int = 0,
) -> Float[Tensor, "n t e"]:
    """Sample windows of latents from tokens, after the `known` latents, without labels.

    The noise depends on the row only, so it is equal for all parameters.
    """
    rows, frames = len(tokens), tokens.shape[1] * prior.config.ratio
    given = torch.zeros(rows, 0, prior.config.latent) if known is None else known
    noise = Generators([torch.Generator().manual_seed(i) for i in range(rows)])
    window = Window(start, frames, start + frames)
    return sample_window(prior, window, Known.prefix(LATENT, given, frames), Conditions(above=tokens), noise, {LATENT: params})[
        LATENT
    ]


def continued(prior: DiffusionPrior, tokens: Int[Tensor, "n s books"], params: DiffusionParams) -> Float[Tensor, "n t e"]:
    """Sample a first window, then chunk after chunk. The prompt of a chunk is the previous latents of its window."""
    config = prior.config
    chunk, ratio = config.window // config.chunks, config.ratio
    made = sampled(prior, tokens[:, : config.window // ratio], params)
    while made.shape[1] < tokens.shape[1] * ratio:
        first = made.shape[1] - config.window + chunk
        some = tokens[:, first // ratio : (first + config.window) // ratio]
        made = torch.cat([made, sampled(prior, some, params, made[:, first:], first)[:, -chunk:]], dim=1)
    return made


# ---- figures


def features(prior: DiffusionPrior, latents: Float[Tensor, "n t e"]) -> Float[Tensor, "n d"]:
    """Mean and deviation over time of each latent channel, times 10.

    The factor keeps deviations above .5, which is the least deviation in `frechet_distance`.
    """
    normal = 10 * prior.normalised(latents)
    return torch.cat([normal.mean(1), normal.std(1)], dim=1).double()


def mels(codec: Codec, latents: Float[Tensor, "n t e"]) -> Float[Tensor, "n d"]:
    """Log-mel bands in dB of the decoded audio of each window."""
    rate = codec.spec.sample_rate
    audio = codec.decode_long(latents, LATENT).mean(1)
    return torch.stack([metrics.log_mel(each, rate, 64, 100, 0.046).clamp(min=-60).flatten() for each in audio])


def codec_figures(codec: Codec, held: HeldOut) -> Figures:
    """Return mel distances of reconstructions, of other songs' latents and of silence, and the largest absolute latent."""
    unit, found = codec.spec.unit, {"own": 0.0, "other": 0.0, "silence": 0.0}
    length = min(wave.shape[-1] for wave in held.waves) // unit * unit
    audio = torch.stack([torch.as_tensor(wave)[:, :length] for wave in held.waves])
    latents = codec.encode_long(audio, [LATENT])[LATENT]
    arms = {"own": codec.decode_long(latents, LATENT), "other": codec.decode_long(latents.roll(1, 0), LATENT)}
    for name, made in (arms | {"silence": torch.zeros_like(audio)}).items():
        pairs = [(x.mean(0), y.mean(0)) for x, y in zip(audio, made, strict=True)]
        found[name] = sum(metrics.mel_distance(x, y, codec.spec.sample_rate) for x, y in pairs) / len(pairs)
    largest = latents.abs().max().item()
    return found | {
        "ratio": found["own"] / found["silence"],
        "other_ratio": found["other"] / found["silence"],
        "largest": largest,
    }


def following_figures(prior: DiffusionPrior, codec: Codec, windows: HeldOutWindows) -> Figures:
    """Return the shares of windows that are nearest to the true window of their tokens, and mean mel distances in dB.

    Windows are sampled from own tokens and from tokens of another window, without and with guidance.
    """
    true, tokens = mels(codec, windows.latents), windows.tokens

    def nearest(tokens: Tensor, guidance: float) -> tuple[float, float]:
        away = torch.cdist(mels(codec, sampled(prior, tokens, DiffusionParams(STEPS, guidance))), true, p=1) / true.shape[1]
        return (away.argmin(1) == torch.arange(len(true))).float().mean().item(), away.diagonal().mean().item()

    found: Figures = {"chance": 1 / len(true)}
    for prefix, guidance in (("", 1.0), ("guided_", DiffusionParams.token_guidance)):
        for name, some in (("own", tokens), ("other", tokens.roll(1, 0))):
            found[prefix + name], found[f"{prefix}{name}_mel"] = nearest(some, guidance)
    return found


def schedule_figures(prior: DiffusionPrior, windows: HeldOutWindows) -> Figures:
    """Return Frechet distances and relative deviations by schedule and number of steps."""
    reference = features(prior, windows.latents)
    found: Figures = {}
    deviation = {"true": prior.normalised(windows.latents).std().item()}
    for steps in MOST:
        for schedule in ("linear", "uniform"):
            made = sampled(prior, windows.tokens, DiffusionParams(steps, schedule=schedule))  # type: ignore[arg-type]
            found[f"{schedule}_{steps}"] = metrics.frechet_distance(reference, features(prior, made))
            deviation[f"{schedule}_{steps}"] = prior.normalised(made).std().item() / deviation["true"]
        found[f"ratio_{steps}"] = found[f"linear_{steps}"] / max(found[f"uniform_{steps}"], 1e-9)
    found["five_to_twenty"] = found["linear_5"] / max(found["linear_20"], 1e-9)
    return {"schedule": found, "deviation": deviation}


def continuation_figures(prior: DiffusionPrior, held: HeldOut) -> Figures:
    """Continue windows by `CHUNKS` chunks, and return Frechet distances of chunks and jumps between chunks."""
    config = prior.config
    chunk = config.window // config.chunks
    whole = windows_of(held, prior, config.window + CHUNKS * chunk, ROWS)
    made = continued(prior, whole.tokens, DiffusionParams(10))

    def chunks(latents: Tensor) -> Tensor:
        return features(prior, latents.unfold(1, chunk, chunk).mT.flatten(0, 1))  # (N, T, E) -> (N * M, chunk, E)

    def distance(first: int) -> float:
        """Frechet distance of two chunks of each sequence, because one chunk gives too few rows."""
        return metrics.frechet_distance(chunks(whole.latents), chunks(made[:, first : first + 2 * chunk]))

    begin, end = distance(config.window), distance(made.shape[1] - 2 * chunk)
    jumps = jump_ratio(made[:, config.window - chunk :], chunk), jump_ratio(whole.latents[:, config.window - chunk :], chunk)
    return {"first": begin, "last": end, "ratio": end / max(begin, 1e-9), "jumps": jumps[0], "true_jumps": jumps[1]}


def jump_ratio(latents: Float[Tensor, "n t e"], chunk: int) -> float:
    """Mean jump of latents between chunks over the mean jump inside chunks."""
    jumps = (latents[:, 1:] - latents[:, :-1]).norm(dim=-1)
    between = torch.arange(jumps.shape[1]) % chunk == chunk - 1
    return (jumps[:, between].mean() / jumps[:, ~between].mean()).item()


_FOLLOWING = (
    "chance",
    *(f"{kind}{name}{mel}" for kind in ("", "guided_") for name in ("own", "other") for mel in ("", "_mel")),
)
_ALL: Sequence[str] = tuple(f"{schedule}_{steps}" for steps in MOST for schedule in ("linear", "uniform"))
EXPERIMENT = Experiment(
    train_and_measure,
    [
        Arm("multi-chunk", "multi", {"angles": "multi"}),
        Arm("one angle", "single", {"angles": "single"}, {"multi_chunk": False}),
    ],
    check,
    rows=[
        FigureRows(titled("mel distance of reconstructions: ", "codec", "own", "other", "silence", "ratio", "other_ratio", "largest")),
        FigureRows(titled("nearest to the song of their tokens: ", "following", *_FOLLOWING)),
        FigureRows(titled("Frechet distance of windows: ", "schedule", *_ALL, *(f"ratio_{n}" for n in MOST), "five_to_twenty")),
        FigureRows(titled("deviation of latents: ", "deviation", "true", *_ALL)),
        FigureRows(titled("continuation by chunks: ", "continuation", "first", "last", "ratio", "jumps", "true_jumps")),
    ],
    comparisons=[
        Comparison("last chunk, one angle over multi-chunk", "one angle", "multi-chunk", "continuation.last", "1.2 or more", ratio=True)
    ],
    asked=preset_and_codec,
)  # fmt: skip
