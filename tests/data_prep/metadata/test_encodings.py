"""Texts in the encodings in which lyrics and tables come: read, or not read, never as other characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.metadata.encodings import decode, read_text

LINES = {
    "ru": ("Вечер опять приходит\nи за рекой огни\nты мне сказала тихо\n", ("cp1251", "koi8_r", "cp866", "iso8859_5")),
    "uk": ("Тихо над річкою в ночі\nїдуть мої вози\nще й зорі\n", ("cp1251", "koi8_u")),
    "zh": ("今天的风吹过我的窗\n我想起了你的笑\n什么时候回来\n", ("gbk", "gb18030")),
    "zh_tw": ("今天的風吹過我的窗\n我想起了你的笑\n什麼時候回來\n", ("big5", "gbk")),
    "ja": ("雨の町を歩いていた\nあの日の君を思い出す\nまだここにいるよ\n", ("cp932", "euc_jp", "gbk", "iso2022_jp")),
    "ko": ("비가 오는 거리에서\n너의 이름을 불러\n아직도 나는\n", ("cp949",)),
    "fr": ("Une étoile est tombée là-bas\nça brûle à côté de moi\nnoël arrive\n", ("cp1252",)),
    "de": ("Die Nächte sind so kühl\nich höre dich, schöner Mond\ngrüß die Straße\n", ("cp1252",)),
    "es": ("El corazón volvió a la montaña\n¿dónde está mi niña?\n", ("cp1252",)),
    "pl": ("Idę dziś przez wąską ścieżkę\ngdzieś śpiewa żółty ptak\n", ("cp1250", "iso8859_2")),
    "el": ("Η νύχτα έρχεται ξανά\nκαι το φεγγάρι με κοιτά\n", ("cp1253",)),
    "he": ("ירח עולה מעל העיר\nואני שר לך שיר\n", ("cp1255",)),
    "ar": ("القمر فوق المدينة\nوانا اغني لك\n", ("cp1256",)),
    "th": ("คืนนี้ฝนตก\nฉันคิดถึงเธอ\n", ("cp874",)),
}


def through_cp1252(text: str) -> bytes:
    """UTF-8 read as cp1252, with the five bytes that it lacks as they are, and written as UTF-8."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode()).encode()


@pytest.mark.parametrize("stamp", ["", "[00:01.00]"])
@pytest.mark.parametrize(("text", "encoding"), [(text, name) for text, names in LINES.values() for name in names])
def test_lyrics_of_a_few_lines_are_read_in_older_encodings(text: str, encoding: str, stamp: str) -> None:
    stamped = "".join(stamp + line + "\n" for line in text.splitlines())
    found = decode(stamped.encode(encoding))
    assert found is not None and found.text == stamped


def test_no_single_line_is_read_as_other_characters() -> None:
    lines = [(line, name) for text, names in LINES.values() for line in text.splitlines() for name in names]
    found = [(line, decode(line.encode(name))) for line, name in lines]
    assert [(line, reading.text) for line, reading in found if reading and reading.text != line] == []
    assert sum(reading is not None for _, reading in found) > 0.9 * len(found)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_unicode_is_read_with_and_without_a_mark(encoding: str) -> None:
    for text in ("[00:01.00]one two\n", "[00:01.00]夜の歌\r\nГрюße, café\n"):
        found = decode(text.encode(encoding))
        assert found is not None and (found.text, found.damaged) == (text, 0)


@pytest.mark.parametrize("between", ["cp1252", "latin-1"])
def test_a_text_that_was_encoded_twice_is_decoded_twice(between: str) -> None:
    for text in ("Café del mar, größer", "Солнце", "夜の歌"):
        found = decode(text.encode().decode("latin-1").encode() if between == "latin-1" else through_cp1252(text))
        assert found is not None and (found.text, found.damaged) == (text, 0)
    found = decode("NÃO É ÂNGELO".encode())
    assert found is not None and found.text == "NÃO É ÂNGELO"


def test_damage_is_counted_and_no_text_is_no_text(tmp_path: Path) -> None:
    damaged = "déjà été là-bas".encode().replace(b"b", b"\xff")
    assert decode(damaged) == ("déjà été là-as", "utf-8", 1)
    assert decode(bytes(range(128, 256))) is None
    (tmp_path / "x.txt").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UserError, match="its encoding is not known"):
        read_text(tmp_path / "x.txt")
    with pytest.raises(UserError, match="longer than 99 bytes"):
        read_text(tmp_path / "x.txt", 99)
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)
