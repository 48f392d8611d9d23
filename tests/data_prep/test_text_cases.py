"""Tags, lyrics and tables as they are found: an input of each kind with the right result, through `jukebox prepare`; mutations."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mutagen.id3 import ID3, SYLT, TPE1, TXXX, USLT

from data_prep import manifest
from data_prep.errors import UserError
from data_prep.labels import build_labels
from data_prep.manifest import SongRow, load_manifest
from data_prep.sources import UNREADABLE, Found, complete, find_songs
from launch.cli import main
from launch.verbs.sample import read_lyrics

# name of the file -> bytes, what is sung and when it begins
LYRICS: dict[str, tuple[bytes, list[tuple[str, float]]]] = {
    "comma.lrc": (b"[00:03,25]late sun\n[00:04,50]goes", [("late sun", 3.25), ("goes", 4.5)]),
    "hours.lrc": (b"[01:00:03.25]late sun\n[01:00:04.50]goes", [("late sun", 3603.25), ("goes", 3604.5)]),
    "digits.lrc": (b"[0:3.2500001]late sun", [("late sun", 3.2500001)]),
    "offset.lrc": (b"[offset: -0.25 s]\n[00:03.00]late sun", [("late sun", 3.25)]),
    "bilingual.lrc": (b"[00:03]Sol tarde\n[00:03]Late sun\n[00:04]se va\n[00:04]goes", [("Sol tarde", 3), ("se va", 4)]),
    "unknown.lrc": (b"[00:03]late sun\n[part B]goes\n[00:05]down", [("late sun goes", 3), ("down", 5)]),
    "singers.lrc": (b"[00:03]v1: <00:03>late <00:03.5>sun\n[00:04]v2: <00:04>goes", [("late", 3), ("sun", 3.5), ("goes", 4)]),
    "repeated.lrc": (b"[00:03][00:13]<00:03>late <00:03.5>sun", [("late", 3), ("sun", 3.5), ("late", 13), ("sun", 13.5)]),
    "instrumental.lrc": (b"[00:00.00](Instrumental)", []),
    "notes.lrc": ("[00:00]♫ ♫\n[00:03]♪ late sun ♪".encode(), [("late sun", 3)]),
    "background.lrc": (b"[00:03]late sun (late, late)\n[00:04](goes)", [("late sun", 3)]),
    "credits.lrc": ("[00:00]Lyrics by: Ann Example\n[00:01]作词：某某\n[00:03]late sun".encode(), [("late sun", 3)]),
    "stamped.txt": (b"[00:03.25]late sun", [("late sun", 3.25)]),
    "gbk.lrc": ("[00:03]我想你的时候\n[00:04]风在吹".encode("gbk"), [("我想你的时候", 3), ("风在吹", 4)]),
    "cp1251.lrc": ("[00:03]Солнце уходит".encode("cp1251"), [("Солнце уходит", 3)]),
    "cp1252.lrc": ("[00:03]L'été s'en va".encode("cp1252"), [("L'été s'en va", 3)]),
    "utf16.lrc": ("[00:03]late sun".encode("utf-16"), [("late sun", 3)]),
    "utf16_le.lrc": ("[00:03]late sun".encode("utf-16-le"), [("late sun", 3)]),
    "unknown_encoding.lrc": (b"[00:03]" + bytes(range(128, 256)), []),
}
# name of the file -> its tags, and artist, lyrics and times of lines
TAGS = {
    "artists.mp3": ([TPE1(encoding=3, text="Ann & Bob"), TXXX(encoding=3, desc="ARTISTS", text=["Ann", "Bob"])], ("Ann", None, [])),
    "semicolon.mp3": ([TPE1(encoding=3, text="Ann; Bob")], ("Ann", None, [])),
    "capitals.mp3": ([TPE1(encoding=3, text="ANN")], ("Ann", None, [])),
    "uslt.mp3": ([USLT(encoding=3, lang="eng", text="[00:01.00]late sun")], (None, "late sun", [1.0])),
    "sylt.mp3": (
        [USLT(encoding=3, lang="eng", text="late sun"), SYLT(encoding=3, lang="eng", format=2, type=1, text=[("late", 500), ("sun", 900)])],
        (None, "late\nsun", [0.5, 0.9]),
    ),
}  # fmt: skip
LISTS = {
    "semicolons.csv": "path;artist;genres\na.wav;Ann;Folk\n",
    "tabs.csv": "path\tartist\tgenres\na.wav\tAnn\tFolk\n",
    "sep.csv": "sep=;\npath;artist;genres\na.wav;Ann;Folk\n",
    "separator.csv": "path,artist,genres\na.wav,Ann\u2028,Folk\n",
    "backslash.csv": "path,artist,genres\n.\\a.wav,Ann,Folk\n",
    "twice.csv": "path,artist,genres\na.wav,Ann,Folk\n./a.wav,Bob,Rock\n",
    "utf16.csv": "\ufeffpath\tartist\tgenres\r\na.wav\tAnn\tFolk\r\n",
}


def write_tone(path: Path) -> None:
    """Write a second of sound."""
    soundfile.write(path, 0.1 * np.sin(np.arange(8000) / 9), 8000)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, SongRow], Path]:
    """The rows of `jukebox prepare` of all songs, by name without suffix, and their folder."""
    folder = tmp_path_factory.mktemp("music")
    for name, (data, _) in LYRICS.items():
        write_tone((folder / name).with_suffix(".wav"))
        (folder / name).write_bytes(data)
    for name, (frames, _) in TAGS.items():
        write_tone(folder / name)
        tags = ID3()
        for frame in frames:
            tags.add(frame)
        tags.save(folder / name)
    assert main(["prepare", str(folder), "--out", str(folder / "data"), "--workers", "1"]) == 0
    return {Path(row.path).stem: row for row in load_manifest(folder / "data")}, folder


@pytest.mark.parametrize("name", LYRICS)
def test_lyrics_beside_a_song_are_sung_at_their_times_in_every_verb(prepared, name: str) -> None:
    rows, folder = prepared
    row, expected = rows[Path(name).stem], LYRICS[name][1]
    assert [(time.text, round(time.start, 7)) for time in row.word_times] == expected
    assert (row.lyrics or "").split() == " ".join(text for text, _ in expected).split()
    if name == "unknown_encoding.lrc":
        with pytest.raises(UserError, match="its encoding is not known"):
            read_lyrics(str(folder / name))
    else:
        assert read_lyrics(str(folder / name)) == (row.lyrics or "", list(row.word_times))


@pytest.mark.parametrize("name", TAGS)
def test_tags_of_a_song_are_used(prepared, name: str) -> None:
    row = prepared[0][Path(name).stem]
    assert (row.artist, row.lyrics, [time.start for time in row.word_times]) == TAGS[name][1]


def test_what_was_left_out_is_printed_in_one_line(prepared, capsys) -> None:
    folder = prepared[1]
    assert main(["prepare", str(folder), "--out", str(folder / "data"), "--workers", "1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("kept"))
    counts = dict(re.findall(r"[:,] ([a-z, ]+[a-z]) (\d+)", line.partition("; left out")[2]))
    assert counts["translated lines"] == "2" and counts["credits"] == "2" and counts["background voices"] == "2"
    assert counts["artists after the first, in songs"] == "2" and counts["other spellings of names, in songs"] == "1"
    assert f"{UNREADABLE}: 1 (unknown_encoding.wav; save them as UTF-8)" in line


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_one_song_by_ann(tmp_path: Path, name: str, capsys) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / name).write_text(LISTS[name], encoding="utf-16" if "utf16" in name else "utf-8", newline="")
    assert main(["prepare", str(tmp_path / name), "--out", str(tmp_path / "data"), "--workers", "1"]) == 0
    assert [(row.path, row.artist, row.genres) for row in load_manifest(tmp_path / "data")] == [("a.wav", "Ann", ("Folk",))]
    assert ("ignored 1 others" in capsys.readouterr().out) == (name == "twice.csv")


# ---- mutations

STAMP_LIKE = re.compile(r"[\[<{]\d+[:;.,]|\d[:;]\d+[.,:;]\d|\d[:;.,]\d+[\]>}]|[\[\]{}]")
INSERTED = [sign.encode() for sign in '[ ] < > : . , ( ) ; " \\ 0 --> [00:07.00] \u2028'.split(" ")]
INSERTED += [b"\n", b"\r", b"\t", b"\0", b" "]
TABLES = {
    "list.csv": 'path,artist,genres,lyrics\r\na.wav,Ann,"Folk; Pop","late\r\nsun, sun"\r\nsub/b.wav,Zoë,Rock,[00:01.00]goes\r\n',
    "list.tsv": "path\tartist\tlyrics\na.wav\tАнна; Ёж\tСолнце уходит\nb.wav\tBob\t[00:01.00]<00:01.00>late <00:02.00>sun\n",
    "list.jsonl": '{"path": "a.wav", "genres": ["Folk"], "lyrics": "[00:01,50]late"}\n{"path": "b.wav", "words": [["sun", 0, 1.5]]}\n',
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them flipped, cut, repeated, inserted or joined to themselves."""
    changes: list[Callable[[bytes, int, int], bytes]] = [
        lambda data, a, _: data[:a] + bytes([data[a] ^ 1 << chance.randrange(8)]) + data[a + 1 :] if a < len(data) else data,
        lambda data, a, b: data[:a] + data[b:],
        lambda data, a, b: data[:b] + data[a:],
        lambda data, a, _: data[:a] + chance.choice(INSERTED) + data[a:],
        lambda data, a, _: data[:a] + chance.randbytes(2) + data[a:],
        lambda data, a, _: data[:a] if chance.random() < 0.3 else data,
        lambda data, *_: data + data,
    ]
    for _ in range(chance.randint(1, 6)):
        a = chance.randrange(len(data) + 1)
        data = chance.choice(changes)(data, a, a + chance.randint(1, 12))
    return data


def stamp_like(song: Found) -> Iterator[str]:
    """What looks like a stamp in the lyrics of a song, or in words whose times come from them."""
    for text in (song.lyrics or "", *(time.text for time in song.word_times)):
        yield from (match[0] for match in STAMP_LIKE.finditer(text))


def test_mutated_lyrics_are_read_without_stamps_or_counted(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    texts = [data for data, _ in LYRICS.values()]
    texts += ["1\n00:00:01,000 --> 00:00:02,500\nlate\n\n2\n00:00:03,000 --> 00:00:04,000\nsun\n".encode("utf-16-be")]
    refused = 0
    for seed in range(300):
        chance = random.Random(seed)
        (tmp_path / "a.lrc").write_bytes(mutated(chance.choice(texts), chance))
        song = complete(Found("a.wav"), tmp_path)
        assert list(stamp_like(song)) == [], seed
        assert all(0 <= start <= end < 1e12 for _, start, end in song.word_times), seed
        refused += UNREADABLE in song.left_out
    assert refused < 150


def test_mutated_tables_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    read = 0
    for seed in range(200):
        chance = random.Random(seed)
        name = chance.choice(list(TABLES))
        data = TABLES[name].encode(chance.choice(["utf-8", "utf-8", "utf-16", "utf-16-le"]))
        (tmp_path / name).write_bytes(mutated(data, chance))
        try:
            songs = [complete(song, tmp_path) for song in find_songs(tmp_path / name).songs]
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, seed
            continue
        read += 1
        assert [text for song in songs if not song.path.startswith("b") for text in stamp_like(song)] == [], seed
        rows = [SongRow(s.path, s.path, 1.0, 8000, 1, s.artist, s.genres, s.lyrics, s.word_times, "0", "train") for s in songs]
        manifest._write_manifest(tmp_path, [row for row in rows if row.path.isprintable()], tmp_path, [tmp_path])
        build_labels(rows)
    assert read > 40
