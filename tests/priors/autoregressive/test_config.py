"""Costs of an autoregressive prior, held against its buffers, its file, what autograd keeps and what torch counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jukebox.importers.convert import write_prior
from jukebox.model.folder import hollow, read_state
from jukebox.model.presets import PRESETS, find
from jukebox.model.settings import PRIORS, VQVAES, prior_config
from priors.autoregressive.config import AutoregressiveConfig
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import Conditions, Lyrics
from priors.prior import Batch
from priors.transformer.config import ORDERS
from tests.peak import random_weights, shrunk

CODECS = {name: VQVAES["small_vqvae" if name.startswith("small") else "vqvae"] for name in PRIORS}
SHAPES: dict[str, AutoregressiveConfig] = {name: prior_config(hps, CODECS[name]) for name, hps in PRIORS.items()}
for preset in PRESETS.values():
    SHAPES |= {f"{name} {p.n_ctx}": p for name, p in preset.priors.items() if isinstance(p, AutoregressiveConfig)}

DEMO = find("demo").priors["prior_2"].for_corpus(5, 4)
assert isinstance(DEMO, AutoregressiveConfig)
TRAINED = {
    "top": DEMO,
    "upsampler": find("demo").priors["prior_1"].for_corpus(5, 4),
    "deep": replace(DEMO, trunk=replace(DEMO.trunk, width=256, depth=8)),
    "published": replace(
        DEMO, lyrics=None, trunk=replace(DEMO.trunk, width=192, depth=6, order=ORDERS[2], blocks=16, time_bias=False)
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_caches_are_those_of_the_buffers(name):
    config, batch = SHAPES[name], 3
    prior = hollow(config)
    with torch.device("meta"), torch.no_grad():
        x = torch.empty(batch, 1, config.width)
        encoded = torch.empty(batch, config.n_tokens, config.width)
        distance = torch.empty(batch, config.n_ctx, config.n_tokens) if config.trunk.time_bias else None
        caches = prior.trunk.caches(x, encoded, distance)
    held = sum(t.numel() for c in caches for t in (c.k, c.v, getattr(c, "bias", None)) if t is not None)
    assert batch * sum(config.cache_numbers().values()) == held


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["prior_1b_lyrics", "prior_5b_lyrics", "upsampler_level_0", "demo"])
def test_weights_are_as_many_bytes_as_their_file(name, dtype, tmp_path):
    config, path = shrunk(name), tmp_path / "prior.safetensors"
    write_prior(path, random_weights(config), getattr(torch, dtype))
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert config.weight_bytes(dtype) == path.stat().st_size - 8 - header
    state = read_state(path, getattr(torch, dtype))
    assert config.weight_bytes(dtype) == sum(t.nbytes for t in state.values())


def loss(config: AutoregressiveConfig, prior: AutoregressivePrior) -> torch.Tensor:
    one = torch.ones(1, 1, dtype=torch.long)
    lyrics = Lyrics(one.expand(-1, config.n_tokens), torch.zeros(1, config.n_tokens)) if config.lyrics else None
    above = one.expand(-1, config.n_ctx // config.ratio) if config.above else None
    timing = torch.tensor([[10**6, 0, config.n_ctx * config.hop]])
    cond = Conditions(one[:, 0], one, timing, lyrics, above)
    return prior.loss(Batch({config.stream: one.expand(-1, config.n_ctx)}, cond))["loss"]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_activations_are_what_autograd_keeps(name, bf16):
    config = TRAINED[name]
    prior = AutoregressivePrior(config).train()
    weights = {p.untyped_storage().data_ptr() for p in prior.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss(config, prior)
    once = 4 * config.n_ctx * config.bins  # the logits' gradient, which is there when the backward pass begins
    planned = config.training_cost(bf16, cpu=True).activations - once
    assert abs(planned / sum(kept.values()) - 1) < 0.12


@pytest.mark.parametrize("name", TRAINED)
def test_operations_are_those_that_torch_counts(name):
    config = TRAINED[name]
    prior = AutoregressivePrior(config).train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss(config, prior).backward()
    cost = config.training_cost(bf16=False)
    # torch counts every pair of a causal attention, the plan the half that is needed
    assert 0.8 < 3 * (cost.trunk + cost.rest) / counter.get_total_flops() < 1.02
