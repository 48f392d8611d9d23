"""Live music as a listener gets it: what counts as an underrun, and what is measured around a change."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from launch.live.session import BUFFER, ControlChange, Listener, change_figures, folded, lines_of, summary

RATE = 1000


def listener_of(blocks: list[bytes], pause: float = 0.0) -> Listener:
    """A listener to a pipe that these blocks are written into, a pause after each."""
    reading, writing = os.pipe()

    def write() -> None:
        for block in blocks:
            os.write(writing, block)
            time.sleep(pause)
        os.close(writing)

    threading.Thread(target=write, daemon=True).start()
    return Listener(os.fdopen(reading, "rb", buffering=0), RATE)


def test_music_that_is_there_in_time_has_no_underrun_and_the_buffer_holds_a_second():
    listener = listener_of([bytes(100)] * 50)
    listener.wait(round(BUFFER * RATE))
    time.sleep(0.1)
    assert BUFFER * RATE <= len(listener.data) <= BUFFER * RATE + 2048, "more is not read before some is played"
    while listener.take(500):
        time.sleep(0.05)
    assert listener.underruns == 0 and len(listener.data) == 5000


def test_music_that_is_late_has_underruns():
    listener = listener_of([bytes(100)] * 4, pause=0.2)
    while listener.take(100):
        pass
    assert listener.underruns >= 2 and len(listener.data) == 400


def test_controls_change_by_turns_and_each_goes_up_and_down():
    assert lines_of(5) == [("density", 2.5), ("tempo", 88.0), ("density", 4.5), ("tempo", 126.0), ("density", 2.5)]


def clicks(rate: int, per_second: float, seconds: float) -> np.ndarray:
    wave = np.zeros((1, round(rate * seconds)), np.float32)
    noise = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    for start in np.arange(0, seconds - 0.1, 1 / per_second):
        wave[0, round(start * rate) : round(start * rate) + 400] += 0.3 * noise
    return wave


def test_a_rise_of_density_is_found_where_it_happens_and_not_in_the_control():
    rate = 22050
    steady = clicks(rate, 2.0, 24.0)
    made = np.concatenate([clicks(rate, 2.0, 12.0), clicks(rate, 6.0, 12.0)], axis=1)
    found = summary([change_figures(ControlChange("density", 4.5, 12.0), made, steady, rate)])
    assert found["density_rise"] > 2 and abs(found["control_density_rise"]) < 0.5


def test_tempos_are_compared_within_an_octave():
    assert folded(240.0, 120.0) == pytest.approx(0) and folded(180.0, 120.0) == pytest.approx(-0.415, abs=1e-3)


def test_changes_too_near_to_the_end_are_not_part_of_the_means():
    wave = clicks(22050, 2.0, 14.0)
    rows = [change_figures(ControlChange("density", 4.5, second), wave, wave, 22050) for second in (3.0, 7.0)]
    assert rows[0]["before"] is None and None not in rows[1].values() and summary(rows[:1]) == {}
