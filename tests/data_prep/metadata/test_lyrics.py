"""Files of lyrics: every stamp is a time, and nothing is sung that is no word of the song."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.align import character_seconds
from data_prep.metadata.lyrics import parse_lyrics


def starts(text: str) -> list[tuple[str, float]]:
    """What is sung and when it begins."""
    return [(time.text, round(time.start, 6)) for time in parse_lyrics(text).times]


def test_lines_of_an_lrc_last_until_the_next_stamp() -> None:
    text = "\ufeff[ar:Somebody]\n[ti:A title [live]]\n[00:01.50]Hello moon\n[00:04.00]\n[01:02.5]good night\n[01:04]sleep\n"
    lyrics = parse_lyrics(text)
    assert lyrics.text == "Hello moon\ngood night\nsleep" and not lyrics.left_out
    assert lyrics.times[:2] == (("Hello moon", 1.5, 4.0), ("good night", 62.5, 64.0))
    assert lyrics.times[2].start == 64.0 and 64.1 < lyrics.times[2].end < 66  # as fast as the others


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("[0:7]", 7.0), ("[00:07,25]", 7.25), ("[00:07.250000]", 7.25), ("[ 00:07.25 ]", 7.25), ("[00:07:25]", 7.25),
        ("[100:00.5]", 6000.5), ("[00:01:02.5]", 62.5), ("[02:00:00,000]", 7200.0), ("［00：07．25］", 7.25), ("[00:75]", 75.0),
        ("<00:07.25>", 7.25), ("[00:07.]", 7.0),
    ],
)  # fmt: skip
def test_a_stamp_has_any_number_of_digits_and_groups(stamp: str, seconds: float) -> None:
    assert starts(f"{stamp}word") == [("word", seconds)]


def test_three_groups_are_hours_where_lines_would_follow_too_fast() -> None:
    assert starts("[00:01:05]one\n[00:01:09]two\n[00:02:01]six") == [("one", 65), ("two", 69), ("six", 121)]
    assert starts("[1:00:01.5]one\n[1:00:03]two") == [("one", 3601.5), ("two", 3603)]
    assert starts("[00:01:05]one\n[00:03:09]two\n[00:05:01]six") == [("one", 1.05), ("two", 3.09), ("six", 5.01)]


@pytest.mark.parametrize(
    ("offset", "seconds"),
    [
        ("+500", 9.5),
        ("-500ms", 10.5),
        ("0.5s", 9.5),
        ("-1,5 sec", 11.5),
        ("−2 seconds", 12),
        ("", 10),
        ("20s", 0),
        ("soon", 10),
    ],
)
def test_an_offset_moves_all_earlier_in_its_unit(offset: str, seconds: float) -> None:
    lyrics = parse_lyrics(f"[offset: {offset}]\n[00:10.00]word")
    assert lyrics.times[0].start == seconds
    assert lyrics.left_out == ({"unreadable offsets": 1} if offset == "soon" else {})


def test_a_line_with_several_stamps_is_sung_again_with_the_times_of_its_words() -> None:
    assert starts("[00:10][00:30]chorus line\n[00:20]verse\n") == [("chorus line", 10), ("verse", 20), ("chorus line", 30)]
    text = "[00:05.00][00:01.00]<00:01.00>one <00:01.50>two<00:02.00>"
    assert starts(text) == [("one", 1), ("two", 1.5), ("one", 5), ("two", 5.5)]
    assert parse_lyrics(text).times[-1].end == 6.0


def test_stamps_within_lines_are_those_of_words_and_syllables() -> None:
    text = "[00:01.00]<00:01.00>one <00:01.50>two <00:02.25>\n[00:05.00]three <00:06.00>four <00:07.00>"
    lyrics = parse_lyrics(text)
    assert lyrics.text == "one two\nthree four"
    assert lyrics.times == (("one", 1.0, 1.5), ("two", 1.5, 2.25), ("three", 5.0, 6.0), ("four", 6.0, 7.0))
    assert starts("[00:01]se<00:01.2>ven <00:01.5>days") == [("seven", 1), ("days", 1.5)]
    assert starts("[00:01]one[00:02]two") == [("one", 1), ("two", 2)]
    assert starts("[00:01]<00:01>夜<00:02>の") == [("夜", 1), ("の", 2)]


def test_subtitles_and_stamps_without_brackets_are_times_too() -> None:
    ass = "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    ass += "Dialogue: 0,0:00:01.50,0:00:02.00,D,,0,0,0,,"
    assert starts(ass + "{\\k20}o{\\k30}ne, two\\Nthree") == [("one, two three", 1.5)]
    assert starts("0:01 - one\n0:02 - two") == [("one", 1), ("two", 2)]
    assert starts("1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo") == [("one", 1), ("two", 3)]
    assert starts("0:01 one\n0:03 two") == [("one", 1), ("two", 3)]
    assert starts("at 10:30 I wake\nand sleep") == []


@pytest.mark.parametrize(
    ("line", "sung", "what"),
    [
        ("[bar 2]two", "two", "marks"),
        ("{intro}two", "two", "marks"),
        ("[00:x1.00]two", "two", "marks"),
        ("[00-01]two", "two", "unreadable stamps"),
        ("[00:01.00 two", "two", "unreadable stamps"),
        ("00:01.00]two", "two", "unreadable stamps"),
        ("two 00:01.00", "two", "unreadable stamps"),
        ("(00:01.00)two", "two", "unreadable stamps"),
        ("(1000,200,0)two", "two", "unreadable stamps"),
        ("v2: two", "two", "singer marks"),
        ("bg: ooh", "", "background voices"),
        ("Both: two", "two", "singer marks"),
        ("女：二つ", "二つ", "singer marks"),
        ("two (ooh, ooh (aah))", "two", "background voices"),
        ("（ラララ）二つ", "二つ", "background voices"),
        ("♪ two", "two", "note signs"),
        ("two 🎵", "two", "note signs"),
        ("two x3", "two", "marks"),
        ("Chorus:", "", "marks"),
        ("VERSE 2", "", "marks"),
        ("- Instrumental -", "", "instrumental lines"),
        ("Guitar Solo", "", "instrumental lines"),
        ("This is an instrumental track.", "", "instrumental lines"),
        ("(Morceau instrumental)", "", "instrumental lines"),
        ("No lyrics available", "", "instrumental lines"),
        ("12 ContributorsLate Sun Lyrics", "", "credits"),
        ("two7Embed", "two", "marks"),
        ("此歌曲为没有填词的纯音乐，请您欣赏", "", "instrumental lines"),
        ("Lyrics by: Ann Example", "", "credits"),
        ("Words and Music: A. Example", "", "credits"),
        ("Written by Ann", "", "credits"),
        ("作 词 : 某某", "", "credits"),
        ("www.example.com", "", "credits"),
        ("* * *", "", "wordless lines"),
    ],
)
def test_what_is_not_sung_is_left_out_and_counted(line: str, sung: str, what: str) -> None:
    lyrics = parse_lyrics(f"before\n{line}\nafter")
    assert lyrics.text.split("\n") == ["before", *filter(None, [sung]), "after"]
    assert set(lyrics.left_out) == {what}
    assert [text for text, _ in starts(f"[00:01]before\n[00:02]{line}\n[00:03]after")] == [
        "before",
        *filter(None, [sung]),
        "after",
    ]


@pytest.mark.parametrize(
    ("text", "sung"),
    [
        ("one (ooh\naah) two\nthree", "one\ntwo\nthree"),
        ("one\n(ooh\nhey (hey)\naah)\ntwo", "one\ntwo"),
        ("one (ooh\n\ntwo :)", "one (ooh\n\ntwo :)"),  # a voice does not go on in the next verse
        ("1) one\n2) two", "1) one\n2) two"),
    ],
)
def test_a_background_voice_may_span_lines(text: str, sung: str) -> None:
    assert parse_lyrics(text).text == sung
    stamped = "\n".join(f"[00:0{number}]{line}" for number, line in enumerate(text.split("\n")))
    assert [words for words, _ in starts(stamped)] == [line for line in sung.split("\n") if line]


@pytest.mark.parametrize(
    "line",
    ["I said: no", "I <3 you", "at 10:30 pm", "written in the stars", "verse", "music", "Open: the door", "it's 50% off"],
)  # fmt: skip
def test_words_that_look_a_little_like_marks_are_sung(line: str) -> None:
    assert parse_lyrics(f"[00:01]{line}\n[00:02]after").text == f"{line}\nafter"


def test_names_before_several_lines_are_singers() -> None:
    lyrics = parse_lyrics("Ann: one\nBob & Ann: two\nAnn: three\nBob & Ann: four\nListen: five")
    assert lyrics.text == "one\ntwo\nthree\nfour\nListen: five" and lyrics.left_out == {"singer marks": 4}


def test_of_two_languages_the_first_is_sung() -> None:
    for text in (
        "[00:01]夜の歌\n[00:01]Song of the night\n[00:02]風\n[00:02.01]Wind",
        "[00:01]夜の歌\n[00:02]風\n[00:01]Song of the night\n[00:02]Wind",
        "[00:01]夜の歌\nSong of the night\n[00:02]風\nWind",
        "[00:01]夜の歌 / Song of the night\n[00:02]風 / Wind",
        "夜の歌\nSong of the night\n風\nWind",
    ):
        lyrics = parse_lyrics(text)
        assert lyrics.text == "夜の歌\n風" and lyrics.left_out == {"translated lines": 2}


def test_lines_without_a_stamp_continue_a_line_and_headings_are_left_out() -> None:
    lyrics = parse_lyrics("My Song\n[00:01]one\ntwo\n\n[00:03]\nthree")
    assert starts("My Song\n[00:01]one\ntwo\n\n[00:03]\nthree") == [("one two", 1), ("three", 3)]
    assert lyrics.left_out == {"untimed lines": 1}
    assert parse_lyrics("[ti:My Song]\n[ar:Ann]\n[00:00]Ann - My Song\n[00:01]one").left_out == {"credits": 1}


def test_plain_lyrics_keep_their_lines_and_lose_escapes() -> None:
    assert parse_lyrics("  just words\r\n\r\n\r\n\r\nand\u200b more ").text == "just words\n\nand more"
    assert parse_lyrics("rock &amp; roll\\nyou&#39;re").text == "rock & roll\nyou're"


@settings(max_examples=60, deadline=None)
@given(st.text("[]()<>{}0123456789:.,;-> ab♪作词：\noffset", max_size=80))
def test_any_text_can_be_parsed(text: str) -> None:
    lyrics = parse_lyrics(text)
    assert all(0 <= start <= end for _, start, end in lyrics.times)
    assert character_seconds(lyrics.text, lyrics.times).shape == (len(lyrics.text),)
