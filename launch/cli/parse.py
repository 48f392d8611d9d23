"""Parse values of flags from text. Every error names the flag, the given and the expected value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress

from data_prep.errors import UserError


def read_list(text: str) -> list[str]:
    """Split text at commas, without spaces around the parts and without empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_numbers(
    text: str, flag: str, expected: str, low: float = -math.inf, high: float = math.inf, count: int | None = None
) -> tuple[int, ...]:
    """Parse integers from `low` to `high`, separated by commas. UserError for other values, or for another number than `count`.

    expected: description of the expected value, for the error
    """
    with suppress(ValueError):
        numbers = tuple(int(part) for part in read_list(text))
        if all(low <= number <= high for number in numbers) and count in (None, len(numbers)):
            return numbers
    raise UserError(f"{flag} got {text!r}, expected {expected}")


def choose_by_level(text: str, known: Mapping[int, str]) -> list[str]:
    """Return the streams or priors that --levels lists by level or name, without duplicates, coarsest first. Empty text: all.

    known: level -> name of a stream or prior
    """
    levels = {**{str(level): level for level in known}, **{name: level for level, name in known.items()}}
    chosen = set(read_list(text)) or {str(level) for level in known}
    if wrong := sorted(chosen - set(levels)):
        listed = ", ".join(f"{level} ({known[level]})" for level in sorted(known))
        raise UserError(f"--levels got {text!r}: there is no {wrong[0]} to choose; choose among {listed or 'none'}")
    return [known[level] for level in sorted({levels[each] for each in chosen}, reverse=True)]


def read_time(text: str, flag: str) -> float:
    """Parse a time such as 42, 42.5, 0:42, 1:02.5 or 1:00:02 to seconds."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", text.strip())
    if not match or (match[2] and float(match[3]) >= 60) or (match[1] and int(match[2]) >= 60):
        raise UserError(f"{flag} got {text!r}, expected seconds or minutes and seconds, as in 42.5 or 0:42.5")
    return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + float(match[3])
