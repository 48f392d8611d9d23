"""Lyrics added to a trained prior: at first the output is bit-identical; then it learns to attend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from priors.autoregressive.config import AutoregressiveConfig
from priors.autoregressive.extend import crossed, with_lyrics
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import Conditions, Lyrics
from priors.conditioning.config import LabelConfig, LyricConfig
from priors.prior import Batch
from priors.transformer.config import ORDERS, Init, TrunkConfig
from tests.priors.conftest import started

LYRICS = LyricConfig(11, 6, TrunkConfig(6, 8, 1, init=Init(0.5, 0.5, 0.5, 0.5)))


def trained(depth: int = 6, order: tuple[str, ...] = ORDERS[2], **changes) -> AutoregressivePrior:
    torch.manual_seed(3)
    trunk = TrunkConfig(16, 12, depth, 2, order, blocks=4, m_attn=1.0, init=Init(0.3, 0.5, 0.5, 0.5))
    labels = LabelConfig(3, 3, timing_bins=4)
    config = AutoregressiveConfig("vq.2", 9, 128, 22050, replace(trunk, **changes), labels=labels)
    return AutoregressivePrior(config).eval()


def given(seed: int = 0) -> tuple[torch.Tensor, Conditions]:
    g = torch.Generator().manual_seed(seed)
    lyrics = Lyrics(torch.randint(1, 11, (2, 6), generator=g), torch.rand(2, 6, generator=g))
    timing = torch.tensor([[22050 * 30, 0, 16 * 128]] * 2)
    return torch.randint(0, 9, (2, 16), generator=g), Conditions(torch.tensor([1, 2]), timing=timing, lyrics=lyrics)


@pytest.mark.parametrize("time_bias", [False, True])
@pytest.mark.parametrize("depth", [6, 20])
def test_output_is_bit_equal_before_and_after(depth, time_bias):
    old = trained(depth)
    new = with_lyrics(old, LYRICS, time_bias=time_bias).eval()
    assert sum(block.attn.cross for block in new.trunk.blocks) == max(1, depth // 9)
    codes, cond = given()
    with torch.no_grad():
        assert torch.equal(new(codes, cond), old(codes, cond.without("lyrics")))
    made = next(new.sample(started(new, codes[:, :5], cond)))
    same = next(old.sample(started(old, codes[:, :5], cond.without("lyrics"))))
    assert torch.equal(made.values, same.values) and made.values.shape == (2, 11)


def test_one_step_of_training_and_it_hears_the_lyrics():
    new = with_lyrics(trained(), LYRICS)
    codes, cond = given()
    optimiser = torch.optim.SGD(new.parameters(), 0.5)
    for _ in range(2):
        optimiser.zero_grad()
        new.loss(Batch({"vq.2": codes}, cond))["loss"].backward()
        optimiser.step()
    other = replace(cond, lyrics=given(7)[1].lyrics)
    with torch.no_grad():
        assert not torch.equal(new.eval()(codes, cond), new(codes, other))


def test_an_output_that_is_not_zero_is_seen():
    old = trained()
    new = with_lyrics(old, LYRICS).eval()
    cross = next(block for block in new.trunk.blocks if block.attn.cross)
    codes, cond = given()
    with torch.no_grad():
        cross.attn.c_proj.w[0, 0] = 1e-2
        assert not torch.equal(new(codes, cond), old(codes, cond.without("lyrics")))


def test_the_published_order_comes_of_the_published_prior():
    assert crossed(ORDERS[2] * 24, 9)[-10:] == ORDERS[10][-10:]
    old = trained(72)
    new = with_lyrics(old, LYRICS, order=ORDERS[10])
    assert [layer for layer, b in enumerate(new.trunk.blocks) if b.attn.cross] == [18, 28, 38, 48, 58, 68, 78]


def test_what_cannot_stay_the_same_is_refused():
    with pytest.raises(ValueError, match="is conditioned on lyrics already"):
        with_lyrics(with_lyrics(trained(), LYRICS), LYRICS)
    with pytest.raises(ValueError, match="res_scale"):
        with_lyrics(trained(res_scale=True), LYRICS)
    with pytest.raises(ValueError, match="differs from that of the trained"):
        with_lyrics(trained(), LYRICS, order=("dense", "cross"))
    with pytest.raises(ValueError, match="before the codes"):
        with_lyrics(trained(), replace(LYRICS, trunk=replace(LYRICS.trunk, depth=0)))
