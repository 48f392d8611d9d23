"""M1: angles, their schedules, rotations by an exact velocity, and windows whose chunks have angles of their own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from priors.diffusion.schedule import FULL, clean_of, frame_angles, noisy, rotated, step_sizes, velocity


@pytest.mark.parametrize("schedule", ["linear", "uniform"])
def test_the_steps_add_up_to_a_quarter_turn_for_any_number_of_them(schedule):
    for steps in range(1, 201):
        sizes = step_sizes(steps, schedule)
        assert len(sizes) == steps and math.isclose(sum(sizes), math.pi / 2, rel_tol=1e-12)
        if schedule == "linear":
            assert all(a < b for a, b in itertools.pairwise(sizes)), "the first step of sampling is the largest"


def test_unusable_schedules_are_errors():
    with pytest.raises(ValueError, match="expected linear or uniform"):
        step_sizes(3, "cosine")
    with pytest.raises(ValueError, match="at least 1"):
        step_sizes(0, "linear")


@pytest.mark.parametrize("schedule", ["linear", "uniform"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 200])
def test_with_an_exact_velocity_any_number_of_steps_leads_to_the_clean_values(schedule, steps):
    clean, noise = torch.randn(2, 1, 40, 3, dtype=torch.float64)
    sizes, z = step_sizes(steps, schedule), noise
    for t in range(steps, 0, -1):
        angle = torch.tensor(sum(sizes[:t]), dtype=torch.float64)
        assert torch.allclose(z, noisy(clean, noise, angle), atol=1e-9)
        z = rotated(z, velocity(clean, noise, angle), sizes[t - 1])
    assert torch.allclose(z, clean, atol=1e-5)


def test_clean_values_follow_from_noisy_ones_and_their_velocity():
    clean, noise = torch.randn(2, 5, 7)
    angle = FULL * torch.rand(5, 1)
    z, v = noisy(clean, noise, angle), velocity(clean, noise, angle)
    assert torch.allclose(clean_of(z, v, angle), clean, atol=1e-6)
    assert torch.equal(noisy(clean, noise, torch.zeros(1)), clean)


@pytest.mark.parametrize("frames, chunks", [(16, 4), (17, 4), (5, 1), (7, 3)])
def test_a_window_of_several_angles_is_its_chunks_each_at_its_own(frames, chunks):
    clean, noise, angles = torch.randn(2, frames, 3), torch.randn(2, frames, 3), FULL * torch.rand(2, chunks)
    by_frame = frame_angles(angles, frames)[..., None]
    ends = [m * frames // chunks for m in range(chunks + 1)]
    for function in (noisy, velocity):
        whole = function(clean, noise, by_frame)
        parts = [
            function(clean[:, a:b], noise[:, a:b], angles[:, m, None, None])
            for m, (a, b) in enumerate(itertools.pairwise(ends))
        ]
        assert torch.equal(torch.cat(parts, dim=1), whole)
