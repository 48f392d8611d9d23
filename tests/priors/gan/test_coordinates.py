"""Coordinates: where anchors lie, symmetry, places of training and of sampling, truncation."""

import itertools

import pytest
import torch

from priors.gan.config import GanConfig
from priors.gan.coordinates import interpolate, patch_places, truncated, window_places

CONFIG = GanConfig("spectral.2", 6, 512, 22050, patch=8, spacing=16, widths=(12, 8), critic_widths=(8, 8))


def line(anchors: torch.Tensor, spacing: int) -> torch.Tensor:
    """As Musika computes it: points of the line between anchors, each averaged with its right neighbour, the last dropped."""
    share = torch.arange(spacing, dtype=anchors.dtype)[:, None] / spacing
    parts = [(1 - share) * a + share * b for a, b in itertools.pairwise(anchors)]
    points = torch.cat([*parts, anchors[-1:]])
    return (points[:-1] + points[1:]) / 2


@pytest.mark.parametrize("spacing", [16, 24])
def test_places_are_the_means_of_neighbouring_points_of_the_line(spacing):
    anchors = torch.randn(3, 5, dtype=torch.float64)
    expected = line(anchors, spacing)
    assert len(expected) == 2 * spacing, "an even length, though there is one point more than twice the spacing"
    made = interpolate(anchors[None], torch.arange(2 * spacing)[None], spacing)[0]
    assert torch.allclose(made, expected, rtol=0, atol=1e-12)


def test_a_window_is_symmetric_round_an_anchor_between_two_places():
    anchors = torch.tensor([[[0.0], [1.0], [0.0]]])
    made = interpolate(anchors, torch.arange(32)[None], 16)[0, :, 0]
    assert torch.equal(made, made.flip(0)) and made[15] == made[16] == 1 - 0.5 / 16


def test_columns_that_are_equal_in_all_anchors_stay_constant():
    anchors = torch.cat([torch.randn(2, 3, 4), torch.randn(2, 1, 3).expand(2, 3, 3)], dim=-1)
    made = interpolate(anchors, window_places(torch.tensor([0, 1]), 8), 16)
    assert torch.allclose(made[..., 4:], anchors[:, :1, 4:].expand(2, 16, 3), atol=1e-6)
    assert made[..., :4].std(dim=1).min() > 0


def test_training_windows_begin_half_a_patch_after_an_anchor_and_end_before_the_last():
    assert CONFIG.starts == 2
    places = window_places(torch.arange(CONFIG.starts), CONFIG.patch)
    assert places[:, 0].tolist() == [4, 12] and places.shape == (2, 16) and places.max() < 2 * CONFIG.spacing


def test_every_patch_of_a_sequence_lies_among_the_anchors_as_one_of_training_does():
    trained = {tuple((half % CONFIG.spacing).tolist()) for row in window_places(torch.arange(2), 8) for half in row.split(8)}
    sampled = {tuple((patch_places(i, 1, 8) % CONFIG.spacing).tolist()) for i in range(10)}
    assert sampled == trained and len(sampled) == 2


def test_truncated_numbers_lie_within_the_bound_in_the_same_order():
    normal = torch.randn(10000, generator=torch.Generator().manual_seed(0))
    for bound in (0.1, 2.0):
        made = truncated(normal, bound)
        assert made.abs().max() <= bound + 1e-6 and made[normal.argsort()].diff().min() >= 0
    assert (truncated(normal, 3.9) - normal)[normal.abs() < 2].abs().max() < 1e-2
    assert truncated(normal, 0.5).std() < 0.3 < truncated(normal, 2.0).std()
