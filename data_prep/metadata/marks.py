"""Find text in files of lyrics that is not sung: marks, credits, background voices, note signs, unreadable stamps.

`without_marks` replaces this text by spaces, so that the positions and times of all other characters do not change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

_SECTION = (
    r"(?:pre-?|post-?)?chorus|verse|bridge|intro|outro|hook|refrain|interlude|repeat(?: chorus)?|coda|couplet|strophe"
    "|refrão|estribillo|coro|припев|куплет|проигрыш|副歌|主歌|间奏|間奏|前奏|尾奏|サビ|전주|간주|후렴"
)
_SECTION_LINE = re.compile(rf"(?-i:(?![a-z]))(?:{_SECTION})|(?:{_SECTION})\s*(?:\d+|[ivx]+|[x×]\s?\d+|[ab])", re.IGNORECASE)
_INSTRUMENTAL = re.compile(
    r"(?:morceau |brano |tema |pista )?(?:instrumental[eo]?|strumentale)"
    r"|(?:instrumental|musical?)(?:\s(?:break|interlude|intro|outro|solo|bridge|section|version|track|playing|continues))"
    r"|(?:guitar|piano|drum|bass|sax\w*|keyboard|organ|synth|violin|trumpet|harmonica)\s(?:solo|break|interlude|riff)"
    r"|(?:there are )?no lyrics(?: available| found| yet)?|(?:this (?:song |track )?is )?(?:an )?instrumental(?: song| track| piece)?"
    r"|.{0,20}(?:纯音乐|純音樂).{0,12}|インスト(?:ゥルメンタル)?|연주곡|инструментал",
    re.IGNORECASE,
)
_WORK = (
    r"lyrics?|lyricists?|words|music|musique|musik|música|letra|paroles|text|written|songwriters?|writers?|compos(?:ed|ers?)|produc(?:ed|ers?)"
    r"|arrang(?:ed|ers?|ements?)|perform(?:ed|ers?)|vocals?|mix(?:ed|ing)?|master(?:ed|ing)|record(?:ed|ing)|engineer(?:ed|s)?|publish(?:ed|ers?)"
    r"|copyright|artists?|title|album|singers?|translat(?:ed|ion|ors?)|subtitles?|transcri(?:bed|ption)|sync(?:ed|hronized)?|lrc|sources?|label|isrc"
    r"|provided|licensed|powered|автор|слова|музыка|текст"
)
_WORK_CJK = (
    "(?:作|填)?(?:词|詞|曲)|(?:编|編)曲|(?:制|製)作人?|(?:监|監)(?:制|製)|演唱者?|原唱|和(?:声|聲)|混音|(?:录|錄)音"
    "|母(?:带|帶)|吉他|(?:贝|貝)斯|鼓|(?:键|鍵)(?:盘|盤)|弦(?:乐|樂)|出品|(?:发|發)行|(?:统|統)(?:筹|籌)|[企策](?:划|劃)"
    "|(?:OP|SP)(?=[ :：])|翻(?:译|譯)|歌手?|(?:专|專)辑|歌名|唄|작사|작곡|편곡|노래"
)
_CREDIT = re.compile(
    rf"\W*(?:(?:executive|co|additional|lead|backing)[ -])?(?:{_WORK})(?:[\s,/&+]+(?:and|y|et|und|{_WORK}))*(?:\s+by)?\s*[:：]"
    rf"|\W*(?:{_WORK})(?:[\s,/&+]+(?:and|{_WORK}))*\s+by\s+(?-i:(?=[^a-z\s]))"
    rf"|\W*(?:{_WORK_CJK})[^:：]{{0,8}}[:：]"
    r"|.*(?:https?://|www\.\w|\b\w+\.(?:com|net|org|cn|ru)\b|\w@\w+\.\w|not for commercial use|all rights reserved|著作权|著作權|版权|版權)"
    r"|\W*[©℗]|\d+ Contributors?(?:\b|.*Lyrics)|\d*Embed$|You might also like$",
    re.IGNORECASE,
)
_SINGER = re.compile(
    r"\s*(?:(?:v|voice|singer)\s?\d+|[fmdb]|bg|both|all|(?:fe)?male|wom[ae]n|m[ae]n|boys?|girls?|duet|together|lead|backing|choir|group|rap|spoken"
    rf"|男(?:声|聲)?|女(?:声|聲)?|合唱?|(?:齐|齊)唱?|众|全员|全員|{_SECTION})(?:\s*\d+)?\s*[:：]",
    re.IGNORECASE,
)
_NAME = re.compile(r"\s*([^\W\d_][^:：]{0,30}?)\s*[:：](?!\d)")
_BRACKETS = re.compile(r"\[[^\[\]]*\]|\{[^{}]*\}|【[^【】]*】|［[^［］]*］|<[^<>]{0,80}>|＜[^＜＞]{0,80}＞")
_BACKGROUND = re.compile(r"\([^()]*\)|（[^（）]*）")
_STAMPS = re.compile(
    r"[(（]\s*\d+\s*[:：;.,][\d:：;.,\s]*[)）]"
    r"|[\[<{(［＜（]\s*[+-]?\d+\s*[:：;.,]\s*\d[\d:：;.,\s]*"  # not closed
    r"|^(?=[\s:：;.,]*\d)[\s\d:：;.,]+[\]>}］＞]"  # not opened
    r"|-->"
)
_NUMBERS = re.compile(r"(?:[\[<{［＜]\s*)?(?<![\d:：;.,])[\d:：;.,]*\d[\d:：;.,]*(?:\s*[\]>}］＞])?")
_CLOCK = re.compile(r"<3|[1-9]\d?[:：]\d{1,2}[;.,]?|\d[\d.,]*[:：;.,]*|[;.,]+[\d.,]*[:：;.,]*")  # numbers that may be sung
_MOST_LINES = 5  # a background voice in parentheses has fewer line ends
_LONGEST = 300  # largest number of characters of a credit or a heading
_NOTES = re.compile("[♩-♯𝄀-𝇿🎤-🎼]+")
_TIMES_SUNG = re.compile(r"(?-i:(?<=\S)\d+Embed)\s*$|(?:[x×]\s?\d+|(?<!\d)\d+\s?[x×])\s*$", re.IGNORECASE)
_LONELY = re.compile(r"[\[\]{}【】［］＜＞]|\([^\w()]*\)|（[^\w（）]*）")


def singers(lines: Iterable[str]) -> frozenset[str]:
    """Return the names of singers: names before a colon in more than one line.

    A name has up to three capitalised words, or up to four characters in a script without capitals.
    """
    found = Counter[str]()
    for line in lines:
        if match := _NAME.match(line):
            words = match[1].split()
            capitals = all(not word[0].isalpha() or word[0].isupper() or word in ("and", "y", "et", "und") for word in words)
            no_case = match[1].upper() == match[1].lower() and len(match[1]) <= 4
            if (capitals and len(words) <= 3) or no_case:
                found[match[1]] += 1
    return frozenset(name for name, count in found.items() if count > 1)


def without_marks(text: str, names: frozenset[str], titles: frozenset[str], left_out: Counter[str]) -> str:
    """Replace the parts of a line that are not sung by spaces, and count them.

    A line that consists of title and artist (`titles`) is a credit.
    """
    if len(text) <= _LONGEST and (whole := _whole_line(text, titles)):
        left_out[whole] += 1
        return " " * len(text)
    text = _blank(_BRACKETS, text, left_out, lambda mark: "marks" if any(map(str.isalpha, mark)) else "unreadable stamps")
    text = _blank(_STAMPS, text, left_out, lambda _: "unreadable stamps")
    text = _blank(_NUMBERS, text, left_out, lambda numbers: "" if _CLOCK.fullmatch(numbers) else "unreadable stamps")
    for _ in range(3):  # nested
        text = _blank(_BACKGROUND, text, left_out, lambda _: "background voices")
    text = _blank(_NOTES, text, left_out, lambda _: "note signs")
    name = _NAME.match(text) if names else None
    if (match := _SINGER.match(text)) or (match := name if name and name[1] in names else None):
        is_background = match[0].strip(" :：").lower() in ("bg", "backing")
        left_out["background voices" if is_background else "singer marks"] += 1
        text = " " * len(text) if is_background else " " * match.end() + text[match.end() :]
    text = _blank(_TIMES_SUNG, text, left_out, lambda _: "marks")
    text = _LONELY.sub(lambda match: " " * len(match[0]), text)
    if text.strip() and not any(map(str.isalnum, text)):
        left_out["wordless lines"] += 1
        return " " * len(text)
    return text


def without_spanning(texts: Iterable[str], left_out: Counter[str]) -> list[str]:
    """Replace a background voice by spaces if its closing parenthesis is some lines after the opening one."""
    joined, opened = list("\n".join(texts)), []
    for at, char in enumerate(joined):
        if char in "(（":
            opened.append(at)
        elif char in ")）" and opened:
            inside = "".join(joined[opened[-1] : at])
            start = opened.pop()
            if 0 < inside.count("\n") < _MOST_LINES and not re.search(r"\n\s*\n", inside):
                left_out["background voices"] += 1
                joined[start : at + 1] = [char if char == "\n" else " " for char in joined[start : at + 1]]
    return "".join(joined).split("\n")


def _whole_line(text: str, titles: frozenset[str]) -> str | None:
    """Return the kind of a line that is not sung at all; None for other lines."""
    bare = " ".join(text.split())
    if _CREDIT.match(text) or _CREDIT.match(bare.replace(" ", "")) or frozenset(re.split(" [-–—] ", bare.casefold())) == titles:
        return "credits"
    bare = bare.strip("".join(char for char in bare if not char.isalnum()))
    return "instrumental lines" if _INSTRUMENTAL.fullmatch(bare) else "marks" if _SECTION_LINE.fullmatch(bare) else None


def _blank(pattern: re.Pattern[str], text: str, left_out: Counter[str], kind: Callable[[str], str]) -> str:
    """Replace each match for which `kind` returns a name by spaces, and count the matches that have words or signs."""

    def blank(match: re.Match[str]) -> str:
        if not (what := kind(match[0])):
            return match[0]
        if re.search(r"[^\s()（）]", match[0]):
            left_out[what] += 1
        return " " * len(match[0])

    return pattern.sub(blank, text)
