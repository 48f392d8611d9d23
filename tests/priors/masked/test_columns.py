"""Columns of codes, and what is hidden of them in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from priors.masked.columns import ColumnEmbedding, by_column, draw_masks, in_time, left_after, share_masked

RATIOS = {"vq.0": 16, "vq.1": 4, "vq.2": 1}


def test_by_column_and_in_time_are_inverses():
    codes = torch.arange(3 * 32).view(3, 32)
    for ratio in RATIOS.values():
        assert by_column(codes, ratio).shape == (3, 32 // ratio, ratio)
        assert torch.equal(in_time(by_column(codes, ratio)), codes)
    assert by_column(codes, 16)[0, 1].tolist() == list(range(16, 32))


def test_the_cosine_schedule_goes_from_all_to_none():
    assert share_masked(0.0) == 1.0 and share_masked(1.0) == pytest.approx(0.0)
    left = [left_after(step, 12, 1000) for step in range(13)]
    assert left[0] == 1000 and left[-1] == 0 and left == sorted(left, reverse=True)
    assert left[6] == 707 and left[8] == 500  # 1000 cos(45 degrees), 1000 cos(60 degrees)


def test_a_masked_slot_looks_the_same_whatever_its_code_and_another_slot_does_not_notice():
    torch.manual_seed(0)
    embedding = ColumnEmbedding(8, RATIOS, 5, 0.3)
    codes = {stream: torch.randint(8, (2, 3 * ratio)) for stream, ratio in RATIOS.items()}
    keep = {stream: torch.rand(2, 3 * ratio) < 0.5 for stream, ratio in RATIOS.items()}
    other = {stream: torch.where(keep[stream], codes[stream], (codes[stream] + 1) % 8) for stream in codes}
    seen, same = (embedding.concatenate(embedding(x, keep)) for x in (codes, other))
    assert seen.shape == (2, 3, 21 * 5) and torch.equal(seen, same)
    slots = seen.view(2, 3, 21, 5)  # coarsest first, in time inside a level
    first = {"vq.2": 0, "vq.1": 1, "vq.0": 5}
    for (stream, ratio), table in zip(RATIOS.items(), embedding.x_emb, strict=True):
        for at in range(3 * ratio):
            slot = first[stream] + at % ratio
            code, mask = table(codes[stream][:, at]), embedding.mask[slot]
            assert torch.equal(slots[:, at // ratio, slot], torch.where(keep[stream][:, at, None], code, mask))


def test_training_masks_know_whole_levels_a_third_of_the_time_each_and_ask_for_hidden_codes_only():
    rng = np.random.default_rng(0)
    known, shares, as_filled = np.zeros(4), [], 0
    for _ in range(1500):
        keep, asked = draw_masks(16, RATIOS, rng)
        whole = [bool(keep[stream].all()) for stream in reversed(RATIOS)]
        known[next((i for i, each in enumerate(whole) if not each), 3)] += 1
        assert all(not (keep[stream] & asked[stream]).any() for stream in keep)
        finer = [stream for stream in keep if not torch.equal(asked[stream], ~keep[stream])]
        as_filled += bool(finer)
        if finer:  # hidden together with what they stand under, and not asked for
            assert not any(asked[stream].any() for stream in finer)
        elif not whole[1]:
            shares.append(float((~keep["vq.1"]).float().mean()))
    assert np.allclose(known[:3] / 1500, 1 / 3, atol=0.06)  # a small share hides nothing at all of a level
    assert 0.25 < as_filled / 1500 < 0.4  # half of those that know less than all but the bottom
    assert np.mean(shares) > 0.5  # the mean of the cosine is 0.64; masked regions lower it
