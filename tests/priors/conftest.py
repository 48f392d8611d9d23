"""Tiny priors of every kind, with conditions to go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from priors.autoregressive.config import AutoregressiveConfig, AutoregressiveParams
from priors.autoregressive.model import AutoregressivePrior
from priors.autoregressive.state import DecodeState
from priors.conditioning.conditions import Conditions, Lyrics
from priors.conditioning.config import LabelConfig, LyricConfig, UpsamplerConfig
from priors.noise import Generators
from priors.prior import Known, Window
from priors.transformer.config import LOCAL, TrunkConfig

BINS, RATE = 11, 1000
LABELS = LabelConfig(artists=5, genres=4, max_genres=2, timing_bins=6, max_seconds=3.0, sample_rate=RATE)
ENCODER = TrunkConfig(n_ctx=8, width=12, depth=2, heads=2, order=("full",), m_attn=0.5)
PUBLISHED_ENCODER = TrunkConfig(n_ctx=8, width=12, depth=3, heads=2, order=LOCAL, blocks=2, m_attn=0.5)


def trunk(order: tuple[str, ...], n_ctx: int = 24, **more) -> TrunkConfig:
    return TrunkConfig(n_ctx, 16, depth=len(order), heads=2, order=order, blocks=4, m_attn=0.5, **more)


# one of every kind: windows of 24 codes in 4 blocks; 8 characters, if any
KINDS: dict[str, AutoregressiveConfig] = {
    "top": AutoregressiveConfig(
        "vq.2", BINS, 32, RATE, trunk((*LOCAL, "cross", "dense"), time_bias=True), LABELS, LyricConfig(9, 8, ENCODER)
    ),
    "top as published": AutoregressiveConfig(
        "vq.2", BINS, 32, RATE, trunk((*LOCAL, "cross", "row")), LABELS,
        LyricConfig(9, 8, PUBLISHED_ENCODER, causal=True, loss_weight=0.4), tied=False, condition_again=False,
    ),
    "top without lyrics, as published": AutoregressiveConfig(
        "vq.2", BINS, 32, RATE, trunk(LOCAL * 2), LABELS, tied=False, condition_again=False
    ),
    "letters in front": AutoregressiveConfig(
        "vq.2", BINS, 32, RATE, trunk((*LOCAL, "prime", "dense"), n_ctx=32, prime=8), LABELS,
        LyricConfig(9, 8, TrunkConfig(8, 16, 0), causal=True, loss_weight=0.4),
    ),
    "upsampler": AutoregressiveConfig(
        "vq.1", BINS, 8, RATE, trunk(LOCAL), LabelConfig(5, 4, 2),
        above=UpsamplerConfig(BINS, ups=2, stride=2, width=10, depth=2, cycle=2, res_scale=True), reads="vq.2",
    ),
    "unlabelled": AutoregressiveConfig("vq.2", BINS, 32, RATE, trunk(("dense", "row"))),
}  # fmt: skip


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Every parameter a random number of useful size, so that nothing is hidden by a zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * scale
    return module


def started(
    prior: AutoregressivePrior, prompt: torch.Tensor, cond: Conditions, params: AutoregressiveParams | None = None,
    seeds: Sequence[int] = (), length: int = 0,
) -> DecodeState:  # fmt: skip
    """A window of `length` codes (0: as long as can be) that begins with a prompt; row i has seed i by default."""
    length = length or prior.config.n_ctx
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(prompt))]
    known = Known.prefix(prior.stream, prompt, length)
    params = params or AutoregressiveParams()
    return prior.start(Window(0, length, length), known, cond, Generators(rngs), {prior.stream: params})


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def make() -> Callable[..., AutoregressivePrior]:
    def make(kind: str, dtype: torch.dtype = torch.float32, fresh: bool = False) -> AutoregressivePrior:
        """A prior of a kind; `fresh` as training starts it, else with random weights."""
        torch.manual_seed(0)
        prior = AutoregressivePrior(KINDS[kind])
        return (prior if fresh else randomise(prior)).to(dtype).eval()  # type: ignore[return-value]

    return make


@pytest.fixture
def batch() -> Callable[..., tuple[torch.Tensor, Conditions]]:
    def batch(kind: str, size: int = 2, seed: int = 1) -> tuple[torch.Tensor, Conditions]:
        """A window of codes and every condition of the kind, as if of `size` songs."""
        config, generator = KINDS[kind], torch.Generator().manual_seed(seed)

        def ids(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(high, (size, *shape), generator=generator)

        seconds = torch.rand(size, 8, generator=generator)
        seconds[:, 0] = torch.nan
        labelled = config.labels is not None
        cond = Conditions(
            artist=ids(5) if labelled else None,
            genres=torch.cat([ids(4, 1), torch.full((size, 1), -1)], dim=1) if labelled else None,
            timing=torch.stack([2000 + ids(500), ids(1000), ids(1) + 768], dim=1) if labelled else None,
            lyrics=Lyrics(ids(9, 8), seconds) if config.lyrics else None,
            above=ids(BINS, 6) if config.above else None,
        )
        return ids(BINS, config.n_ctx), cond

    return batch
