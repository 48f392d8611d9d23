"""The upsampler: one vector a step, from the coarser codes around it."""

from __future__ import annotations

import torch

from priors.conditioning.config import UpsamplerConfig
from priors.conditioning.upsampler import Upsampler
from priors.transformer.config import Init


def test_a_coarse_code_is_heard_by_its_own_steps_and_the_neighbours():
    torch.manual_seed(0)
    config = UpsamplerConfig(bins=7, ups=2, stride=2, width=10, depth=2, growth=3)
    upsampler = Upsampler(config, 12, Init(embedding=1.0)).eval()
    above = torch.randint(7, (1, 40))
    other = above.clone()
    other[0, 20] = (other[0, 20] + 1) % 7
    with torch.no_grad():
        a, b = upsampler(above), upsampler(other)
    assert config.ratio == 4 and a.shape == (1, 160, 12)
    steps = (a != b).any(-1)[0].nonzero()[:, 0]
    assert {80, 81, 82, 83} <= set(steps.tolist())
    assert steps.min() > 40 and steps.max() < 120  # far codes do not matter
    assert steps.min() < 80 and steps.max() > 83  # near ones do, before and after
