"""What is known of songs: tables, lyrics beside the audio, tags."""

from __future__ import annotations

import json
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile

from data_prep.align import TimedText
from data_prep.errors import UserError
from data_prep.sources import UNREADABLE, Found, complete, find_songs


def write_tone(path: Path, **params) -> Path:
    """Write a short sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(12000) / 9), 24000, **params)
    return path


def test_a_folder_is_walked_with_its_links_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.wav", "a/Ünï 日本.wav", ".hidden.wav", ".git/x.wav", "data/old.wav"):
        write_tone(tmp_path / "music" / name)
    (tmp_path / "music" / "cover.jpg").write_bytes(b"jpg")
    write_tone(tmp_path / "elsewhere" / "c.wav")
    (tmp_path / "music" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "a" / "loop").symlink_to(tmp_path / "music")
    source = find_songs(tmp_path / "music", out=tmp_path / "music" / "data")
    assert [song.path for song in source.songs] == ["a/Ünï 日本.wav", "b.wav", "link/c.wav"]
    assert source.ignored == 1


def test_a_csv_gives_labels_and_lyrics(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("from a\nfile", encoding="utf-8")
    (tmp_path / "list.csv").write_text(
        "\ufeffPath,Artist,Genre,Lyrics\n"
        'b.wav,311,"rock; pop,folk","two\nlines"\n'
        "a.wav,,,words.txt\nb.wav,again,,\nc.wav,x,y,none.txt\n",
        encoding="utf-8",
    )
    source = find_songs(tmp_path / "list.csv")
    assert source.ignored == 1 and source.root == tmp_path.resolve()
    assert source.songs == (
        Found("a.wav", None, (), "from a\nfile"),
        Found("b.wav", "311", ("rock", "pop", "folk"), "two\nlines"),
        Found("c.wav", "x", ("y",), left_out={UNREADABLE: 1}),  # there is no such file
    )


def test_a_jsonl_gives_word_times(tmp_path: Path) -> None:
    rows = [
        {"path": "a.wav", "genres": ["a, b"], "lyrics": "hi you", "words": [["hi", 0, 1.5], ["you", 2, 3]]},
        {"path": "b.wav", "genre": "rock", "artist": None, "lyrics": "[00:01.00]one\n[00:03.00]two"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = find_songs(tmp_path / "list.jsonl").songs
    assert first.genres == ("a, b",)
    assert first.word_times == (TimedText("hi", 0, 1.5), TimedText("you", 2, 3))
    assert second.lyrics == "one\ntwo" and second.word_times[0] == ("one", 1.0, 3.0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "file,artist\nx,y\n", "column named path, found file, artist"),
        ("a.csv", "path\n", "lists no songs"),
        ("a.csv", "", "column named path, found nothing"),
        ("a.csv", "path,artist\n,y\n", "line 2: expected the path"),
        ("a.jsonl", '{"path": "x"}\n{"path"\n', "line 2: this is not json"),
        ("a.jsonl", "[1]\n", "line 1: expected an object"),
        ("a.jsonl", '{"path": 3}\n', "line 1: expected the path"),
        ("a.jsonl", '{"path": "x", "artist": 311}\n', "artist to be text, got 311"),
        ("a.jsonl", '{"path": "x", "genres": [1]}\n', "genres to be a list"),
        ("a.jsonl", '{"path": "x", "words": [["a", 2, 1]]}\n', "expected words as"),
        ("a.jsonl", '{"path": "x", "words": [["a", 2]]}\n', "expected words as"),
        ("a.txt", "x", "expected a folder, a .csv, a .tsv or a .jsonl"),
    ],
)
def test_a_malformed_list_is_one_line_that_says_where(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        find_songs(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_the_list_wins_over_the_file_beside_and_that_over_the_tags(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "song.flac")
    tags = mutagen.File(path)
    assert tags is not None
    tags["artist"], tags["genre"], tags["lyrics"] = "Tag", "tagged", "[00:01.00]from the tag"
    tags.save()
    song = complete(Found("song.flac"), tmp_path)
    assert (song.artist, song.genres, song.lyrics) == ("Tag", ("tagged",), "from the tag")
    assert song.word_times[0].start == 1.0
    (tmp_path / "song.txt").write_text("from the text")
    assert complete(Found("song.flac"), tmp_path).lyrics == "from the text"
    (tmp_path / "song.lrc").write_text("[00:02.00]from the lrc")
    song = complete(Found("song.flac", artist="Row"), tmp_path)
    assert (song.artist, song.genres, song.lyrics) == ("Row", ("tagged",), "from the lrc")
    assert song.word_times[0].start == 2.0
    assert complete(Found("song.flac", lyrics="row"), tmp_path).lyrics == "row"


def test_lyrics_that_cannot_be_read_are_counted_and_the_next_source_is_tried(tmp_path: Path) -> None:
    write_tone(tmp_path / "song.wav")
    (tmp_path / "song.lrc").write_bytes(bytes(range(128, 256)))
    assert complete(Found("song.wav"), tmp_path) == Found("song.wav", left_out={UNREADABLE: 1})
    (tmp_path / "song.txt").write_text("words")
    assert complete(Found("song.wav"), tmp_path) == Found("song.wav", lyrics="words", left_out={UNREADABLE: 1})


def test_an_instrumental_has_no_lyrics_whatever_its_tags_contain(tmp_path: Path) -> None:
    tags = mutagen.File(write_tone(tmp_path / "song.flac"))
    assert tags is not None
    tags["lyrics"] = "words"
    tags.save()
    for text in ("(Instrumental)", "[au: instrumental]"):
        (tmp_path / "song.lrc").write_text(f"[00:00.00]{text}")
        assert complete(Found("song.flac"), tmp_path).lyrics is None
    (tmp_path / "song.lrc").write_text(" ")
    assert complete(Found("song.flac"), tmp_path).lyrics == "words"


@pytest.mark.parametrize(
    ("given", "found"),
    [("sub\\a.wav", "sub/a.wav"), ("./sub//a.wav", "sub/a.wav"), ("sub/../sub/a.wav", "sub/a.wav"), ("b\\c.wav", "b\\c.wav")],
)
def test_a_path_is_found_in_every_spelling(tmp_path: Path, given: str, found: str) -> None:
    write_tone(tmp_path / "sub" / "a.wav")
    write_tone(tmp_path / "b\\c.wav")
    (tmp_path / "list.csv").write_text(f"path\n{given}\n{given}\n")
    source = find_songs(tmp_path / "list.csv")
    assert [song.path for song in source.songs] == [found] and source.ignored == 1
