"""Lyrics: text and ids undo each other, nothing is dropped in silence, and windows stay inside the song."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from priors.conditioning.config import LyricConfig
from priors.conditioning.lyrics import LyricEncoder
from priors.conditioning.vocabulary import PLAIN, PUBLISHED, Characters, linear_window, timed_window
from priors.transformer.config import LOCAL, Init, TrunkConfig

SETS = {**PUBLISHED, "plain": PLAIN}


@pytest.mark.parametrize("symbols", SETS.values(), ids=SETS)
def test_decode_undoes_encode(symbols):
    vocabulary = Characters(symbols)
    tokens = vocabulary.encode(symbols * 2)
    assert tokens.ids.tolist() == [*range(1, vocabulary.size)] * 2
    assert tokens.positions.tolist() == [*range(2 * len(symbols))]
    assert vocabulary.decode(tokens.ids) == symbols * 2 and not tokens.dropped
    assert vocabulary.decode([0, 0, 1]) == symbols[0]


@given(st.text())
def test_every_character_is_encoded_whole_or_counted(text):
    vocabulary = Characters(PUBLISHED["v3"])
    tokens = vocabulary.encode(text)
    assert set(range(len(text))) <= set(tokens.positions.tolist()) | {i for i, c in enumerate(text) if c in tokens.dropped}
    assert (np.diff(tokens.positions) >= 0).all() and ((tokens.ids > 0) & (tokens.ids < vocabulary.size)).all()
    again = vocabulary.encode(vocabulary.decode(tokens.ids))
    assert np.array_equal(again.ids, tokens.ids) and not again.dropped


def test_what_is_not_in_the_vocabulary_is_spelled_or_counted():
    tokens = Characters(PUBLISHED["v3"]).encode("Café #1 \\ ##")
    assert Characters(PUBLISHED["v3"]).decode(tokens.ids) == "Cafe 1 \n "
    assert tokens.dropped == {"#": 3}
    lowered = Characters(PLAIN).encode("HELLO, É½")  # a half is spelled 1/2: in part is not whole
    assert Characters(PLAIN).decode(lowered.ids).startswith("hello e") and lowered.dropped == {",": 1, "½": 1}


def test_linear_windows_follow_the_song_from_its_first_letter_to_its_last():
    firsts = [linear_window(1000, 100, 200_000, offset, 20_000) for offset in range(0, 200_000, 10_000)]
    assert firsts[0] == 0 and firsts[-1] == 900 and firsts == sorted(firsts)
    assert linear_window(30, 100, 200_000, 0, 20_000) == -70
    assert linear_window(1000, 101, 200_000, 190_000, 20_000) == 899  # an odd number of characters works too


def test_timed_windows_are_around_what_is_sung():
    seconds = np.array([np.nan, *np.linspace(10, 20, 99)])
    assert timed_window(seconds, 10, 15.0) == pytest.approx(45, abs=1)
    assert timed_window(seconds, 10, 0.0) == 0 and timed_window(seconds, 10, 99.0) == 90
    assert timed_window(seconds[:4], 10, 0.0) == -6


@pytest.mark.parametrize("causal", [True, False])
def test_a_published_encoder_has_heard_earlier_letters_only(causal):
    torch.manual_seed(0)
    order = LOCAL if causal else ("full",)
    trunk = TrunkConfig(n_ctx=12, width=8, depth=3, heads=2, order=order, blocks=3, init=Init(0.5, 0.5))
    encoder = LyricEncoder(LyricConfig(9, 12, trunk, causal=causal), 10, Init()).eval()
    ids = torch.arange(12)[None] % 8
    other = ids.clone()
    other[0, 6] = 8
    with torch.no_grad():
        changed = (encoder(ids) != encoder(other)).any(-1)[0]
    assert not changed[:7].any() and changed[7] if causal else changed.all()
