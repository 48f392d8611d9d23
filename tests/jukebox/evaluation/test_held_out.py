"""Windows of held-out songs, with another song for each as its control."""

from __future__ import annotations

import pytest

from data_prep.errors import UserError
from jukebox.evaluation.held_out import draw_windows


def test_windows_are_spread_over_songs_and_never_their_own_control():
    windows = draw_windows([100, 40, 10, 64], 32, 4, 30, 0)
    assert {w.song for w in windows} == {0, 1, 3} and all(w.song != w.other and w.start % 4 == 0 for w in windows)
    assert all(w.start + 32 <= (100, 40, 10, 64)[w.song] for w in windows)
    with pytest.raises(UserError, match="2 or more"):
        draw_windows([100, 10], 32, 1, 4, 0)
