"""Drawing codes: filters keep what they say, and a sample depends on its own generator alone."""

from __future__ import annotations

import pytest
import torch

from priors.decode import draw, filter_logits, uniforms
from priors.prior import How

LOGITS = torch.tensor([[0.1, 3.0, 2.0, 3.0, -1.0]])


def kept(**how) -> list[int]:
    return torch.isfinite(filter_logits(LOGITS, **how))[0].nonzero()[:, 0].tolist()


def test_filters_keep_ties_and_the_code_that_crosses():
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=1) == [1, 3] and kept(top_k=3) == [1, 2, 3] and kept(top_k=99) == [0, 1, 2, 3, 4]
    assert len(kept(top_p=0.01)) == 1 and kept(top_p=0.5) == [1, 3] and kept(top_p=0.9) == [1, 2, 3]
    assert kept(top_k=3, top_p=0.5) == [1, 3]


@pytest.mark.parametrize("how", [How(), How(temperature=0.5), How(top_k=3), How(top_p=0.9)])
def test_drawn_codes_have_the_probabilities_asked_for(how):
    numbers = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    codes = draw(LOGITS.expand(20000, -1), numbers, how)
    share = torch.bincount(codes, minlength=5) / 20000
    expected = torch.softmax(filter_logits(LOGITS / how.temperature, how.top_k, how.top_p), dim=-1)[0]
    assert (share - expected).abs().max() < 1e-3


def test_temperature_0_is_the_likeliest_and_filtered_codes_never_come():
    assert draw(LOGITS[:, :3], torch.tensor([0.99]), How(temperature=0.0)).item() == 1
    for number in (0.0, 1 - 1e-16):
        assert draw(LOGITS, torch.tensor([number], dtype=torch.float64), How(top_k=2)).item() in (1, 3)


def test_numbers_of_a_sample_depend_on_its_generator_alone():
    alone = uniforms([torch.Generator().manual_seed(7)], 5)
    among = uniforms([torch.Generator().manual_seed(s) for s in (3, 7)], 5)
    assert torch.equal(alone[0], among[1]) and not torch.equal(among[0], among[1])
    rng = torch.Generator().manual_seed(7)
    in_parts = torch.cat([uniforms([rng], 2), uniforms([rng], 3)], dim=1)
    assert torch.equal(in_parts, alone)
