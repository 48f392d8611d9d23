"""Measure speed on a GPU: decoding at the published shapes, int8, the registry's port, masked decoding, the published codec."""

from __future__ import annotations

import math
import time

import torch

from jukebox.model.presets import PRESETS
from jukebox.model.settings import VQVAES, vqvae_config
from jukebox.runs.windows import WARM_UP, parallel_windows
from launch.bench.alternate import wait_for_gpu
from launch.bench.bench import conditions_of
from launch.bench.peers import timing
from launch.bench.sample import start_window
from launch.bench.upsample import fill_levels
from launch.gpu_check.part import Part, published
from priors.autoregressive.model import AutoregressivePrior
from vqvae.jukebox.vqvae import VQVAE

MINUTE, RATE, HOPS = 60.0, 44_100, (128, 32, 8)  # seconds of music; samples per second, and per code of each level
TOP, UPSAMPLER = "prior_5b", "upsampler_level_1"  # the upsampler of level 0 has the same trunk
BATCHES = {TOP: (1, 16), UPSAMPLER: (1, 16, 64), "prior_1b_lyrics": (1, 16)}


def decode(part: Part) -> None:
    source = torch.ones(2**20 if part.tiny else 2**31, dtype=torch.bfloat16, device=part.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / part.seconds(lambda: target.copy_(source))
    part.figure("memory copied, bytes read and written", copied / 1e9, "GB/s")
    rates: dict[tuple[str, int], float] = {}
    for name, batches in BATCHES.items():
        config = published(name, part.tiny)
        prior = part.prior(config)
        for batch in batches:
            rate = rates[name, batch] = codes_per_second(part, prior, batch)
            part.figure(f"{name}, batch {batch}", rate, "codes/s")
            share = config.step_bytes("bfloat16", batch) * rate / batch / copied
            least = 0.5 if (name, batch) == (TOP, 1) else math.nan
            part.figure(f"{name}, batch {batch}: bytes read, of those copied", share, "share", at_least=least)
        del prior
        if name == UPSAMPLER:
            minutes(part, rates)


def codes_per_second(part: Part, prior: AutoregressivePrior, batch: int) -> float:
    """Return the codes per second of all batch rows together, sampled as in a song.

    The first block is not measured, because the step is captured in it.
    """
    prior.compiled, prior.block, codes = part.device.type == "cuda", *((8, 8) if part.tiny else (64, 512))
    nothing, cond = torch.zeros(batch, 0, dtype=torch.long, device=part.device), conditions_of(prior, batch, 0)
    updates = prior.sample(start_window(prior, nothing, cond.to(part.device), prior.block + codes))
    next(updates)
    wait_for_gpu()
    began = time.perf_counter()
    for _ in updates:
        pass
    wait_for_gpu()
    return batch * codes / (time.perf_counter() - began)


def minutes(part: Part, rates: dict[tuple[str, int], float]) -> None:
    """Write the time for a minute of music by the 5b top prior and both upsamplers, computed from their rates."""
    top, *lower = (int(MINUTE * RATE / hop) for hop in HOPS)
    one, many = (top / rates[TOP, batch] + sum(lower) / rates[UPSAMPLER, batch] for batch in (1, 16))
    part.figure("a minute of 5b music, one song", one / 60, "min", at_most=14)
    part.figure("5b music, 16 songs together", MINUTE / many, "s/s", at_least=1)
    n_ctx = published(UPSAMPLER, part.tiny).n_ctx
    windows = [len(list(parallel_windows(total, n_ctx, int(WARM_UP * n_ctx), 0))) for total in lower]
    steps = n_ctx * sum(-(-rows // 64) for rows in windows)  # steps of 64 batch rows; a step with fewer rows is not slower
    part.figure("a minute of 5b music, one song, parallel windows", (top / rates[TOP, 1] + steps * 64 / rates[UPSAMPLER, 64]) / 60,
                "min", at_most=2)  # fmt: skip


def int8(part: Part) -> None:
    prior = part.prior(published(TOP, part.tiny))
    plain = codes_per_second(part, prior, 1)
    prior.quantise()
    rate = codes_per_second(part, prior, 1)
    part.figure(f"{TOP}, batch 1", rate, "codes/s", "int8")
    part.figure(f"{TOP}, batch 1: rate, of that in bfloat16", rate / plain, "times", "int8")
    part.figure(f"{TOP}: weights", sum(x.nbytes for x in prior.state_dict().values()) / 2**30, "GiB", "int8")


def peer(part: Part) -> None:
    """Measure the registry's port of the published code (transformers 4.46).

    The port has the shape of the upsampler, but no conditions.
    """
    config = published(UPSAMPLER, part.tiny)
    trunk = config.trunk
    theirs = timing.main({
        "width": trunk.width, "depth": trunk.depth, "heads": trunk.heads, "n_ctx": config.n_ctx, "bins": config.bins, "batch": 1,
        "pattern": "raw_column_previous_row_attention", "blocks": trunk.blocks, "attention": trunk.m_attn, "mlp": trunk.m_mlp,
        "tokens": config.n_ctx // 64, "seconds": 1.0, "threads": torch.get_num_threads(), "device": str(part.device),
        "dtype": "bfloat16",
    })  # fmt: skip
    part.figure(f"{UPSAMPLER}, batch 1, the registry's port", theirs, "codes/s")
    ours = codes_per_second(part, part.prior(config), 1)
    part.figure(f"{UPSAMPLER}, batch 1: rate, of that of the registry's port", ours / theirs, "times", at_least=5)


def masked(part: Part) -> None:
    """Measure the masked decoding of levels 1 and 0 of a window, in 24 and 12 passes."""
    config = PRESETS["test" if part.tiny else "small"].priors["masked"]
    prior = part.prior(config)
    for batch in (1, 16):
        top = torch.randint(prior.config.bins, (batch, config.n_ctx), device=part.device)
        fill_levels(prior, top, 1, 1)
        music = batch * config.n_ctx * config.hop / config.sample_rate
        rate = music / part.seconds(lambda top=top: fill_levels(prior, top, 24, 12))
        part.figure(f"masked lower levels, preset small, batch {batch}", rate, "s/s", at_least=1)


def codec(part: Part) -> None:
    """Measure encoding and decoding of all levels of the published codec; the audio is noise."""
    model, seconds = VQVAE(vqvae_config(VQVAES["vqvae"])).eval().to(part.device), 0.5 if part.tiny else 60.0
    audio = 0.2 * torch.randn(1, 1, int(seconds * RATE) // HOPS[0] * HOPS[0], device=part.device)
    codes = model.encode_long(audio, model.spec.names)
    part.figure("codec, all levels encoded", seconds / part.seconds(lambda: model.encode_long(audio, codes)), "s/s", "float32")
    for stream, frames in codes.items():
        took = part.seconds(lambda stream=stream, frames=frames: model.decode_long(frames, stream))
        part.figure(f"codec, {stream} decoded", seconds / took, "s/s", "float32")
