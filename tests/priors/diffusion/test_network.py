"""M2: segments and back, the scan of the SRU, and what each part of the network depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from priors.conditioning.config import LabelConfig
from priors.diffusion.config import DiffusionConfig
from priors.diffusion.network import AngleEncoder, DualPathNetwork, Places, RoFormer
from priors.diffusion.segments import from_segments, segment_count, to_segments
from priors.diffusion.sru import BidirectionalSRU, scan

CONFIG = DiffusionConfig(
    "latent", 3, 64, 8000, "tokens", 4, 8, 2, 5, window=32, segment=8, width=16, layers=2, heads=2, angle_width=6,
    labels=LabelConfig(3, 2, 2),
)  # fmt: skip


@pytest.mark.parametrize("frames, size", [(2500, 64), (32, 8), (33, 8), (1, 4), (7, 16)])
def test_segments_become_the_sequence_again(frames, size):
    x = torch.randn(2, frames, 3)
    segments = to_segments(x, size)
    assert segments.shape == (2, segment_count(frames, size), size, 3)
    assert torch.allclose(from_segments(segments, frames), x, atol=1e-6)


def test_ten_seconds_of_the_paper_are_80_segments():
    assert segment_count(2500, 64) == 80


def test_beyond_the_ends_are_zeros_or_the_outermost_frames():
    x = torch.arange(1.0, 9.0)[None, :, None]
    assert to_segments(x, 4)[0, 0, :, 0].tolist() == [0, 0, 1, 2] and to_segments(x, 4)[0, -1, :, 0].tolist() == [7, 8, 0, 0]
    assert to_segments(x, 4, edge=True)[0, 0, :, 0].tolist() == [1, 1, 1, 2]


def network(config: DiffusionConfig = CONFIG) -> DualPathNetwork:
    torch.manual_seed(0)
    return DualPathNetwork(config).eval()


def inputs(rows: int = 2, frames: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    z, angle = torch.randn(rows, frames, 3, generator=rng), torch.rand(rows, frames, generator=rng)
    return z, angle, torch.randint(8, (rows, -(-frames // 4), 2), generator=rng)


def test_nothing_leaks_from_row_to_row_and_all_frames_of_a_row_count():
    z, angle, tokens = inputs()
    z.requires_grad_()
    network()(z, angle, tokens)[0, 20].sum().backward()
    assert z.grad is not None and not z.grad[1].any() and (z.grad[0].abs().sum(-1) > 0).all()


def test_the_scan_is_the_recurrence():
    values, keep = torch.randn(2, 5, 3), torch.rand(2, 5, 3)
    state = torch.zeros(2, 3)
    for t in range(5):
        state = keep[:, t] * state + (1 - keep[:, t]) * values[:, t]
        assert torch.allclose(scan(values, keep)[:, t], state, atol=1e-6)


def test_half_of_the_channels_of_an_sru_know_what_comes_and_half_what_was():
    x = torch.randn(1, 6, 4, requires_grad=True)
    sru = BidirectionalSRU(4)
    for channel, (before, after) in {0: (True, False), 3: (False, True)}.items():
        (gradient,) = torch.autograd.grad(sru(x)[0, 3, channel], x)
        there = gradient[0].abs().sum(-1) > 0
        assert there[3] and bool(there[0]) == before and bool(there[5]) == after


def test_angles_of_0_and_of_a_quarter_turn_have_vectors_of_their_own():
    encoder = AngleEncoder(6, 16)
    ends = encoder(torch.tensor([[0.0, torch.pi / 2]]))[0]
    with torch.no_grad():
        encoder.ends[0] += 1
    changed = encoder(torch.tensor([[0.0, torch.pi / 2]]))[0]
    assert not torch.allclose(changed[0], ends[0]) and torch.allclose(changed[1], ends[1], atol=1e-5)


def test_segments_and_tokens_are_on_one_axis_of_time_also_where_a_window_begins_inside_a_token():
    device = torch.device("cpu")
    places = Places(CONFIG, 32, 8, 0, device)
    assert places.of_tokens.tolist() == [i + 0.5 for i in range(8)]
    assert places.columns(1)[0].tolist() == [0.0, 1, 2, 3, 4, 5, 6, 7, 8], "the middle of frames -4..4, 0..8 .. in tokens of 4"
    assert torch.equal(Places(CONFIG, 32, 9, 2, device).columns(2), places.columns(2) + 0.5)
    assert places.tokens_of_frames().tolist() == [i // 4 for i in range(32)]
    assert Places(CONFIG, 32, 9, 2, device).tokens_of_frames().tolist() == [(i + 2) // 4 for i in range(32)]
    assert Places(CONFIG, 32, 8, 2, device).tokens_of_frames().tolist() == [min((i + 2) // 4, 7) for i in range(32)]


def test_attention_to_tokens_depends_on_distances_in_time_alone():
    """Segments and tokens moved together: the same result. Control: the tokens moved alone."""
    torch.manual_seed(0)
    part, x, encoded = RoFormer(16, 2).double(), torch.randn(1, 2, 5, 16).double(), torch.randn(1, 6, 16).double()

    def result(segments: float, tokens: float) -> torch.Tensor:
        places = Places(CONFIG, 16, 6, 0, torch.device("cpu"))
        places.starts, places.of_tokens = places.starts.double() + 4 * segments, places.of_tokens.double() + tokens
        return part.cross(x, encoded, places, None)

    assert torch.allclose(result(0, 0), result(3, 3), atol=1e-9)
    assert not torch.allclose(result(0, 0), result(0, 3), atol=1e-4)


def test_a_row_without_tokens_depends_on_none_and_other_rows_are_as_they_were():
    made, (z, angle, tokens) = network(), inputs()
    alone = torch.tensor([False, True])
    found, other = (made(z, angle, each, alone=alone) for each in (tokens, (tokens + 1) % 8))
    assert torch.equal(found[1], other[1]) and not torch.allclose(found[0], other[0])
    plain = made(z, angle, tokens)
    assert torch.allclose(found[0], plain[0], atol=1e-5) and not torch.allclose(found[1], plain[1])


def test_rows_do_not_depend_on_the_batch():
    made, (z, angle, tokens) = network().double(), inputs(3)
    z, angle = z.double(), angle.double()
    together = made(z, angle, tokens)
    for row in range(3):
        assert torch.allclose(made(z[row : row + 1], angle[row : row + 1], tokens[row : row + 1])[0], together[row], atol=1e-12)


def test_the_coarse_path_is_narrowest_in_the_middle():
    config = replace(CONFIG, segment=32, window=64, layers=5)
    assert [config.merged(layer) for layer in range(5)] == [16, 8, 4, 8, 16]


def test_every_weight_learns():
    made, (z, angle, tokens) = network(), inputs()
    labels = torch.randn(2, 1, 16)
    made.tokens.vectors.normal_()
    made(z, angle, tokens, labels, alone=torch.tensor([False, True])).square().sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []
