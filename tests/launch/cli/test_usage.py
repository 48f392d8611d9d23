"""A verb's usage is read from its function and its dataclasses: lists with commas, inherited fields, help and errors."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from data_prep.errors import UserError
from launch.cli.commands import main
from launch.cli.usage import read_arguments, read_usage, render, shared_flags

SEEN: list[tuple] = []


@dataclass(frozen=True)
class Window:
    """Which windows are used.

    levels: levels to write
    fractions: hops as shares
        of the window
    names: names of singers
    """

    levels: tuple[int, ...] = (2, 1, 0)
    fractions: tuple[float, ...] = ()
    names: tuple[str, ...] = ("a", "b c")


@dataclass(frozen=True)
class Wider(Window):
    """More of it.

    limit: GB at most
    levels: levels to read
    """

    limit: float | None = None


@shared_flags
def toy(song: str, *, window: Wider, pauses: tuple[float, ...] = (), last: int = 1) -> None:
    """Sing.

    song: what to sing
    pauses: pauses in seconds
    last: the last flag
    """
    SEEN.append((song, window, pauses, last))


def seen(*words: str) -> tuple:
    SEEN.clear()
    assert main(["toy", "s", *words], verbs={"toy": (f"{__name__}:toy", "sings")}) == 0
    return SEEN.pop()


def test_fields_stand_in_the_place_of_their_dataclass_inherited_ones_first():
    flags = {a.name: a.about for a in read_usage("toy", toy).flags}
    assert list(flags) == ["levels", "fractions", "names", "limit", "pauses", "last"]
    assert flags["fractions"] == "hops as shares of the window", "the base class's line"
    assert flags["levels"] == "levels to read", "of two lines that of the nearest class"


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], (Wider(), ())),
        (["--levels", "2"], (Wider(levels=(2,)), ())),
        (["--levels=-1, 0,,", "--pauses", "1e1 , .5"], (Wider(levels=(-1, 0)), (10.0, 0.5))),
        (["--levels=", "--names", " x y ,311,"], (Wider(levels=(), names=("x y", "311")), ())),
        (["--limit", "2", "--fractions=1,2"], (Wider(limit=2.0, fractions=(1.0, 2.0)), ())),
    ],
)
def test_lists_arrive_as_tuples_of_their_type(words, expected):
    _, window, pauses, _ = seen(*words)
    assert (window, pauses) == expected
    assert all(type(number) is float for number in (*window.fractions, *pauses))


@pytest.mark.parametrize(
    "word, error",
    [
        ("--levels=2,x", "--levels got '2,x', expected whole numbers with commas between them (levels to read)"),
        ("--levels=2;1", "--levels got '2;1', expected whole numbers with commas between them (levels to read)"),
        ("--levels=1.5", "--levels got '1.5', expected whole numbers with commas between them (levels to read)"),
        ("--pauses=1,,y", "--pauses got '1,,y', expected numbers of seconds with commas between them (pauses in seconds)"),
        ("--pauses=1,inf", "--pauses got '1,inf', expected numbers of seconds with commas between them (pauses in seconds), "
                           "and finite ones"),
        ("--levels", "--levels needs a value: levels to read"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_one_line_with_the_flag_what_was_given_and_what_was_expected(word, error):
    with pytest.raises(UserError) as caught:
        read_arguments(read_usage("toy", toy), ["s", word])
    assert str(caught.value) == error


def test_help_shows_lists_with_commas_and_neither_an_empty_one_nor_none():
    page = render(read_usage("toy", toy))
    assert re.search(r"--levels INTEGERS +levels to read \(default 2,1,0\)\n", page)
    assert re.search(r"--fractions NUMBERS +hops as shares of the window\n", page)
    assert re.search(r"--names TEXTS +names of singers \(default a,b c\)\n", page)
    assert re.search(r"--limit NUMBER +GB at most\n", page)


def test_python_passes_fields_or_the_dataclass_but_not_both():
    SEEN.clear()
    toy("s", levels=(1,), limit=3.0)
    toy("s", window=Wider((1,), limit=3.0))
    assert SEEN[0] == SEEN[1] == ("s", Wider(levels=(1,), limit=3.0), (), 1)
    with pytest.raises(TypeError, match="levels"):
        toy("s", window=Wider(), levels=(1,))


def test_a_field_without_a_default_must_be_given():
    @dataclass(frozen=True)
    class Least:
        """What is needed.

        rates: rates to try
        """

        rates: tuple[float, ...]

    def verb(*, least: Least) -> None:
        """Try."""

    verb.__annotations__["least"] = Least
    usage = read_usage("try", shared_flags(verb))
    assert usage.line() == "jukebox try --rates NUMBERS" and "(must be given)" in render(usage)
    with pytest.raises(UserError, match="--rates is missing"):
        read_arguments(usage, [])
