"""Negative controls for the figures of a prior on held-out windows. Each kind of figure has a list of controls.

A `Control` has a name and a function that replaces one condition of the windows by a false one. A new entry in a list appears
in `jukebox evaluate`, in its tables and in the ablations. `CONTROLS` are the controls of bits per code:

    lyrics          characters and times of another song
    letters         characters of another song at the true times (the strict control)
    plain           text of another song, compared with the true text; both are placed by line and beat, without word times
    labels          another artist and another genre
    artist, genre   another artist; another genre
    timing          timing of another window
    above           codes of the level above from another song

`HALF_KNOWN_CONTROLS` are for a prior that inpaints or has no likelihood. The controls of attention are in `attention.py`. A
control is used if it `applies`. All controls of a list use one generator in the order of the list. So append a new control at
the end, to keep the figures of the other controls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from jukebox.evaluation.held_out import HeldOutWindow, PriorWindows
from jukebox.song import PreparedSong
from priors.conditioning.conditions import Conditions, Lyrics

Windows = TypeVar("Windows")


@dataclass(frozen=True)
class Control(Generic[Windows]):
    """Compares the conditions from `corrupt` with the conditions from `truth` (None: the true conditions).

    Both functions take the windows and a generator. With `untrained`, the control is measured on an untrained network of the
    same shape.
    """

    name: str
    corrupt: Callable[[Windows, np.random.Generator], list[Any]]
    applies: Callable[[Windows], object] = lambda windows: True
    truth: Callable[[Windows, np.random.Generator], list[Any]] | None = None
    untrained: bool = False


OfWindows = list[Conditions]


# ---- lyrics


def has_lyrics(given: PriorWindows) -> bool:
    return bool(given.config.lyrics) and any(song.ids.size for song in given.songs)


def words(given: PriorWindows, rng: np.random.Generator, other: bool = True, placed: bool = False) -> OfWindows:
    """Return conditions with the lyrics of another song or of the same song, with word times or placed by line and beat."""
    texts = given.placed() if placed else given.songs

    def song(w: HeldOutWindow) -> PreparedSong:
        text = texts[w.other if other else w.song]
        return replace(given.songs[w.song], ids=text.ids, seconds=text.seconds, words=text.words)

    return given.conditions(song)


def other_characters(given: PriorWindows, rng: np.random.Generator) -> OfWindows:
    """Return conditions with the characters of another song at the times of the true song."""
    return [_at_true_times(f, t) for f, t in zip(words(given, rng), given.conditions(), strict=True)]


def _at_true_times(false: Conditions, true: Conditions) -> Conditions:
    if true.sung is not None and false.sung is not None:
        ids, places = true.sung.ids.clone(), true.sung.ids > 0
        others = false.sung.ids[false.sung.ids > 0]
        if len(others):
            ids[places] = others[torch.arange(int(places.sum())) % len(others)]
        return replace(true, sung=true.sung._replace(ids=ids))
    assert false.lyrics is not None and true.lyrics is not None
    return replace(true, lyrics=Lyrics(false.lyrics.ids, true.lyrics.seconds))


# ---- labels, timing, codes above


def has_labels(given: PriorWindows) -> bool:
    return bool(given.config.labels) and len(given.labels.artists) > 2 and len(given.labels.genres) > 2


def other_labels(given: PriorWindows, rng: np.random.Generator, artist: bool = True, genre: bool = True) -> OfWindows:
    def other(true: int, size: int) -> int:
        others = [i for i in range(1, size) if i != true]
        return int(rng.choice(others)) if others else 0

    def song(w: HeldOutWindow) -> PreparedSong:
        true = given.songs[w.song]
        number = other(true.artist, len(given.labels.artists)) if artist else true.artist
        genres = (other(true.genres[0] if true.genres else 0, len(given.labels.genres)),) if genre else true.genres
        return replace(true, artist=number, genres=genres)

    return given.conditions(song)


def shuffled_timing(given: PriorWindows, rng: np.random.Generator) -> OfWindows:
    truth = given.conditions()
    return [replace(t, timing=truth[i].timing) for t, i in zip(truth, rng.permutation(len(truth)), strict=True)]


def another_song(given: PriorWindows, rng: np.random.Generator) -> OfWindows:
    """Return all conditions, and the stream that the prior reads, of another song."""
    return given.conditions(lambda w: given.songs[w.other], lambda w: w.other)


CONTROLS: tuple[Control[PriorWindows], ...] = (
    Control("lyrics", words, has_lyrics),
    Control("letters", other_characters, has_lyrics),
    Control("plain", partial(words, placed=True), has_lyrics, partial(words, other=False, placed=True)),
    Control("labels", other_labels, has_labels),
    Control("artist", partial(other_labels, genre=False), has_labels),
    Control("genre", partial(other_labels, artist=False), has_labels),
    Control("timing", shuffled_timing, lambda given: given.config.labels and given.config.labels.timing_bins),
    Control("above", lambda given, rng: given.conditions(above=lambda w: w.other), lambda given: given.config.spec.reads),
)
HALF_KNOWN_CONTROLS: tuple[Control[PriorWindows], ...] = (Control("another song, half known", another_song),)
