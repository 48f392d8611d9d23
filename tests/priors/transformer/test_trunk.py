"""The trunk: cached steps are the whole pass, whatever the pattern, the prime and the dtype."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from priors.transformer.attention import PATTERNS
from priors.transformer.config import LOCAL, ORDERS, Init, TrunkConfig
from priors.transformer.linear import LayerNorm
from priors.transformer.trunk import Transformer

CONFIG = TrunkConfig(n_ctx=24, width=16, depth=3, heads=2, blocks=4, m_attn=0.5, prime=5)
SHAPES = {pattern: (pattern,) for pattern in PATTERNS if pattern != "full"} | {"all": (*LOCAL, "prime", "cross", "dense")}


def made(order: tuple[str, ...], dtype: torch.dtype = torch.float64, **changes) -> Transformer:
    torch.manual_seed(0)
    trunk = Transformer(replace(CONFIG, order=order, depth=max(3, len(order)), init=Init(linear=0.4), **changes))
    for block in trunk.blocks:
        for linear in (block.attn.c_proj, block.mlp.c_proj):  # zero at first in cross layers
            linear.w.data.normal_(std=0.4)
    return trunk.to(dtype).eval()


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, n, 16, generator=generator, dtype=torch.float64).to(dtype) for n in (24, 7))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.3)])
@pytest.mark.parametrize("order", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_cached_decoding_equals_full_forward(order, dtype, limit):
    trunk, (x, encoded) = made(order, dtype), inputs(dtype)
    whole = trunk(x, encoded)
    for prime in range(1, 25) if dtype == torch.float64 else (1, 5, 6, 7, 12, 17, 23):  # blocks of 6 steps
        caches = trunk.caches(x, encoded)
        parts = [trunk.prefill(x[:, :prime], caches)]
        parts += [trunk.step(x[:, t : t + 1], caches, torch.tensor([t])) for t in range(prime, 24)]
        assert (torch.cat(parts, 1) - whole).abs().max() < limit, prime


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", SHAPES.values(), ids=SHAPES)
def test_no_step_hears_a_later_one(order, dtype):
    trunk, (x, encoded) = made(order, dtype), inputs(dtype)
    x.requires_grad_()
    y = trunk(x, encoded)
    for t in (0, 5, 6, 13, 22):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert (gradient[:, t + 1 :] == 0).all() and (gradient[:, t] != 0).any()


@pytest.mark.parametrize("published", ORDERS)
def test_published_orders_have_their_length_and_special_layers(published):
    special = {n: [d for d in range(80) if ORDERS[n][d % len(ORDERS[n])] not in LOCAL] for n in ORDERS}
    assert special[10][:7] == [18, 28, 38, 48, 58, 68, 78]
    assert special[8] == [9, 19, 29, 39, 49, 59, 69, 79] and special[12] == [15, 31, 47, 63, 79]
    config = replace(CONFIG, order=ORDERS[12])
    assert [config.pattern(d) for d in (15, 31, 47, 63, 79)] == ["prime", "prime", "dense", "prime", "prime"]
    config = replace(CONFIG, order=ORDERS[published])
    assert all(config.pattern(d) in PATTERNS for d in range(100))


def test_a_prime_reaches_past_itself_to_whole_blocks_as_published():
    assert TrunkConfig(6528, 8, 1, blocks=64, prime=384).prime_reach == 448
    assert TrunkConfig(120, 8, 1, blocks=8, prime=24).prime_reach == 32
    assert TrunkConfig(120, 8, 1, blocks=8).prime_reach == 0


@torch.no_grad()
def test_lyrics_added_to_a_trained_trunk_change_nothing_at_first():
    plain = Transformer(replace(CONFIG, order=("row", "dense"), depth=4))
    with_lyrics = Transformer(replace(CONFIG, order=("row", "cross", "dense"), depth=6))
    kept = [b for b in with_lyrics.blocks if not b.attn.cross]
    for old, new in zip(plain.blocks, kept, strict=True):
        new.load_state_dict(old.state_dict())
    x, encoded = inputs(torch.float32)
    assert torch.equal(plain(x), with_lyrics(x, encoded))
    with_lyrics.blocks[1].attn.c_proj.w.data.normal_()  # the control: once it has learned something, they differ
    assert not torch.equal(plain(x), with_lyrics(x, encoded))


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        trunk, (x, encoded) = made(SHAPES["all"], recompute=recompute), inputs()
        trunk(x, encoded).square().sum().backward()
        gradients.append([p.grad for p in trunk.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.long), pytest.param({"rope": 1e4}, marks=pytest.mark.long), {"recompute": True}],
    ids=str,
)
def test_blocks_compile_as_whole_graphs_once_a_pattern_and_learn_as_before(changes, autocast):
    """`fullgraph` raises where a graph breaks; `aot_eager` traces the backward pass too, and needs no compiler of C++."""
    order = ("row", "dense") if changes else SHAPES["all"]
    trunk, (x, encoded) = made(order * 2, torch.float32, time_bias=True, **changes), inputs(torch.float32)
    distance, gradients = torch.rand(2, 24, 7), []
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    for _ in range(2):
        trunk.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = trunk(x, encoded, distance)
        y.square().sum().backward()
        gradients.append([p.grad for p in trunk.parameters()])
        trunk.compile_blocks(backend=counter, fullgraph=True)
    assert len(order) <= counter.frame_count < 2 * len(order)
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= (0.02 if autocast else 1e-6) * a.norm()


@pytest.mark.parametrize(
    ("stream", "autocast"), [(True, torch.bfloat16), (False, torch.bfloat16), (True, torch.float16), (True, None)]
)
def test_the_stream_between_blocks_is_bf16_where_it_is_asked_for_and_autocast_is_bf16(stream, autocast):
    trunk, (x, encoded), seen = made(SHAPES["all"], torch.float32), inputs(torch.float32), set()
    for block in trunk.blocks:
        block.register_forward_hook(lambda block, given, y: seen.add((given[0].dtype, y.dtype)))
    trunk.bf16_stream = stream
    exact = made(SHAPES["all"])(*inputs())
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = trunk(x, encoded)
    dtype = torch.bfloat16 if stream and autocast == torch.bfloat16 else torch.float32
    assert seen == {(dtype, dtype)} and (y.double() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_compiled_blocks_learn_as_before():
    trunk, (x, encoded), gradients = made(SHAPES["all"], torch.float32).cuda(), inputs(torch.float32), []
    for _ in range(2):
        trunk.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            trunk(x.cuda(), encoded.cuda()).square().sum().backward()
        gradients.append([p.grad for p in trunk.parameters()])
        trunk.compile_blocks(fullgraph=True)
    assert all((a - b).norm() <= 0.03 * a.norm() for a, b in zip(*gradients, strict=True))


def test_norms_are_float32_inside_whatever_the_stream_is():
    norm, x = LayerNorm(512), torch.randn(4, 512) + 300
    exact = torch.nn.functional.layer_norm(x.bfloat16().double(), (512,))
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert (norm(x.bfloat16()).double() - exact).abs().max() < 0.02  # in bfloat16 inside it would be far off
    assert norm.double()(x.double()).dtype == torch.float64


def test_blocks_that_do_not_divide_a_window_are_refused():
    with pytest.raises(ValueError, match="multiple of blocks"):
        TrunkConfig(n_ctx=10, width=8, depth=1, blocks=3)
