"""Figures of prompts: clips resampled, distances that noise meets, columns spread evenly, and verdicts that can fail."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from jukebox.evaluation import prompts as evaluation
from jukebox.evaluation.masked import SoundDistance
from jukebox.evaluation.prompts import Prompted, even, resampled, spearman, verdicts
from jukebox.song import PreparedSong, Song
from priors.masked import masks
from priors.masked.config import MaskedParams
from priors.prior import Known
from tests.jukebox.editing.edits import with_masked


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Prompted:
    """Two clips of random codes, 0.7 s each, and the tiny model."""
    model = with_masked(tmp_path_factory.mktemp("masked"))
    rng = torch.Generator().manual_seed(0)
    codes = {stream: torch.randint(32, (2, 120 * ratio), generator=rng) for stream, ratio in masks.PER_COLUMN.items()}
    songs = [PreparedSong.of(Song(name, seconds=1.0), model.labels, model.vocabulary, 22050) for name in ("ann", "bob")]
    return Prompted(model, model.prior("masked"), codes, songs, dict.fromkeys(codes, MaskedParams(passes=2)), 0)


def test_clips_in_parallel_keep_the_codes_of_their_own_prompts(clips):
    per = masks.PER_COLUMN
    keep = masks.stack(
        [masks.expand_to_levels(masks.periodic(120, 3), per), masks.expand_to_levels(masks.ends(120, 40, 40), per)]
    )
    made, kept = clips.around(keep), keep["vq.0"]
    assert torch.equal(made[kept], clips.codes["vq.0"][kept])
    assert (made[~kept] != clips.codes["vq.0"][~kept]).float().mean() > 0.5
    assert clips.rate(keep) == pytest.approx((40 + 80) / 2 * 21 * 5 / (120 * 128 / 22050))


def test_resampling_is_a_function_of_the_seed_and_the_known_codes(clips):
    """Of what is not known nothing comes back; what is known of any stream, and the song, matters."""
    keep = masks.expand_to_levels(masks.periodic(120, 4), masks.PER_COLUMN)
    known = {stream: kept.expand(2, -1) for stream, kept in keep.items()}

    def made(codes=None, songs=None, seed: int = 0, mask=None) -> dict[str, torch.Tensor]:
        given = Known(codes or dict(clips.codes), mask or known)
        return resampled(clips.prior, given, songs or clips.songs, seed, clips.params)

    whole = made()
    assert all(torch.equal(whole[stream][kept], clips.codes[stream][kept]) for stream, kept in known.items())
    erased = {stream: torch.where(known[stream], codes, 0) for stream, codes in clips.codes.items()}
    assert all(torch.equal(codes, whole[stream]) for stream, codes in made(erased).items())
    moved = {**clips.codes, "vq.2": torch.where(known["vq.2"], (clips.codes["vq.2"] + 1) % 32, clips.codes["vq.2"])}
    for other in (made(seed=1), made(songs=list(reversed(clips.songs))), made(moved)):
        assert not torch.equal(other["vq.0"], whole["vq.0"])
    finest = {**{stream: torch.ones_like(kept) for stream, kept in known.items()}, "vq.0": known["vq.0"]}
    some = made(mask=finest)
    assert torch.equal(some["vq.1"], clips.codes["vq.1"]) and not torch.equal(some["vq.0"], whole["vq.0"])


def test_noise_has_the_distance_that_is_asked_for(clips):
    distance = SoundDistance.of(clips.model, clips.codes["vq.0"])
    everything = evaluation._noise(clips, distance, 1e9, 0)
    assert everything["share"] == 1.0
    for part in (0.2, 0.7):
        found = evaluation._noise(clips, distance, part * everything["mel"], 0)
        assert found["mel"] == pytest.approx(part * everything["mel"], rel=0.08) and 0 < found["share"] < 1


def test_even_columns_are_as_many_as_asked_for_and_spread():
    for n, count in ((100, 7), (100, 100), (50, 0), (1378, 156)):
        columns = even(n, count).nonzero().flatten()
        assert len(columns) == count
        assert count < 2 or set(columns.diff().tolist()) <= {n // count, -(-n // count)}


def test_rank_correlation_of_rows_in_the_same_order_is_1():
    assert spearman([1, 2, 3, 4], [10, 20, 25, 90]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([2, 4, 8, 16, 32], [1, 3, 2, 4, 5]) == pytest.approx(0.9)


def test_each_verdict_can_fail():
    rows = [*(f"every {p}" for p in evaluation.PERIODS), *evaluation.LEVELS]
    good = {
        "dial": {name: {"mel": i + 1.0, "frechet": 1.0} for i, name in enumerate(rows)},
        "spearman": 1.0,
        "tempo": {"prompts": {name: {"share_within": share} for name, share in (("beats", 0.9), ("as many, evenly", 0.8))}},
        "noise": {name: {"share": 0.5, "frechet": 2.0} for name in rows},
    }  # fmt: skip
    assert all(verdicts(good).values())
    changes = [
        ("spearman", lambda f: f.update(spearman=0.8)),
        ("levels", lambda f: f["dial"]["nothing"].update(mel=0.5)),
        ("tempo", lambda f: f["tempo"]["prompts"]["beats"].update(share_within=0.7)),
        ("noise", lambda f: f["noise"]["top"].update(frechet=0.5)),
    ]
    for _, change in changes:
        bad = copy.deepcopy(good)
        change(bad)
        assert not all(verdicts(bad).values())
    unreached = copy.deepcopy(good)
    unreached["noise"]["top"].update(frechet=0.5, share=1.0)  # no noise is as far: nothing to compare
    assert all(verdicts(unreached).values())


@pytest.mark.long  # librosa compiles its beat tracker
def test_tempo_of_a_kept_song_is_kept(clips):
    rate = clips.model.sample_rate
    at = np.arange(8 * rate) / rate
    clicks = (np.exp(-30 * (at % 0.5)) * np.sin(2 * np.pi * 660 * at)).astype(np.float32)
    n = int(8 * rate / 128)
    codes = {stream: torch.zeros(1, n * ratio, dtype=torch.long) for stream, ratio in masks.PER_COLUMN.items()}
    one = Prompted(clips.model, clips.prior, codes, clips.songs[:1], clips.params, 0)
    distance = SoundDistance.of(clips.model, codes["vq.0"])
    figures, made = evaluation._tempo(
        one, SoundDistance(distance.model, [torch.from_numpy(clicks[: n * 128])], distance.features), codes["vq.0"]
    )
    assert abs(figures["source"][0] / 120 - 1) < 0.04
    assert set(figures["prompts"]) == {"beats", "as many, evenly", "nothing"}
    assert 0.1 < figures["kept_columns"] < 0.2 and made["beats"].shape == codes["vq.0"].shape
