"""Decode text files: UTF-8, UTF-16 and UTF-32 with and without a byte-order mark, and older encodings by detection.

Detection finds the language and encoding with the highest likelihood of the bytes (naive Bayes over single characters). Each
language is a list of its characters beyond ASCII, frequent ones first. General detectors are made for web pages and are often
wrong for ten words of lyrics. If two readings are about equally likely, or no reading is likely, the file is not read.
Otherwise a model would be trained on wrong characters.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import NamedTuple

from data_prep.errors import UserError

MAX_BYTES = 1 << 26  # largest size of a table in bytes; lyrics have a separate limit
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32 begins like UTF-16

_CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё оанитвреслкудмпязьгбчхіїйжюєцшщфґ аиоенрстувкдмплјзгбњчшћхцжђљфџ".split()
_RUSSIAN, _UKRAINIAN = _CYRILLIC[:2]
_WEST = tuple("éèàêçùâîôûëïœæ äüöß óíáéñúü ãáéóçíêàâúôõ àèìòùé åäöøæé áíðéóöúýþæ".split())
_EAST = tuple("ąęłóśżćńź áíéěýřčžšúůťňďóľôä áéöóőüíúű ăîâşţ čšžćđ".split())
_JAPANESE = (
    "のいたてにしなかるをとがはうもりれまってくでらんあこさだけそきおえよわみめすせつちやどろじゆぎべばずほひげふぶむごねへびぬぼざぐょゃゅ"
    "ンースイトルアラリックドシレグジタコマロメチフプバサデオムウニナブテカパセキダハビュャィモネエミツポホソケノギゴボワベヤゲペョノザヨユピゼガズ"
    "君夢心日手空今人僕夜風言愛見生何思私歌時前花星声涙光二一中世界会明目気色朝出来町知胸行大海信好雨道音笑"
)
_SIMPLIFIED = (
    "的我你不一是了在人有爱这心天来么那个没说到想过要就让着多都好能还可情上无会里去看给走谁感风知道世界为自己生大小梦时间中起手等开笑听见再"
    "花回夜雨后海泪年月光月亮表代问深几分真轻春秋云飞歌唱山水星远近长地下和也得什对很怎只如果当从像最把忘记快乐幸福美丽朋友永远寂寞孤单请曾经"
)
_TRADITIONAL = (
    "的我你不一是了在人有愛這心天來麼那個沒說到想過要就讓著多都好能還可情上無會裡去看給走誰感風知道世界為自己生大小夢時間中起手等開笑聽見再"
    "花回夜雨後海淚年月光月亮表代問深幾分真輕春秋雲飛歌唱山水星遠近長地下和也得什對很怎只如果當從像最把忘記快樂幸福美麗朋友永遠寂寞孤單請曾經"
)
_KOREAN = (
    "이다는을가나에지고하너내아사랑한그어리도라은의해서를니기마대자오로수시게만있들없음면우말안날모든여눈줄보려인모습길일제스처럼세간것속물"
    "네잖요며원히늘난왜별밤빛바람거까못주살데미무때와번더꿈같던떠울당신했걸야함께상전잊두부"
)
# Encoding -> (log of its prior probability in files of lyrics, its languages).
_LANGUAGES: dict[str, tuple[float, tuple[str, ...]]] = {
    "cp1252": (0, _WEST),
    "cp1250": (-1, _EAST),
    "iso8859_2": (-2, _EAST),
    "cp1254": (-3, ("ıüşçöğâî",)),
    "cp1257": (-7, ("ėšųžūąįčę", "āīēšūņļžčķģ", "äõüö")),
    "cp1251": (0, tuple(_CYRILLIC)),
    "koi8_u": (-3, (_RUSSIAN, _UKRAINIAN)),
    "iso8859_5": (-4, (_RUSSIAN,)),
    "cp866": (-4, (_RUSSIAN,)),
    "cp1253": (-1, ("αοιετσνηυρπκμλςίόάγδέχθύήφώβξζψϊ",)),
    "cp1255": (-1, ("יוהלאתרבשמנעכקחדפגטםןצסזךףץ",)),
    "cp1256": (-1, ("اليمنوترببعدسفهكقحجةأشىخطصضذثزغءئ", "ایردنمهوتبسشگکخزلفقآعچحجپصطضغذظثژ")),
    "cp874": (-1, ("านรกเงมยลวดทสตะปบคหแจพชขไใผอโซธฉศถษณภ่้ั็ิีึืุู์ำๆ",)),
    "mac_roman": (-8, _WEST),
    "cp850": (-8, _WEST),
    "gb18030": (0, (_SIMPLIFIED, _TRADITIONAL, _JAPANESE)),
    "big5": (0, (_TRADITIONAL, _JAPANESE)),
    "cp932": (0, (_JAPANESE,)),
    "euc_jp": (-1, (_JAPANESE,)),
    "cp949": (0, (_KOREAN,)),
}
_LATIN = frozenset({"cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "mac_roman", "cp850"})
_TWICE = {ord(char): byte for byte in range(128, 160) if (char := bytes([byte]).decode("cp1252", "ignore"))}
_SIGNS = frozenset("’‘“”–—…«»¿¡°´·、。，！？「」『』（）：；～・")
_VOWELS = frozenset("аеёиоуыэюяіїєαεηιουωάέήίόύώ")
_MISPLACED = re.compile(r"\b[ъьыЪЬЫ]|[ςםןץףך]\B|σ\b|\w[¿¡]")  # characters that cannot be at this place of a word
_RARE, _FOREIGN, _BROKEN = math.log(2e-5), math.log(1e-7), math.log(1e-10)
_CERTAIN = math.log(30)  # least log likelihood ratio between the best and the second-best reading
_MAX_WORDS, _MAX_WORD = 2000, 40  # limits on the words, and the characters per word, that are used
_UNLIKELY = -9.0  # least mean log probability per character


class DecodedText(NamedTuple):
    """A text, its encoding, and the number of bytes that could not be decoded."""

    text: str
    encoding: str
    damaged: int = 0


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> DecodedText:
    """Read a text file in any encoding; UserError if the encoding is unknown or the file has more than `max_bytes` bytes."""
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror}); expected a text file") from None
    if len(data) > max_bytes:
        raise UserError(f"{path}: it is longer than {max_bytes} bytes; expected a text file")
    if found := decode(data):
        return found
    raise UserError(f"{path}: its encoding is not known, or it is no text; save it as UTF-8")


def decode(data: bytes) -> DecodedText | None:
    """Decode bytes to a text without control characters; None if the encoding is unknown."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), *zip(_MARKS, _WIDE)):
        if data.startswith(mark):
            return _checked(data[len(mark) :], encoding)
    if zeros := data.count(0):  # ASCII characters in UTF-16 or UTF-32, or a damaged text
        plain = _checked(data, "utf-8")
        readings = {sum(map(str.isascii, reading.text)): reading for name in _WIDE if (reading := _checked(data, name))}
        is_wide = not (plain and plain.damaged == zeros and 8 * zeros < len(data)) and max(readings, default=0) > zeros / 4
        return readings[max(readings)] if is_wide else plain
    if b"\x1b$" in data:
        return _checked(data, "iso2022_jp")
    return _checked(_once(data), "utf-8") or _detect(data)


def _once(data: bytes) -> bytes:
    """Undo a double encoding: UTF-8 bytes that were read as cp1252 or Latin-1 and encoded as UTF-8 again.

    Other bytes are returned unchanged.
    """
    with suppress(UnicodeError):
        once = data.decode().translate(_TWICE).encode("latin-1")
        once.decode()
        return once
    return data


def printable(text: str) -> str:
    """Remove control characters, byte-order and width marks, and lone surrogates from a text; white space is kept."""
    return "".join(char for char in text if char.isspace() or char in "\u200c\u200d" or unicodedata.category(char)[0] != "C")


def _checked(data: bytes, encoding: str) -> DecodedText | None:
    """Decode bytes; None if the text has too many damaged characters.

    At most a quarter of the characters beyond ASCII may be damaged. For UTF-16 and UTF-32 all characters count.
    """
    text = data.decode(encoding, errors="replace")
    kept = printable(text.replace("\ufffd", ""))
    damaged = (
        len(text) - len(kept) - sum(unicodedata.category(char) == "Cf" for char in text)
    )  # byte-order and width marks are not characters
    whole = len(kept) if encoding in _WIDE else sum(not char.isascii() for char in kept)
    lost = text.count("\ufffd") if encoding == "utf-8" else damaged
    return DecodedText(kept, encoding, damaged) if 3 * lost <= whole and damaged <= len(kept) else None


def _detect(data: bytes) -> DecodedText | None:
    """Return the most likely reading in an older encoding; None if it is unlikely or not clearly the most likely one."""
    likelihoods: dict[str, tuple[float, str, int]] = {}  # text -> (logarithm, encoding, characters beyond ASCII)
    for encoding, (prior, languages) in _LANGUAGES.items():
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        words = [match[0][:_MAX_WORD] for match in islice(re.finditer(r"\S*[^\s\x00-\x7f]\S*", text), _MAX_WORDS)]
        count = sum(not char.isascii() for word in words for char in word)
        for language in languages:
            value = prior + sum(_word_likelihood(word, language, encoding in _LATIN) for word in words)
            likelihoods[text] = max(likelihoods.get(text, (-math.inf, "", 0)), (value, encoding, count))
    order = sorted(likelihoods, key=lambda text: likelihoods[text], reverse=True)
    if not order or likelihoods[order[0]][0] < _UNLIKELY * likelihoods[order[0]][2]:
        return None
    if len(order) > 1 and likelihoods[order[0]][0] - likelihoods[order[1]][0] < _CERTAIN:
        return None
    beyond = [char for char in order[0] if not char.isascii()]
    are_words = sum(char in _SIGNS or unicodedata.category(char)[0] in "LM" for char in beyond) > 0.8 * len(beyond)
    return DecodedText(order[0], likelihoods[order[0]][1]) if are_words else None


def _word_likelihood(word: str, language: str, latin: bool) -> float:
    """Return the log likelihood of the characters of a word that are not ASCII."""
    known = _probabilities(language)
    total = _FOREIGN * len(_MISPLACED.findall(word))
    for char in word:
        if not char.isascii():
            unknown = _RARE if char.isalpha() else _FOREIGN if char.isprintable() else _BROKEN
            total += known.get(char.lower(), known.get(char, unknown))
    for is_run, run in groupby(word, key=lambda char: unicodedata.category(char)[0] in "LM"):
        part = "".join(run)
        if is_run and not part.isascii():
            total += _run_likelihood(part, latin)
    return total


def _run_likelihood(part: str, latin: bool) -> float:
    """Return the log likelihood of the sequence of character classes (case, vowels, scripts) in a word; no language is used."""
    if latin:  # a Latin word has few accented characters
        total = _RARE / 3 * max(0, len(part) - 2 * sum(map(str.isascii, part)) - 1)
    else:
        total = _FOREIGN * any("LATIN" in unicodedata.name(char, "") for char in part)
    if part.upper() != part.lower() and not (part.islower() or part.istitle()):
        total += math.log(0.5) if part.isupper() else _FOREIGN
    if any(char in _VOWELS for char in part.lower()):
        kinds = [char in _VOWELS for char in part.lower()]
        total += sum(math.log((0.3, 0.65, 0.05)[a + b]) for a, b in pairwise(kinds))
    return total


@lru_cache(maxsize=64)
def _probabilities(language: str) -> dict[str, float]:
    """Return the log probability of each character of a language, which lists frequent characters first.

    The probability is proportional to 1 / (rank + 0.3 n^0.7) for n characters (Zipf-Mandelbrot law).
    """
    characters = dict.fromkeys(language)
    weights = {char: 1 / (rank + 0.3 * len(characters) ** 0.7) for rank, char in enumerate(characters)}
    weights |= {sign: sum(weights.values()) / (20 if sign == "’" else 200) for sign in _SIGNS}
    whole = sum(weights.values())
    return {char: math.log(weight / whole) for char, weight in weights.items()}
