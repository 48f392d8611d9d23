"""Conditions: each is optional; they are stacked, and binned as published."""

from __future__ import annotations

import pytest
import torch

from priors.conditioning.conditions import Conditions, Lyrics, stack
from priors.conditioning.config import LabelConfig
from priors.conditioning.labels import LabelEmbedding, TimingEmbedding, timing_bins

CONFIG = LabelConfig(artists=5, genres=4, timing_bins=8, min_seconds=1.0, max_seconds=9.0, sample_rate=100)


def one(artist: int, seconds: float) -> Conditions:
    return Conditions(
        artist=torch.tensor([artist]),
        genres=torch.tensor([[artist, -1]]),
        lyrics=Lyrics(torch.tensor([[1, 2]]), torch.tensor([[seconds, torch.nan]])),
        controls={"tempo": torch.tensor([[seconds]])},
    )


def test_stacked_conditions_come_apart_again():
    both = stack([one(1, 0.5), one(2, 1.5)])
    assert both.artist.tolist() == [1, 2] and both.timing is None
    assert both.lyrics.seconds[:, 0].tolist() == [0.5, 1.5] and both.controls["tempo"].tolist() == [[0.5], [1.5]]
    second = both.rows(slice(1, 2))
    assert torch.equal(second.genres, one(2, 1.5).genres) and torch.equal(second.lyrics.ids, one(2, 1.5).lyrics.ids)
    assert both.without("lyrics").lyrics is None and both.without("lyrics").artist is both.artist


def test_a_condition_given_to_some_items_only_is_refused():
    with pytest.raises(ValueError, match="lyrics"):
        stack([one(1, 0.5), one(2, 1.5).without("lyrics")])


def test_genres_are_a_bag_and_padding_counts_nothing():
    torch.manual_seed(0)
    labels = LabelEmbedding(CONFIG, 6, std=1.0)
    artist = torch.tensor([3])
    bag = labels(artist, torch.tensor([[1, 2, -1]]), 1)
    assert torch.equal(bag, labels(artist, torch.tensor([[2, 1]]), 1))
    expected = labels.artist.weight[3] + labels.genre.weight[1] + labels.genre.weight[2]
    assert torch.allclose(bag[0, 0], expected)
    assert torch.equal(labels(artist, torch.tensor([[-1, -1]]), 1)[0, 0], labels.artist.weight[3])
    assert not torch.allclose(bag, labels(artist, torch.tensor([[1]]), 1))
    assert torch.equal(labels(None, None, 2), labels(torch.zeros(2, dtype=torch.long), torch.zeros(2, 1).long(), 2))


def test_timing_bins_tell_length_position_and_fraction():
    total, absolute, relative = timing_bins(torch.tensor([[500, 200, 200]]), CONFIG, n_ctx=4)
    assert total.tolist() == [[4]]  # 8 bins over 1..9 seconds; 5 seconds
    assert absolute.tolist() == [[1, 2, 2, 3]]  # 2, 2.5, 3, 3.5 seconds of 9
    assert relative.tolist() == [[3, 4, 4, 5]]  # .4, .5, .6, .7 of the song
    late = timing_bins(torch.tensor([[500, 400, 200]]), CONFIG, 4)[2]  # the window ends after the song
    assert late.tolist() == [[6, 6, 7, 7]]
    outside = timing_bins(torch.tensor([[5000, 4900, 200]]), CONFIG, 4)
    assert all(((bins >= 0) & (bins < 8)).all() for bins in outside)


def test_timing_that_is_not_given_adds_nothing():
    timing = TimingEmbedding(CONFIG, 4, 6, std=1.0)
    rows = timing(torch.tensor([[0, 0, 200], [500, 0, 200]]))
    assert (rows[0] == 0).all() and (rows[1] != 0).any()
