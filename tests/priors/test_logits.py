"""Sampling of codes: filters keep the specified codes, and a sample depends on its generator only."""

from __future__ import annotations

import pytest
import torch

from priors.logits import draw, draw_surely, filter_logits, uniforms
from priors.spec import TokenParams

LOGITS = torch.tensor([[0.1, 3.0, 2.0, 3.0, -1.0]])


def kept(**params) -> list[int]:
    return torch.isfinite(filter_logits(LOGITS, **params))[0].nonzero()[:, 0].tolist()


def test_filters_keep_ties_and_the_code_that_crosses():
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=1) == [1, 3] and kept(top_k=3) == [1, 2, 3] and kept(top_k=99) == [0, 1, 2, 3, 4]
    assert len(kept(top_p=0.01)) == 1 and kept(top_p=0.5) == [1, 3] and kept(top_p=0.9) == [1, 2, 3]
    assert kept(top_k=3, top_p=0.5) == [1, 3]


@pytest.mark.parametrize("params", [TokenParams(), TokenParams(temperature=0.5), TokenParams(top_k=3), TokenParams(top_p=0.9)])
def test_drawn_codes_have_the_probabilities_asked_for(params):
    numbers = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    codes = draw(LOGITS.expand(20000, -1), numbers, params)
    share = torch.bincount(codes, minlength=5) / 20000
    expected = torch.softmax(filter_logits(LOGITS / params.temperature, params.top_k, params.top_p), dim=-1)[0]
    assert (share - expected).abs().max() < 1e-3


def test_temperature_0_is_the_likeliest_and_filtered_codes_never_come():
    assert draw(LOGITS[:, :3], torch.tensor([0.99]), TokenParams(temperature=0.0)).item() == 1
    for number in (0.0, 1 - 1e-16):
        assert draw(LOGITS, torch.tensor([number], dtype=torch.float64), TokenParams(top_k=2)).item() in (1, 3)


def test_numbers_of_a_sample_depend_on_its_generator_alone():
    alone = uniforms([torch.Generator().manual_seed(7)], 5)
    among = uniforms([torch.Generator().manual_seed(s) for s in (3, 7)], 5)
    assert torch.equal(alone[0], among[1]) and not torch.equal(among[0], among[1])
    rng = torch.Generator().manual_seed(7)
    in_parts = torch.cat([uniforms([rng], 2), uniforms([rng], 3)], dim=1)
    assert torch.equal(in_parts, alone)


@pytest.mark.parametrize("bins", [5, 64, 200])
def test_many_rows_at_once_are_drawn_as_one_by_one_with_their_probabilities(bins):
    torch.manual_seed(0)
    logits, uniform = torch.randn(500, bins, dtype=torch.float64) * 3, torch.rand(500, dtype=torch.float64)
    for params in (TokenParams(), TokenParams(temperature=0.7, top_k=9), TokenParams(top_p=0.8), TokenParams(temperature=0.0)):
        codes, probability = draw_surely(logits, uniform, params)
        assert torch.equal(codes, draw(logits, uniform, params))
        heat = params.temperature or 1.0
        share = torch.softmax(filter_logits(logits / heat, params.top_k, params.top_p), -1)
        assert torch.allclose(probability, share.gather(1, codes[:, None])[:, 0])


def test_the_ends_of_chance_never_draw_what_was_filtered_away():
    logits = torch.full((4, 130), 5.0).index_fill(1, torch.tensor([0, 129]), 20.0)
    for ends in (torch.zeros(4), torch.full((4,), 1 - 2**-30, dtype=torch.float64)):
        codes, probability = draw_surely(logits[:, torch.randperm(130)], ends, TokenParams(top_k=2))
        assert (probability > 0.4).all() and len(set(codes.tolist())) == 1
