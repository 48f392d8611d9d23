"""Time stamps of lyrics: their positions in a text, and their values in seconds.

    [mm:ss.xx]line          [mm:ss.xx][mm:ss.xx]line that is sung twice          [mm:ss.xx]<mm:ss.xx>word <mm:ss.xx>word

A number in a stamp has any number of digits. Hours are optional, and the fraction follows a point or a comma. `[mm:ss:xx]` has
hundredths of a second. If the lines would then be too fast to sing, the stamps are read as `[hh:mm:ss]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from data_prep.align import TimedText

_TIME = r"(\d{1,9})[:：](\d{1,9})(?:[:：](\d{1,9}))?(?:[.,．，](\d*))?"
STAMP = re.compile(rf"[\[［<＜]\s*[+-]?{_TIME}\s*[\]］>＞]")
LINE_STAMPS = re.compile(rf"\s*(?:[\[［]\s*[+-]?{_TIME}\s*[\]］]\s*)+")
_OFFSET = re.compile(r"\s*([-+−–]?)\s*(\d{1,9}(?:[.,]\d*)?)\s*(ms|msec|milliseconds?|s|secs?|seconds?|)\s*", re.IGNORECASE)
_CUE = re.compile(rf"^(?:\d+[ \t]*\n)?[ \t]*({_TIME})[ \t]*-->[ \t]*{_TIME}[^\n]*\n", re.MULTILINE)  # of .srt and .vtt files
_EVENT = re.compile(rf"^Dialogue:[^,\n]*,[ \t]*({_TIME})[ \t]*,(?:[^,\n]*,){{7}}", re.MULTILINE)  # of .ass and .ssa files
_BARE = re.compile(rf"^[ \t]*({_TIME})(?:[ \t]+[-–—|])?(?=[ \t])", re.MULTILINE)
FASTEST = 0.5  # seconds from line to line; if a quarter of the lines is faster, the stamps have hours


class StampClock:
    """Converts the groups of a stamp to seconds, in the same way for all stamps of a text."""

    def __init__(self, text: str) -> None:
        """Decide whether `a:b:c` means hours, minutes and seconds."""
        triples = [(int(a), int(b), int(c), d) for a, b, c, d in (match.groups() for match in STAMP.finditer(text)) if c]
        times = sorted({60 * a + b + float(f"0.{c}") for a, b, c, fraction in triples if fraction is None})
        gaps = [after - before for before, after in pairwise(times)]
        is_too_fast = bool(gaps) and float(np.quantile(gaps, 0.25)) < FASTEST
        self.has_hours = (is_too_fast or any(triple[3] is not None for triple in triples)) and all(
            b < 60 and c < 60 for _, b, c, _ in triples
        )

    def __call__(self, first: str, second: str, third: str | None, fraction: str | None) -> float:
        """Return the seconds from the beginning of the song."""
        if third and (self.has_hours or fraction is not None):
            return 3600.0 * int(first) + 60.0 * int(second) + int(third) + float(f"0.{fraction or 0}")
        return 60.0 * int(first) + int(second) + float(f"0.{third or fraction or 0}")


def offset_seconds(text: str) -> float | None:
    """Convert an offset such as +500, 0.5s or -500 ms to seconds; None for any other text.

    A number without a unit is milliseconds.
    """
    if not (number := _OFFSET.fullmatch(text)):
        return None
    value = float(number[2].replace(",", ".")) * (1 if number[3].lower().startswith("s") else 0.001)
    return -value if number[1] in ("-", "−", "–") else value


def with_brackets(text: str) -> str:
    """Put brackets around the stamps of subtitles, and around stamps without brackets if most lines begin with such a stamp."""
    text = _CUE.sub(r"[\1]", text + "\n")
    if _EVENT.search(text):
        text = re.sub(r"\{\\[^{}\n]*\}", "", _EVENT.sub(r"[\1]", text)).replace("\\N", " ")
    lines = sum(1 for line in text.split("\n") if line.strip())
    if not STAMP.search(text) and len(bare := _BARE.findall(text)) > 1 and 2 * len(bare) >= lines:
        text = _BARE.sub(r"[\1]", text)
    return text


def format_lrc(lines: Iterable[Sequence[TimedText]]) -> str:
    """Format lines of timed words as an .lrc file with <mm:ss.xx> stamps; the inverse is `parse_lyrics`.

    A word ends at the next stamp. If a word ends before the next word begins, a stamp without a word marks its end.
    """
    text = []
    for line in lines:
        parts = [f"[{_stamp(line[0].start)}]"]
        for word, after in zip(line, [*line[1:], None]):
            parts.append(f"<{_stamp(word.start)}>{word.text}")
            if after is None or _stamp(after.start) != _stamp(word.end):
                parts.append(f"<{_stamp(word.end)}>")
        text.append(" ".join(parts))
    return "\n".join(text) + "\n"


def _stamp(seconds: float) -> str:
    """Format seconds as mm:ss.xx."""
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000:02d}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"
