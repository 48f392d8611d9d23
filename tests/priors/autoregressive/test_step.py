"""Steps of decoding: compiled, captured and plain are one function; a sample's codes do not depend on its neighbours."""

from __future__ import annotations

import copy

import pytest
import torch

from priors.autoregressive import native
from priors.autoregressive.int8 import quantise
from tests.priors.conftest import started

compiler = pytest.mark.skipif(native.why_not() is not None, reason="no C++ compiler here")
DTYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 0.02), "int8": (torch.bfloat16, 0.02)}


def stepped(prior, codes, cond, primed, compiled: bool) -> torch.Tensor:
    """Logits of the codes from `primed` on, heard one by one."""
    prior.compiled = compiled
    state = started(prior, codes[:, :primed], cond)
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


def tokens_heard(prior, codes, cond) -> torch.Tensor:
    """Logits of native steps from an empty cache: nothing of them is torch's."""
    conditioning = prior.encode_conditions(cond, len(codes))
    caches = prior.trunk.caches(conditioning.start.to(prior.x_emb.weight.dtype), conditioning.encoded, conditioning.distance)
    step = native.Native(prior, conditioning, caches, 0)
    return torch.stack([step(code) for code in codes.unbind(1)], dim=1)


@compiler
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_logits_depend_neither_on_the_batch_nor_on_the_threads(make, batch, dtype):
    prior, (codes, cond) = in_dtype(make("unlabelled"), dtype), batch("unlabelled", 7)
    together = tokens_heard(prior, codes, cond)
    for size in (1, 2, 3, 6):
        assert torch.equal(tokens_heard(prior, codes[:size], cond), together[:size])
    torch.set_num_threads(2)
    assert torch.equal(tokens_heard(prior, codes, cond), together)
    torch.set_num_threads(1)


@compiler
def test_plain_and_native_steps_take_turns_on_the_same_caches(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    whole = stepped(prior, codes[:, :-1], cond, 4, False)
    state, shift = started(prior, codes[:, :4], cond), prior.vocabulary - prior.config.bins
    for i, code in enumerate(codes[:, 4:-1].unbind(1)):
        prior.compiled, state.step = i % 3 == 1, None
        prior.advance(state, code + shift)
        assert (state.logits - whole[:, i]).abs().max() < 1e-4


@compiler
def test_a_step_that_goes_wrong_is_seen(make, batch, kind):
    """The control: one weight of one layer changed after the start is heard."""
    prior, (codes, cond) = make(kind), batch(kind)
    before = stepped(prior, codes[:, :9], cond, 8, True)
    for block in prior.trunk.blocks:
        kept = block.mlp.c_fc.w[3, 3].clone()
        block.mlp.c_fc.w.data[3, 3] += 1
        assert (stepped(prior, codes[:, :9], cond, 8, True) - before).abs().max() > 1e-3
        block.mlp.c_fc.w.data[3, 3] = kept


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_captured_steps_equal_plain_steps(make, batch, kind):
    prior, (codes, cond) = make(kind).cuda(), batch(kind)
    codes, cond = codes[:, :-1].cuda(), cond.to("cuda")
    for primed in (0, 7):
        plain, ours = (stepped(prior, codes, cond, primed, compiled) for compiled in (False, True))
        assert (ours - plain).abs().max() < 1e-4


def test_int8_weights_are_within_half_a_step_of_theirs(make, kind):
    prior = make(kind)
    linear = prior.trunk.blocks[0].mlp.c_fc
    w = linear.w.t().clone()
    x = torch.randn(3, w.shape[1])
    y = linear(x)
    quantise(prior)
    ours = prior.trunk.blocks[0].mlp.c_fc
    assert ours.w.dtype == torch.int8 and ours.w.abs().max() == 127
    assert ((ours.w * ours.scale[:, None] - w).abs() <= 0.5001 * ours.scale[:, None]).all()
    assert (ours(x) - y).abs().max() < 0.03 * y.abs().max()


def test_without_a_compiler_the_reason_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    native.library.cache_clear()
    if not torch.cuda.is_available():
        assert "no C++ compiler was found" in (native.why_not() or "")
        assert "float16 is not compiled" in (native.why_not("float16") or "")
    native.library.cache_clear()
