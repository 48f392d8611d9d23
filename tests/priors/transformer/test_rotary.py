"""The rotary embedding: logits depend on distances alone, and cached steps are the whole pass."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from priors.transformer.attention import Attention
from priors.transformer.config import LOCAL, TrunkConfig
from priors.transformer.rotary import rotary_table, rotate
from priors.transformer.trunk import Transformer
from tests.priors.transformer.test_trunk import CONFIG, inputs, made

BASE = 100.0
ORDERS = {name: (name,) for name in ("dense", *LOCAL)} | {"all": (*LOCAL, "prime", "cross", "dense")}


def test_logits_depend_on_the_distance_of_query_and_key_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 1, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    table = rotary_table(BASE, 8, 40, dtype=torch.float64)

    def logit(i: int, j: int) -> torch.Tensor:
        return (rotate(q, table[i : i + 1]) * rotate(k, table[j : j + 1])).sum(-1)

    assert all((logit(i + 9, i) - logit(9, 0)).abs().max() < 1e-12 for i in (1, 5, 30))
    assert (logit(8, 0) - logit(9, 0)).abs().max() > 1e-3  # the control: another distance


def test_rotation_is_that_of_complex_numbers():
    """Equation 13 of the paper, with planes (i, i + d / 2)."""
    x = torch.randn(1, 1, 7, 6, dtype=torch.float64)
    turned = rotate(x, rotary_table(BASE, 6, 7, dtype=torch.float64))
    angles = torch.arange(7)[:, None] * BASE ** (-torch.arange(3, dtype=torch.float64) / 3)
    expected = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angles), angles)
    assert (turned - torch.cat([expected.real, expected.imag], -1)).abs().max() < 1e-12


def test_rotation_is_float32_whatever_the_stream_is():
    x, rows = torch.randn(1, 2, 900, 8).bfloat16(), rotary_table(BASE, 8, 900)
    assert rows.dtype == torch.float32 and rotate(x, rows).dtype == torch.bfloat16
    assert torch.equal(rotate(x, rows), rotate(x.float(), rows).bfloat16())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.3)])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@torch.no_grad()
def test_cached_decoding_with_rotation_equals_full_forward(order, dtype, limit):
    trunk, (x, encoded) = made(order, dtype, rope=BASE), inputs(dtype)
    whole = trunk(x, encoded)
    for prime in (1, 6, 7, 17):  # blocks of 6 steps
        caches = trunk.caches(x, encoded)
        parts = [trunk.prefill(x[:, :prime], caches)]
        parts += [trunk.step(x[:, t : t + 1], caches, torch.tensor([t])) for t in range(prime, 24)]
        assert (torch.cat(parts, 1) - whole).abs().max() < limit, prime


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_no_step_with_rotation_attends_to_a_later_one(order, dtype):
    trunk, (x, encoded) = made(order, dtype, rope=BASE), inputs(dtype)
    x.requires_grad_()
    y = trunk(x, encoded)
    for t in (0, 6, 13):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert (gradient[:, t + 1 :] == 0).all() and (gradient[:, t] != 0).any()


@torch.no_grad()
def test_only_self_attention_with_positions_of_its_own_is_rotated():
    for pattern in ("dense", *LOCAL, "full", "prime", "cross"):
        plain, (x, encoded) = made((pattern,)), inputs()
        rotated = made((pattern,), rope=BASE)
        equal = torch.equal(plain(x, encoded), rotated(x, encoded))
        assert equal == (pattern in ("prime", "cross")), pattern


def test_under_autocast_gradients_are_those_of_float32():
    gradients = []
    for enabled in (False, True):
        trunk, (x, _) = made(("dense", "row"), torch.float32, rope=BASE), inputs(torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = trunk(x)
        y.float().square().mean().backward()
        gradients.append(torch.cat([block.attn.c_attn.w.grad.flatten() for block in trunk.blocks]))
    exact, ours = gradients
    assert 0 < (ours - exact).norm() / exact.norm() < 0.05


def test_a_head_of_odd_width_raises():
    with pytest.raises(ValueError, match="a head of width 3 must be even"):
        TrunkConfig(n_ctx=4, width=6, depth=1, heads=2, m_attn=1.0, rope=BASE)
    TrunkConfig(n_ctx=4, width=6, depth=1, heads=2, m_attn=1.0)
    with pytest.raises(ValueError, match="rope -1"):
        TrunkConfig(n_ctx=4, width=8, depth=1, rope=-1.0)


def test_configurations_without_the_field_have_no_rotation():
    values = asdict(replace(CONFIG, rope=BASE))
    assert TrunkConfig.from_json(values).rope == BASE
    del values["rope"]
    assert TrunkConfig.from_json(values) == CONFIG and CONFIG.rope == 0


def test_rotation_adds_no_parameters():
    plain, rotated = (Transformer(replace(CONFIG, rope=rope)) for rope in (0.0, BASE))
    assert list(plain.state_dict()) == list(rotated.state_dict())
    assert Attention(8, 8, 2, "cross", rope=BASE).rope == 0


@pytest.mark.parametrize("order", [("dense",), ("row",), ("column",)], ids=" ".join)
def test_rotation_keeps_as_many_bytes_for_the_backward_pass_as_planned(order):
    def kept(rope: float) -> tuple[int, float]:
        trunk, (x, _), storages = made(order, torch.float32, rope=rope), inputs(torch.float32), {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trunk(x.requires_grad_())
        return sum(storage.nbytes() for storage in storages.values()), trunk.config.activation_bytes(False, False, 0, True)

    (plain, planned), (rotated, planned_rotated) = kept(0.0), kept(BASE)
    table = rotary_table(BASE, CONFIG.head_width, CONFIG.n_ctx).nbytes
    assert rotated - table - plain == 2 * (planned_rotated - planned)  # a batch of two
