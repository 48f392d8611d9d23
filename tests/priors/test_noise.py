"""Random numbers of windows depend on where they are: not on the window, the batch or the order."""

from __future__ import annotations

import pytest
import torch

from priors.logits import uniforms
from priors.noise import BLOCK, Generators, WindowNoise, generator
from priors.prior import Known

KEYS = {"vq.2": 2, "toy": "toy"}


def test_the_numbers_of_a_generator_stay_those_of_earlier_versions():
    assert generator(7, 0, 2, 0).initial_seed() == 4939092443329733352
    assert generator(7, 1, 2, 0).initial_seed() != generator(7, 0, 2, 0).initial_seed()


def test_numbers_of_frames_are_equal_in_all_windows_that_hold_them_and_in_any_batch():
    both = WindowNoise(7, "toy", KEYS, [(0, 0), (3, 0)])
    whole = both.at("toy", 0, 3 * BLOCK, 5)
    for first, n in ((0, 1), (10, 60), (BLOCK, BLOCK), (BLOCK - 1, BLOCK + 2)):
        assert torch.equal(both.at("toy", first, n, 5), whole[:, first : first + n])
    alone = WindowNoise(7, "toy", KEYS, [(3, 40)])
    assert torch.equal(alone.at("toy", 0, 3 * BLOCK, 5)[0], whole[1]) and not torch.equal(whole[0], whole[1])
    assert both.at("toy", 5, 0, 5).shape == (2, 0, 5) and abs(whole.mean()) < 0.1 and abs(whole.std() - 1) < 0.1
    assert not torch.equal(both.at("vq.2", 0, BLOCK, 5), whole[:, :BLOCK])
    given = Generators([torch.Generator().manual_seed(i) for i in range(2)])
    assert torch.equal(given.at("toy", 3, 4), given.at("toy", 0, 7)[:, 3:])


def test_sequential_numbers_begin_anew_and_leave_out_those_that_are_skipped():
    rows = [(0, 0), (1, 0)]
    noise, skipping = WindowNoise(7, "vq.2", KEYS, rows), WindowNoise(7, "vq.2", KEYS, rows, (0, 6))
    whole = uniforms(noise.sequential(), 20)
    assert torch.equal(uniforms(noise.sequential(), 20), whole)
    later = uniforms(skipping.sequential(), 14)
    assert torch.equal(later[0], whole[0, :14]) and torch.equal(later[1], whole[1, 6:])


def test_parallel_windows_have_the_numbers_of_their_own_frames():
    whole = WindowNoise(7, "toy", KEYS, [(1, 0)]).at("toy", 0, 60, 5)[0]
    windows = WindowNoise(7, "toy", KEYS, [(1, 0)] * 3, (10, 22, 34)).at("toy", 10, 16, 5)
    assert all(torch.equal(row, whole[begin : begin + 16]) for row, begin in zip(windows, (10, 22, 34)))


def test_a_prefix_is_known_and_the_rest_of_the_window_is_not():
    known = Known.prefix("vq.2", torch.tensor([[4, 5], [6, 7]]), 3)
    assert known.mask["vq.2"].tolist() == [[True, True, False]] * 2
    assert known.sequences["vq.2"][:, :2].tolist() == [[4, 5], [6, 7]]
    assert Known.prefix("toy", torch.ones(1, 2, 8), 5).sequences["toy"].shape == (1, 5, 8)
    with pytest.raises(ValueError, match="a prompt of 2 frames in a window of 1"):
        Known.prefix("vq.2", torch.zeros(1, 2), 1)
