"""Check exactness on a GPU in float32: recorded numbers of the published models, captured steps, and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from jukebox.importers.prior_keys import from_published
from jukebox.importers.vqvae_keys import vqvae_state
from jukebox.model.settings import prior_config, vqvae_config
from launch.bench.bench import conditions_of
from launch.bench.sample import start_window
from launch.gpu_check.part import Part, published
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import Conditions, Lyrics
from vqvae.jukebox.vqvae import VQVAE

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"  # in a checkout; tests/golden/README.md describes the files
RECORDED_PRIORS = ("prior_top_lyrics_single", "prior_top_lyrics_encdec_order8", "upsampler_tiny_level1")


@torch.no_grad()
def smoke(part: Part) -> None:
    torch.backends.cudnn.allow_tf32 = False  # no TF32: float32 is compared with float32
    if GOLDEN.is_dir():
        check_codec(part)
        for name in RECORDED_PRIORS:
            check_prior(part, name)
    else:
        part.write({"skipped": f"the recorded numbers, {GOLDEN}, are not there; run it in a checkout"})
    for name in ("prior_1b_lyrics", "prior_5b_lyrics", "upsampler_level_1"):
        check_steps(part, name)


def read_golden(part: Part, name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Return the settings, the weights under their published names, and the inputs with their outputs."""
    settings = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    state, io = (load_file(GOLDEN / f"{name}.{kind}.safetensors") for kind in ("state", "io"))
    return settings, state, {key: tensor.to(part.device) for key, tensor in io.items()}


def check_codec(part: Part) -> None:
    settings, state, io = read_golden(part, "vqvae_tiny")
    config = vqvae_config(settings["hps"])
    codec = VQVAE(config).eval()
    codec.load_state_dict(vqvae_state(state, config))
    codes = codec.to(part.device).encode(io["in.audio"].mT, config.spec.names)
    differ = sum(int((codes[f"vq.{level}"] != io[f"out.codes.level{level}"]).sum()) for level in range(config.levels))
    part.figure("vqvae_tiny: codes that differ from those recorded", differ, "codes", "float32", at_most=0)
    compare(part, "vqvae_tiny: audio and that recorded", codec.decode(codes, "vq.0").mT, io["out.decode.start_level0"], 1e-4)


def check_prior(part: Part, name: str) -> None:
    settings, state, io = read_golden(part, name)
    config = prior_config(settings["hps"], settings["vqvae_hps"])
    prior = AutoregressivePrior(config).eval()
    prior.load_state_dict(from_published(state, config))
    assert config.labels
    timing, artist, genres, ids = io["in.y"].split([3, 1, config.labels.max_genres, config.n_tokens], dim=1)
    lyrics = Lyrics(ids, ids * torch.nan) if config.lyrics else None
    logits = prior.to(part.device)(io["in.z"], Conditions(artist[:, 0], genres, timing, lyrics, io.get("in.z_cond")))
    compare(part, f"{name}: logits and those recorded", logits, io["out.logits"], 1e-4)


def check_steps(part: Part, name: str) -> None:
    """Compare the logits of a full forward pass with those of cached steps and of steps in a CUDA graph."""
    config = published(name, tiny=True)
    prior = part.prior(config, torch.float32, std=0.1)
    cond = conditions_of(prior, 2, 0).to(part.device)
    codes = torch.randint(config.bins, (2, config.n_ctx), device=part.device)
    plain, whole = step_logits(prior, codes, cond), prior(codes, cond)[:, prior.lyric_prefix + 1 :]
    compare(part, f"{name}, tiny: cached steps and a full forward pass", plain, whole, 1e-4)
    if part.device.type == "cuda":
        prior.compiled = True
        compare(part, f"{name}, tiny: captured and plain steps", step_logits(prior, codes, cond), plain, 1e-5)


def step_logits(prior: AutoregressivePrior, codes: Tensor, cond: Conditions) -> Tensor:
    """Return the logits (b, t - 1, k) of all codes except the first, each computed from the cache after the previous code."""
    state, shift = start_window(prior, codes[:, :1], cond, codes.shape[1]), prior.vocabulary - prior.config.bins
    logits: list[Any] = [state.output]
    for code in codes[:, 1:-1].unbind(1):
        prior.advance(state, code + shift)
        logits.append(state.output)
    return torch.stack(logits, dim=1)


def compare(part: Part, name: str, a: Tensor, b: Tensor, at_most: float) -> None:
    """Write the largest difference of two tensors as a share of the largest number of `b`."""
    part.figure(f"{name}, difference", ((a - b).abs().max() / b.abs().max()).item(), "share", "float32", at_most=at_most)
