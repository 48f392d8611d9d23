"""What a WaveNet learns, beside controls: a receptive field that reaches a repetition or does not; notes, their pitch and their label."""

from __future__ import annotations

import numpy as np
import pytest

from launch.probes.signals import SCALE, centroid, fundamental, harmonics, motifs, notes
from launch.probes.wavenet import (
    BELOW,
    BEYOND,
    FRAME,
    NOTE,
    agreement_by_frame,
    musician,
    note_figures,
    period_figures,
    thread_figures,
)


def test_the_measures_of_true_notes_are_those_of_their_pitch_and_their_timbre():
    timbres = np.array([1, 2] * 10)
    audio, f0 = notes(np.random.default_rng(0), timbres, 1024)
    assert np.allclose([fundamental(row) for row in audio], f0, rtol=0.02) and set(f0) <= set(SCALE)
    assert [1 + (harmonics(row) > 0.1) for row in audio] == timbres.tolist()
    pair = notes(np.random.default_rng(0), np.array([1, 2]), 1024, (212.0, 212.0))[0]
    assert 200 < centroid(pair[0]) < 225 < 350 < centroid(pair[1]) < 450


def test_true_motifs_agree_with_their_own_pitches_and_not_with_those_of_other_pieces():
    audio, f0 = motifs(np.random.default_rng(0), 24, 4 * NOTE, NOTE)
    own, other = agreement_by_frame(audio, f0), agreement_by_frame(audio, np.roll(f0, 1, axis=0))
    assert len(own) == 4 * NOTE // FRAME and np.mean(own) > 0.9 and np.mean(other) < 0.5
    assert all(len(set(row)) == 2 for row in f0)


@pytest.mark.long
def test_a_receptive_field_beyond_the_period_takes_less_than_0_3_of_the_bits_of_one_below_with_as_many_parameters():
    found = period_figures(193, 16, 200, 0)
    assert BELOW.receptive_field < 193 < BEYOND.receptive_field and BELOW.depth == BEYOND.depth
    assert found["ratio"] <= 0.3 and found["below"] > 3.9 and found["blind"] == 4, found


@pytest.mark.long
def test_notes_have_fewer_bits_than_their_entropy_and_continuations_their_pitch_and_labels_their_timbre():
    figures = note_figures(musician(200, 0), 0)
    bits = figures["bits"]
    assert bits["own"] <= 0.6 * bits["entropy"] and bits["own"] < bits["false_label"], bits
    assert figures["pitch"]["kept"] >= 0.8 and figures["pitch"]["of_other_notes"] < 0.5, figures
    assert figures["timbre_from_label"] >= 0.9, figures


@pytest.mark.long
def test_the_figure_of_the_thread_has_every_frame_of_the_continuation_beside_both_controls():
    found = thread_figures(2, 0, rows=4)
    assert {name: len(values) for name, values in found["agreement"].items()} == dict.fromkeys(
        ("made", "true", "of_another_piece"), 12
    )
    assert found["after_a_note"]["true"] > 0.9 > found["after_a_note"]["of_another_piece"]
