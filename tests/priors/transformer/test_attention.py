"""Attention: the blocked form is the masked form, and sees exactly the keys of its predicate."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from priors.transformer.attention import ALIGNED, PATTERNS, Attention, attend, visible
from priors.transformer.config import TrunkConfig
from priors.transformer.trunk import Transformer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
MASKED = [p for p in PATTERNS if p != "cross"]
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
SIZES = [(24, 6, 8), (24, 6, 6), (23, 6, 8), (6, 6, 8), (5, 6, 8), (24, 1, 1), (24, 24, 24), (1, 6, 8), (7, 6, 8)]


def heads(length: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, length, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A softmax over all keys under a mask, in float64; a query that sees nothing gives zero."""
    logits = (q.double() @ k.double().mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return torch.softmax(logits, dim=-1).nan_to_num(0.0) @ v.double()


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
@pytest.mark.parametrize(("length", "block", "prime"), SIZES)
@pytest.mark.parametrize("pattern", MASKED)
def test_blocked_form_equals_masked_dense_form(pattern, length, block, prime, dtype, limit):
    q, k, v = heads(length, dtype)
    ours = attend(q, k, v, pattern, block, prime)
    assert ours.dtype == dtype
    assert (ours.double() - masked(q, k, v, visible(pattern, length, block, prime))).abs().max() < limit


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_head_that_zeros_widen_for_a_gpu_attends_and_learns_as_before(pattern, monkeypatch):
    """150 is the width of the published top priors; the CPU stands in for the GPU."""
    widths, real = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("priors.transformer.attention.SHORT_BLOCK", 0)  # as on a GPU
    spy = lambda q, *given, **named: widths.append(q.shape[-1]) or real(q, *given, **named)  # noqa: E731
    monkeypatch.setattr("priors.transformer.attention.F.scaled_dot_product_attention", spy)
    found = []
    for multiple in (1, 8):
        monkeypatch.setitem(ALIGNED, "cpu", multiple)
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, 2, 24, 150, requires_grad=True) for _ in range(3))
        bias = torch.randn(2, 2, 24, 24) if pattern == "cross" else None
        out = attend(q, k, v, pattern, 6, 8, bias)
        out.square().sum().backward()
        found.append([out.detach(), q.grad, k.grad, v.grad])
    assert set(widths) == {150, 152}
    assert all((a - b).abs().max() <= 1e-5 * max(1.0, a.abs().max()) for a, b in zip(*found, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("width", [150, 480])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_a_fused_kernel_takes_the_published_widths(width, biased, dtype):
    q, k, v = (torch.randn(2, 2, 64, width, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 2, 64, 64, device="cuda", dtype=dtype) if biased else None
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):  # never the form that keeps all logits
        out = attend(q, k, v, "cross", bias=bias)
        out.float().square().sum().backward()
    logits = q.double() @ k.double().mT / math.sqrt(width) + (0 if bias is None else bias.double())
    assert (out.double() - logits.softmax(-1) @ v.double()).abs().max() < (1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("length", [1, 100, 128, 300, 513])
def test_training_in_bf16_on_a_cpu_takes_a_shorter_way_to_the_same_result_and_gradient(length):
    heads_ = [x.requires_grad_() for x in heads(length, torch.bfloat16)]
    truth = [x.detach().double().requires_grad_() for x in heads_]
    ours, wanted = attend(*heads_, "dense"), masked(*truth, visible("dense", length))
    assert (ours.double() - wanted).abs().max() < 0.03
    for x, y in zip(
        torch.autograd.grad(ours.double().square().sum(), heads_), torch.autograd.grad(wanted.square().sum(), truth)
    ):
        assert (x.double() - y).norm() < 0.02 * y.norm() + 1e-3


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("length", [0, 1, 6, 8, 24])
@pytest.mark.parametrize("pattern", [*MASKED, "cross"])
def test_attention_of_a_gpu_never_gets_rows_or_queries_that_are_empty(pattern, length, rows, monkeypatch):
    """Its kernels raise for them; on torch's meta device attention takes the way that it takes on a GPU."""
    plain = F.scaled_dot_product_attention

    def strict(*given: torch.Tensor, **more) -> torch.Tensor:
        assert all(x.numel() for x in given)
        return plain(*given, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", strict)
    q, k, v = (torch.empty(rows, 2, length, 4, device="meta") for _ in range(3))
    k, v = (torch.empty(rows, 2, 5, 4, device="meta") for _ in range(2)) if pattern == "cross" else (k, v)
    assert attend(q, k, v, pattern, 6, 8).shape == (rows, 2, length, 4)


@gpu
@pytest.mark.parametrize("length", [1, 6, 8, 24])
@pytest.mark.parametrize("pattern", MASKED)
def test_attention_of_a_gpu_equals_that_of_a_cpu_for_the_shortest_prompts(pattern, length):
    parts = heads(length, torch.float32)
    ours = attend(*(x.cuda() for x in parts), pattern, 6, 8)
    assert (ours.cpu() - attend(*parts, pattern, 6, 8)).abs().max() < 1e-4


@pytest.mark.parametrize("pattern", MASKED)
def test_gradient_reaches_exactly_what_the_predicate_shows(pattern):
    q, k, v = heads(24, torch.float64)
    v.requires_grad_()
    out = attend(q, k, v, pattern, 6, 8)
    seen = torch.stack([torch.autograd.grad(out[0, 0, i].sum(), v, retain_graph=True)[0][0, 0, :, 0] for i in range(24)])
    assert torch.equal(seen != 0, visible(pattern, 24, 6, 8))
    if pattern != "full":
        assert not visible(pattern, 24, 6, 8).triu(1).any()  # none of them sees what comes later


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
@pytest.mark.parametrize("timed", [False, True])
def test_cross_attention_equals_a_softmax_over_all_of_the_other_sequence(timed, dtype, limit):
    (q, _, _), (_, k, v) = heads(24, dtype), heads(7, dtype, seed=1)
    bias = torch.linspace(-2, 0, 2 * 2 * 24 * 7, dtype=torch.float64).view(2, 2, 24, 7).to(dtype) if timed else None
    logits = q.double() @ k.double().mT / math.sqrt(q.shape[-1]) + (0 if bias is None else bias.double())
    wanted = torch.softmax(logits, dim=-1) @ v.double()
    assert (attend(q, k, v, "cross", bias=bias).double() - wanted).abs().max() < limit


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
@pytest.mark.parametrize("pattern", [p for p in MASKED if p != "full"])
def test_no_gradient_comes_from_what_the_predicate_hides(pattern, dtype, limit):
    """Keys and values alike, in every precision: exactly nothing of a later step."""
    q, k, v = (x.requires_grad_() for x in heads(24, dtype))
    out = attend(q, k, v, pattern, 6, 8)
    for i in (0, 5, 6, 13, 23):
        for gradient in torch.autograd.grad(out[:, :, i].sum(), (k, v), retain_graph=True):
            assert (gradient[:, :, ~visible(pattern, 24, 6, 8)[i]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_previous_row_is_exactly_zero_in_block_0(dtype):
    q, k, v = heads(24, dtype)
    out = attend(q, k, v, "previous_row", 6)
    assert (out[:, :, :6] == 0).all() and (out[:, :, 6:] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.no_grad()
def test_in_block_0_a_previous_row_layer_adds_its_bias_only_however_it_is_run(dtype):
    """Parallel, from a prime and step by step: what comes out of block 0 is the bias of the projection, bit for bit."""
    torch.manual_seed(0)
    trunk = Transformer(TrunkConfig(24, 8, 1, heads=2, order=("previous_row",), blocks=4, m_attn=1.0)).to(dtype)
    block, x = trunk.blocks[0], torch.randn(2, 24, 8).to(dtype)
    block.attn.c_proj.b.normal_()
    whole = block.attn(block.ln_0(x))
    assert (whole[:, :6] == block.attn.c_proj.b).all() and (whole[:, 6:] != block.attn.c_proj.b).any(-1).all()
    alone = block.finish(x[:, :6], block.attn.c_proj.b.expand(2, 6, 8))
    for prime in range(1, 7):
        caches = trunk.caches(x)
        parts = [trunk.prefill(x[:, :prime], caches)]
        parts += [trunk.step(x[:, t : t + 1], caches, torch.tensor([t])) for t in range(prime, 6)]
        assert torch.allclose(torch.cat(parts, 1), alone, atol=0.05 if dtype == torch.bfloat16 else 1e-6), prime


def test_patterns_differ_from_one_another():
    """The control: a test that compares patterns with their masks would see one taken for another."""
    q, k, v = heads(24, torch.float64)
    outs = [attend(q, k, v, pattern, 6, 8) for pattern in MASKED]
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(outs) for b in outs[:i])


class Largest(TorchDispatchMode):
    """Watches every tensor that is made, in the forward and in the backward pass, and keeps the largest size."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor) and not made._is_view():
                self.numel = max(self.numel, made.numel())
        return out


def largest_in_training(attention: Callable, length: int, dtype: torch.dtype) -> int:
    """Elements of the largest tensor that a layer of width 8 with 2 heads makes in one training step under autocast."""
    x = torch.randn(1, length, 8, requires_grad=True)
    with Largest() as seen:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = attention(x)
        y.sum().backward()
    return seen.numel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("pattern", "block"),
    [(pattern, block) for pattern in ("row", "column", "previous_row") for block in (32, 64, 128, 256)]
    + [("dense", 1), ("prime", 1), ("cross", 1)],
)
def test_no_tensor_of_length_by_length_is_ever_made_in_training(pattern, block, dtype):
    layer, lyric_tokens = (
        Attention(8, 8, 2, pattern, block=block, prime=512, time_bias=pattern == "cross"),
        torch.randn(1, 512, 8),
    )
    distance = torch.rand(1, 8192, 512)
    conditioning = (lyric_tokens, distance) if layer.cross else ()
    widest = {"cross": 512, "row": 128, "previous_row": 128, "column": 128}.get(pattern, 12)  # keys of a query, or q, k, v
    assert largest_in_training(lambda x: layer(x, *conditioning), 8192, dtype) <= 2 * 8192 * widest


def test_a_square_of_the_length_would_be_seen():
    """The control: the masked form makes one."""

    def plain(x: torch.Tensor) -> torch.Tensor:
        return masked(x, x, x, visible("dense", 1024)).float()

    assert largest_in_training(plain, 1024, torch.float32) >= 1024 * 1024


def test_cross_attention_listens_to_what_is_sung_now():
    """With a steep slope a head attends to the token at the time of the step; a token of unknown time is not excluded."""
    attention = Attention(8, 8, 2, "cross", time_bias=True)
    attention.slope.data.fill_(math.log(1000.0))
    x, lyric_tokens = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    distance = (torch.arange(5.0)[:, None] - torch.arange(5.0)).abs()[None]
    weights = attention.weights(x, lyric_tokens, distance)
    assert torch.allclose(weights, torch.eye(5).expand_as(weights), atol=1e-4)
    unknown = distance.clone()
    unknown[:, :, 2] = torch.nan
    assert (attention.weights(x, lyric_tokens, unknown)[:, :, 0, 2] > 0.01).all()
    plain = attention.weights(x, lyric_tokens)
    assert torch.allclose(plain, attention.weights(x, lyric_tokens, torch.full_like(distance, torch.nan)))
    assert torch.allclose(plain.sum(-1), torch.ones(1, 2, 5))


def test_a_wrong_pattern_or_width_is_named():
    with pytest.raises(ValueError, match="diagonal"):
        Attention(8, 8, 2, "diagonal")
    with pytest.raises(ValueError, match="multiple of the number of heads"):
        Attention(8, 6, 4, "dense")
    with pytest.raises(ValueError, match="no sequence to attend to"):
        Attention(8, 8, 2, "cross")(torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="does not attend to lyrics"):
        Attention(8, 8, 2, "row").weights(torch.zeros(1, 2, 8))
