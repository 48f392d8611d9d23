"""Steps of decoding: compiled, captured and plain are one function; a sample's codes do not depend on its neighbours."""

from __future__ import annotations

import copy

import pytest
import torch

from priors import native
from priors.int8 import quantise
from priors.prior import How

compiler = pytest.mark.skipif(not native.available(), reason="no C++ compiler here")
DTYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 0.02), "int8": (torch.bfloat16, 0.02)}


def stepped(prior, codes, cond, primed, compiled: bool) -> torch.Tensor:
    """Logits of the codes from `primed` on, heard one by one."""
    prior.compiled = compiled
    state = prior.start(cond, {prior.config.level: codes[:, :primed]}, [], How())
    made = []
    for code in codes[:, primed:].unbind(1):
        prior.advance(state, code + prior.vocabulary - prior.config.bins)
        made.append(state.logits)
    return torch.stack(made, dim=1)


def in_dtype(prior, dtype: str):
    prior = copy.deepcopy(prior).to(DTYPES[dtype][0])
    if dtype == "int8":
        quantise(prior)
    return prior


@compiler
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_steps_equal_plain_steps_of_every_kind(make, batch, kind, dtype, size):
    prior, (codes, cond) = in_dtype(make(kind), dtype), batch(kind, size)
    for primed in (0, 7, 12):
        codes = codes[:, : prior.config.n_ctx - 1]
        plain, ours = (stepped(prior, codes, cond, primed, compiled) for compiled in (False, True))
        assert ours.dtype == torch.float32
        assert (ours - plain).abs().max() < DTYPES[dtype][1] * plain.float().std() * 5, primed
