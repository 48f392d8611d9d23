"""Write words and their times as files for players, video programs and Audacity: .lrc, .srt, .vtt, and a label track.

An .lrc, .srt or .vtt file has one entry per line of the lyrics. A label track has one label per word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data_prep.align import TimedText
from data_prep.metadata.stamps import format_lrc

Lines = Sequence[Sequence[TimedText]]


def timed_lines(lyrics: str, times: Sequence[TimedText]) -> list[list[TimedText]]:
    """Group the timed words by the line of the lyrics that contains them.

    Each word is searched after the previous word. A word that is not found is left out.
    """
    lines: dict[int, list[TimedText]] = {}
    at = 0
    for word in times:
        place = lyrics.find(word.text, at) if word.text else -1
        if place >= 0 and word.start < word.end:
            lines.setdefault(lyrics.count("\n", 0, place), []).append(word)
            at = place + len(word.text)
    return [lines[number] for number in sorted(lines)]


def format_srt(lines: Lines) -> str:
    """Format lines as SubRip subtitles."""
    cues = [f"{n}\n{_clock(x[0].start, ',')} --> {_clock(x[-1].end, ',')}\n{_text(x)}\n" for n, x in enumerate(lines, 1)]
    return "\n".join(cues)


def format_vtt(lines: Lines) -> str:
    """Format lines as WebVTT subtitles with the time of each word."""
    cues = []
    for line in lines:
        words = " ".join(f"<{_clock(word.start, '.')}>{_escaped(word.text)}" for word in line)
        cues.append(f"{_clock(line[0].start, '.')} --> {_clock(line[-1].end, '.')}\n{words}\n")
    return "\n".join(["WEBVTT\n", *cues])


def format_labels(lines: Lines) -> str:
    """Format words as a label track of Audacity: start, end and text of each word, separated by tabs."""
    return "".join(f"{word.start:.6f}\t{word.end:.6f}\t{' '.join(word.text.split())}\n" for line in lines for word in line)


FORMATS: dict[str, Callable[[Lines], str]] = {
    ".lrc": format_lrc, ".srt": format_srt, ".vtt": format_vtt, ".labels.txt": format_labels,
}  # fmt: skip


def _text(line: Sequence[TimedText]) -> str:
    return " ".join(" ".join(word.text.split()) for word in line)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """Format seconds as hh:mm:ss.mmm, with `point` before the milliseconds."""
    thousandths = round(1000 * seconds)
    return f"{thousandths // 3_600_000:02d}:{thousandths // 60_000 % 60:02d}:{thousandths // 1000 % 60:02d}{point}{thousandths % 1000:03d}"
