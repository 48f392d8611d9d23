"""Words in time as .lrc, .srt, .vtt and Audacity labels."""

from __future__ import annotations

from data_prep.align import TimedText
from data_prep.metadata.captions import FORMATS, format_labels, format_srt, format_vtt, timed_lines
from data_prep.metadata.lyrics import parse_lyrics

WORDS = [TimedText("la", 0.5, 0.75), TimedText("<la>", 0.75, 1.5), TimedText("so", 3661.0, 3662.25)]
LINES = [WORDS[:2], WORDS[2:]]


def test_words_are_grouped_by_the_lines_of_the_lyrics_in_order():
    assert timed_lines("la <la>\n\nso", WORDS) == LINES
    assert timed_lines("so la", [WORDS[0], WORDS[2]]) == [[WORDS[0]]]  # a word before the last one is not found
    assert timed_lines("la", [TimedText("la", 2.0, 1.0), TimedText("", 0.0, 1.0)]) == [] == timed_lines("", [])


def test_srt_has_a_numbered_cue_per_line():
    assert format_srt(LINES) == "1\n00:00:00,500 --> 00:00:01,500\nla <la>\n\n2\n01:01:01,000 --> 01:01:02,250\nso\n"


def test_vtt_has_the_time_of_each_word_and_escapes_marks():
    assert format_vtt(LINES).startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.500\n<00:00:00.500>la <00:00:00.750>&lt;la&gt;\n")


def test_labels_are_lines_of_three_columns():
    rows = [line.split("\t") for line in format_labels(LINES).splitlines()]
    assert [TimedText(text, float(a), float(b)) for a, b, text in rows] == WORDS


def test_lrc_is_read_back():
    found = parse_lyrics(FORMATS[".lrc"]([[TimedText("la", 0.5, 0.75), TimedText("so", 1.0, 1.25)]]))
    assert found.text == "la so" and found.times == (TimedText("la", 0.5, 0.75), TimedText("so", 1.0, 1.25))
