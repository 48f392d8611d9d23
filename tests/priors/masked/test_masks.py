"""Every prompt keeps what a hand would have written, and what is kept is counted to the code."""

from __future__ import annotations

import math

import pytest
import torch

from priors.masked import masks
from priors.prior import Mask
from vqvae.jukebox.config import VQVAEConfig

N = 12
SMALL = {"vq.2": 1, "vq.1": 2, "vq.0": 4}  # codes in a column, for pictures that fit a line
BOTH_ENDS = {"vq.2": "X..X", "vq.1": "XX....XX", "vq.0": "XXXX........XXXX"}  # of four columns


def columns(picture: str) -> torch.Tensor:
    return torch.tensor([mark == "X" for mark in picture])


def shown(mask: torch.Tensor) -> str:
    return "".join("X" if kept else "." for kept in mask.flatten().tolist())


def picture(keep: Mask) -> dict[str, str]:
    return {stream: shown(kept) for stream, kept in keep.items()}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (masks.nothing(N), "............"),
        (masks.everything(N), "XXXXXXXXXXXX"),
        (masks.ends(N), "............"),
        (masks.ends(N, 3, 2), "XXX.......XX"),
        (masks.ends(N, suffix=1), "...........X"),
        (masks.ends(N, 8, 8), "XXXXXXXXXXXX"),
        (masks.periodic(N, 0), "............"),
        (masks.periodic(N, 1), "XXXXXXXXXXXX"),
        (masks.periodic(N, 4), "X...X...X..."),
        (masks.periodic(N, N), "X..........."),
        (masks.periodic(N, N + 1), "X..........."),
        (masks.periodic(N, 4, roll=1), ".X...X...X.."),
        (masks.periodic(N, 4, roll=6), "..X...X...X."),
        (masks.periodic(N, 4, width=3), "XX.XXX.XXX.."),
        (masks.periodic(N, 6, width=2, roll=5), "....XXX...XX"),
        (masks.touching(N, [(1.0, 2.0)], 4.0), "....XXXX...."),
        (masks.touching(N, [(1.01, 2.01)], 4.0), "....XXXXX..."),
        (~masks.touching(N, [(0.5, 1.0), (2.0, 9.0)], 4.0), "XX..XXXX...."),
        (masks.touching(N, [(-1.0, 0.1)], 4.0), "X..........."),
        (masks.beats(N, [0.25, 1.5, 2.9], 4.0, after=0.0), ".X....X....X"),
        (masks.beats(N, [0.25, 1.5, 2.9], 4.0, after=0.0, every=2), ".X.........X"),
        (masks.beats(N, [0.25, 1.5], 4.0, before=0.5, after=0.25), "XXX.XXXX...."),
        (masks.beats(N, [0.25, 1.5], 4.0, after=0.0, invert=True), "X.XXXX.XXXXX"),
        (masks.beats(N, [], 4.0), "............"),
        (masks.beats(N, [7.0], 4.0), "............"),
        (masks.onsets(N, [0.0, 1.3, 5.0], 4.0, width=1), "XX..XXX....."),
        (masks.onsets(N, [1.3], 4.0, width=0), ".....X......"),
    ],
)
def test_a_prompt_keeps_what_a_hand_would_have_written(prompt, expected):
    assert shown(prompt) == expected


def test_a_random_prompt_keeps_its_share_and_follows_its_seed():
    assert masks.random(1000, 0.0, rng()).all()
    assert not masks.random(1000, 1.0, rng()).any()
    kept = masks.random(10_000, 0.7, rng())
    assert 0.28 < kept.float().mean() < 0.32
    assert torch.equal(kept, masks.random(10_000, 0.7, rng())) and not torch.equal(kept, masks.random(10_000, 0.7, rng(1)))


def test_dropout_only_lets_go():
    kept = masks.periodic(10_000, 2)
    dropped = masks.dropout(kept, 0.25, rng())
    assert not (dropped & ~kept).any() and 0.73 < dropped.sum() / kept.sum() < 0.77
    assert torch.equal(masks.dropout(kept, 0.0, rng()), kept) and not masks.dropout(kept, 1.0, rng()).any()


def test_union_keeps_what_any_keeps_and_intersection_what_all_keep():
    a, b = columns("XX..XX......"), columns(".XX...X....X")
    assert shown(masks.union(a, b)) == "XXX.XXX....X"
    assert shown(masks.intersection(a, b)) == ".X.........."
    assert torch.equal(~masks.union(a, b), masks.intersection(~a, ~b))


def test_a_prompt_is_spread_over_whole_columns():
    assert picture(masks.expand_to_levels(columns("X..X"), SMALL)) == BOTH_ENDS
    keep = masks.expand_to_levels(masks.random(50, 0.5, rng()))
    shapes = {stream: kept.shape for stream, kept in keep.items()}
    assert shapes == {"vq.2": (1, 50), "vq.1": (1, 200), "vq.0": (1, 800)}
    assert masks.orphans(keep).tolist() == [0]


def test_codes_of_a_column_are_those_of_the_published_codec():
    streams = VQVAEConfig().spec.streams
    assert masks.per_column(streams) == masks.per_column(reversed(streams)) == masks.PER_COLUMN


def test_wishes_are_put_together_in_one_order():
    """Union, then dropout, then levels kept whole (which dropout does not reach), then resampled levels, which have priority."""
    prompts = [columns("X..."), columns("...X")]
    assert picture(masks.combined(prompts, per=SMALL)) == BOTH_ENDS
    dropped = masks.combined(prompts, drop=1.0, rng=rng(), keep_levels=["vq.2"], per=SMALL)
    assert picture(dropped) == {"vq.2": "XXXX", "vq.1": "........", "vq.0": "................"}
    both = masks.combined(prompts, keep_levels=["vq.2", "vq.1"], resample_levels=["vq.1", "vq.0"], per=SMALL)
    assert picture(both) == {"vq.2": "XXXX", "vq.1": "........", "vq.0": "................"}


def test_a_fine_code_kept_under_a_coarse_one_that_changes_is_counted():
    keep = masks.combined([columns("X..X")], resample_levels=["vq.1"], per=SMALL)
    assert masks.orphans(keep).tolist() == [8]
    assert masks.orphans(masks.combined([columns("X..X")], resample_levels=["vq.1", "vq.0"], per=SMALL)).tolist() == [0]


def test_prompts_of_several_items_stand_side_by_side():
    items = [masks.expand_to_levels(columns("X..."), SMALL), masks.expand_to_levels(columns("..XX"), SMALL)]
    keep = masks.stack(items)
    assert keep["vq.1"].shape == (2, 8)
    assert masks.count_kept(keep).tolist() == [7, 14]


def test_a_bit_rate_is_the_counted_codes_times_their_bits():
    """At the published rates: 344.53 columns a second and 11 bits per code (reference: 3.79, 18.95 and 79.6 kb/s; 474 b/s)."""
    n, rate = 8 * 441, 44100 / 128
    seconds = n / rate
    whole = masks.expand_to_levels(masks.everything(n))
    for levels, expected in ((["vq.0", "vq.1", "vq.2"], 21), (["vq.1", "vq.2"], 5), (["vq.2"], 1)):
        keep = masks.with_levels(masks.expand_to_levels(masks.nothing(n)), levels)
        assert masks.bits_per_second(keep, 2048, seconds)[0] == pytest.approx(rate * 11 * expected, rel=1e-12)
        assert masks.count_kept(keep).tolist() == [sum(int(kept.sum()) for kept in keep.values())] == [n * expected]
    eighth = masks.without_levels(masks.expand_to_levels(masks.periodic(n, 8)), ["vq.0", "vq.1"])
    assert masks.bits_per_second(eighth, 2048, seconds)[0] == pytest.approx(473.7, abs=0.1)
    assert masks.bits_per_second(whole, 512, seconds)[0] == pytest.approx(rate * 9 * 21)


@pytest.mark.parametrize("n", [7, 100, 345])
@pytest.mark.parametrize("most", [100.0, 473.0, 3790.0, 3800.0, 5000.0, 18950.0, 30000.0, 79600.0, 1e6])
def test_a_prompt_for_a_bit_rate_is_the_fullest_that_fits(n, most):
    seconds = n * 128 / 44100
    if most < 11 / seconds:
        with pytest.raises(ValueError, match="one code alone"):
            masks.at_most(n, most, 2048, seconds)
        return
    keep = masks.at_most(n, most, 2048, seconds)
    rates = []  # of the whole ladder, by counting
    for keeping in ([], ["vq.2"], ["vq.2", "vq.1"]):
        for period in range(1, 33 if keeping else n + 1):
            anew = ["vq.0", "vq.1"][: 2 - len(keeping)]
            step = masks.combined([masks.periodic(n, period)], keep_levels=keeping, resample_levels=anew)
            rates += masks.bits_per_second(step, 2048, seconds)
    assert masks.bits_per_second(keep, 2048, seconds) == [max(rate for rate in rates if rate <= most)]
    assert masks.orphans(keep).tolist() == [0]
    assert {stream: kept.shape[1] for stream, kept in keep.items()} == {"vq.2": n, "vq.1": 4 * n, "vq.0": 16 * n}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: masks.random(N, 1.5, rng()),
        lambda: masks.ends(N, -1),
        lambda: masks.periodic(N, -4),
        lambda: masks.periodic(N, 4, width=0),
        lambda: masks.touching(N, [(2.0, 2.0)], 4.0),
        lambda: masks.beats(N, [1.0], 4.0, every=0),
        lambda: masks.dropout(masks.everything(N), -0.1, rng()),
        lambda: masks.combined([masks.everything(N)], drop=0.5),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_with_what_was_expected(wrong):
    with pytest.raises(ValueError, match="expected"):
        wrong()


def test_columns_of_a_time_are_exact_at_their_borders():
    """A range of whole columns touches no other, whatever floats make of the times."""
    for rate in (22050 / 128, 44100 / 128, 48000 / 128):
        for first in range(0, 3000, 7):
            touched = masks.touching(4000, [(first / rate, (first + 5) / rate)], rate)
            assert touched.nonzero().flatten().tolist() == list(range(first, first + 5))
    assert math.isclose(masks.bits_per_second(masks.expand_to_levels(masks.everything(1)), 2, 1.0)[0], 21.0)
