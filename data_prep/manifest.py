"""From a folder of music to tables: manifest.parquet, one row a song, and refused.parquet, one row a file not used.

Every file is decoded once, in a worker process (`pool.py`), for its true length and to see that it can be used. The tables
are sorted by path and do not depend on how many processes worked on them; they are written whole or not at all. Until
then, finished songs stand in a journal, from which an interrupted run goes on.

Test songs are whole songs, chosen by a hash of (seed, bytes of the file): the same song is on the same side in whatever
folder and company it comes, and copies of it are never on both sides.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from data_prep.align import TimedText
from data_prep.audio.audio import probe
from data_prep.errors import BadAudio, UserError
from data_prep.files import file_hash, replacing
from data_prep.labels import build_labels, one_spelling
from data_prep.metadata.lyrics import describe
from data_prep.pool import is_leader, map_songs
from data_prep.sources import LYRICS_SUFFIXES, UNREADABLE, Found, complete, find_songs

MANIFEST, REFUSED, LABELS, JOURNAL = "manifest.parquet", "refused.parquet", "labels.json", ".journal.jsonl"
SILENT = 1e-4  # largest |sample| of a silent file: -80 dB


@dataclass(frozen=True)
class SongRow:
    """One song of the manifest; `song`, its path below the stored root, is also its name in the tables of codes."""

    song: str
    path: str
    seconds: float
    sample_rate: int
    channels: int
    artist: str | None
    genres: tuple[str, ...]
    lyrics: str | None
    word_times: tuple[TimedText, ...]
    hash: str  # SHA-256 of the file
    split: str  # "train" or "test"


@dataclass(frozen=True)
class PrepareSummary:
    """What `prepare` did: songs kept and their hours, files refused and why, other files (or repeated rows) ignored."""

    kept: int
    refused: int
    hours: float
    reasons: Mapping[str, int]
    ignored: int
    folder: Path
    left_out: Mapping[str, int] = field(default_factory=dict)  # of lyrics and names
    unread: Sequence[str] = ()  # songs beside which lyrics lie that cannot be read
    ignored_suffixes: str = ""  # in words, the number of files of each
    several_tracks: int = 0  # songs of files with more than one audio track

    def __str__(self) -> str:
        """Say it in one line."""
        unread = ", ".join([*self.unread[:3], *[".."] * (len(self.unread) > 3)])
        why = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return (
            f"kept {self.kept} songs ({self.hours:.{1 if self.hours >= 1 else 3}f} h), refused {self.refused}"
            + (f" ({why}; see {self.folder / REFUSED})" if why else "")
            + (f", ignored {self.ignored} others" if self.ignored else "")
            + (f" ({self.ignored_suffixes})" if self.ignored_suffixes else "")
            + (
                f"; {self.several_tracks} have several audio tracks, of which the default one is used"
                if self.several_tracks
                else ""
            )
            + (f"; {describe(self.left_out)}" if self.left_out else "")
            + (f"; {UNREADABLE}: {len(self.unread)} ({unread}; save them as UTF-8)" if self.unread else "")
        )


def prepare(
    source: str | Path, out: str | Path, *, min_seconds: float = 1.0, test_share: float = 0.1, seed: int = 0, workers: int = 0
) -> PrepareSummary | None:
    """Write manifest.parquet, refused.parquet and labels.json of a folder, csv or jsonl file into the folder `out`.

    Under mpirun every rank calls it, and all but the first get None. Raises UserError for a source without audio, and,
    after writing the tables, where no file could be used.
    """
    if not (0 <= test_share < 1 and min_seconds >= 0 and workers >= 0):
        given = f"{test_share}, {min_seconds} and {workers}"
        raise UserError(f"expected 0 <= test_share < 1, min_seconds >= 0 and workers >= 0, got {given}")
    out = Path(out)
    found = find_songs(source, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: this folder cannot be made ({error.strerror}); choose another --out") from None
    journal = (out / JOURNAL).open("a+", encoding="utf-8") if is_leader() else None
    results = _journalled(journal) if journal else {}
    keys = {song.path: _key(found.root, song, min_seconds) for song in found.songs} if journal else {}
    todo = [song for song in found.songs if keys.get(song.path) not in results]
    function = partial(inspect, root=found.root, min_seconds=min_seconds)
    for result in map_songs(function, todo, workers, what="songs", on_crash=_crashed):
        assert journal is not None
        results[keys[result["path"]]] = result
        journal.write(json.dumps([keys[result["path"]], result]) + "\n")
        journal.flush()
    if journal is None:
        return None
    everything = [results[keys[song.path]] for song in found.songs]
    refused = [result for result in everything if "reason" in result]
    good = [result for result in everything if "reason" not in result]
    splits = split_songs([result["hash"] for result in good], test_share, seed)
    left_out = sum((Counter(result["left_out"]) for result in good), Counter[str]())
    rows = _in_one_spelling([_row({**result, "split": splits[result["hash"]]}) for result in good], left_out)
    _write_refused(out, refused)
    _write_manifest(out, rows, found.root)
    build_labels(row for row in rows if row.split == "train").save(out / LABELS)
    journal.close()
    (out / JOURNAL).unlink()
    reasons = Counter(result["reason"] for result in refused)
    counts = {reason: reasons[reason] for reason in BadAudio.REASONS if reasons[reason]}
    hours = sum(row.seconds for row in rows) / 3600
    unread = [result["path"] for result in good if UNREADABLE in result["left_out"]]
    left_out[UNREADABLE] = 0  # they are named
    several = sum(result.get("tracks", 1) > 1 for result in good)
    prepared = PrepareSummary(
        len(rows), len(refused), hours, counts, found.ignored, out, +left_out, unread, found.ignored_suffixes, several
    )
    if not rows:
        raise UserError(f"{source}: no file could be used: {prepared}")
    return prepared


def _in_one_spelling(rows: Sequence[SongRow], left_out: Counter[str]) -> list[SongRow]:
    """The rows with artists and genres that differ only in case, each in its most frequent spelling."""
    artists = one_spelling(row.artist for row in rows if row.artist)
    genres = one_spelling(genre for row in rows for genre in row.genres)
    spelled = [
        replace(row, artist=artists.get(row.artist or ""), genres=tuple(dict.fromkeys(genres[genre] for genre in row.genres)))
        for row in rows
    ]
    left_out["other spellings of names, in songs"] += sum(a != b for a, b in zip(rows, spelled))
    return spelled


def inspect(song: Found, root: Path, min_seconds: float) -> dict[str, Any]:
    """Decode one song and read its tags: the columns of its row in the manifest, or of its row among the refused."""
    path = root / song.path
    try:
        song.path.encode()
        info = probe(path)
        if math.isnan(info.peak):
            raise BadAudio(path, "non-finite", "it has samples that are not numbers, or infinite")
        if info.seconds < min_seconds or not info.frames:
            raise BadAudio(path, "too short", f"{info.seconds:.3f} s of at least {min_seconds:g} s")
        if info.peak < SILENT:
            raise BadAudio(path, "silent", f"its loudest sample is {info.peak:.1e}")
    except BadAudio as error:
        return {"path": song.path, "reason": error.reason, "detail": error.detail}
    except UnicodeEncodeError:  # such a name cannot be written into a table
        return {"path": song.path, "reason": "unreadable", "detail": "its name is not valid unicode; rename it"}
    song = complete(song, root)
    sound_info = {"seconds": info.seconds, "sample_rate": info.sample_rate, "channels": info.channels}
    sound_info["tracks"] = info.tracks
    return {**asdict(song), **sound_info, "hash": file_hash(path, 64)}


def _crashed(song: Found, explanation: str) -> dict[str, Any]:
    """Refuse a file that took its decoder down."""
    return {"path": song.path, "reason": "unreadable", "detail": f"decoder crashed: {explanation}"}


def split_songs(hashes: Iterable[str], test_share: float, seed: int) -> dict[str, str]:
    """Return {hash: "train" or "test"}, each a function of (seed, hash).

    Where chance leaves a side empty, and there are two different songs, the song nearest to it changes sides.
    """
    draws = {name: int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 16**13 for name in hashes}
    order = sorted(draws, key=lambda name: (draws[name], name))
    split = {name: "test" if draws[name] < test_share else "train" for name in order}
    if test_share and len(order) > 1:
        split[order[0]], split[order[-1]] = "test", "train"
    return split


def load_manifest(data: str | Path) -> list[SongRow]:
    """Return the songs of a data folder, sorted by path; UserError where there is no manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(data) / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: there is no manifest; make it with: jukebox prepare MUSIC --out {data}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: this is not a manifest ({error}); make it again with jukebox prepare") from None
    return [_row(row) for row in table.to_pylist()]


def audio_path(data: str | Path, row: SongRow) -> Path:
    """Return where a song's audio lies: below the stored root, or where that root lies now relative to the data."""
    path = Path(data) / MANIFEST
    return _root(str(path), path.stat().st_mtime_ns) / row.path


@lru_cache(maxsize=16)
def _root(manifest: str, _changed: int) -> Path:
    """Return the root of a manifest: as it was, or (data and music moved together) as seen from the data folder."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(manifest).metadata or {}
    root = Path(metadata[b"root"].decode())
    relative = metadata.get(b"root_from_data", b"").decode()
    moved = Path(manifest).parent / relative
    return moved if relative and not root.is_dir() and moved.is_dir() else root


def _row(values: Mapping[str, Any]) -> SongRow:
    """Turn plain values (of a table, of a journal) into a row."""
    times = [(time["text"], time["start"], time["end"]) if isinstance(time, dict) else time for time in values["word_times"]]
    kept = {name: values[name] for name in ("path", "seconds", "sample_rate", "channels", "artist", "lyrics", "hash", "split")}
    times = tuple(TimedText(*time) for time in times)
    return SongRow(song=values["path"], genres=tuple(values["genres"]), word_times=times, **kept)


def _write_manifest(out: Path, rows: Sequence[SongRow], root: Path) -> None:
    """Write manifest.parquet."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    time = pa.struct([("text", text), ("start", number), ("end", number)])
    columns = [("path", text), ("seconds", number), ("sample_rate", pa.int32()), ("channels", pa.int16()), ("artist", text)]
    columns += [("genres", pa.list_(text)), ("lyrics", text), ("word_times", pa.list_(time)), ("hash", text), ("split", text)]
    metadata = {"root": str(root)}
    with contextlib.suppress(ValueError):  # another drive
        metadata["root_from_data"] = Path(os.path.relpath(root, out.resolve())).as_posix()
    table = [{**vars(row), "word_times": [word._asdict() for word in row.word_times]} for row in rows]
    _write(out / MANIFEST, table, pa.schema(columns, metadata))


def _write_refused(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write refused.parquet; a path that is no unicode is shown with replacement characters."""
    import pyarrow as pa

    table = [{name: text.encode("utf-8", "replace").decode() for name, text in row.items()} for row in rows]
    _write(out / REFUSED, table, pa.schema([(name, pa.string()) for name in ("path", "reason", "detail")]))


def _write(path: Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    """Write a table atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), temporary)


def _key(root: Path, song: Found, min_seconds: float) -> str:
    """Return what the result of a song depends on: its file and the lyrics beside it, what its row says, the settings."""
    stats: list[Any] = [str(root), asdict(song), min_seconds]
    for path in (root / song.path, *((root / song.path).with_suffix(suffix) for suffix in LYRICS_SUFFIXES)):
        try:
            stat = path.stat()
            stats.append([stat.st_size, stat.st_mtime_ns])
        except (OSError, ValueError):  # a name that is no valid unicode
            stats.append(None)
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _journalled(journal: Any) -> dict[str, dict]:
    """Read the journal of an interrupted run; the line that was being written is left out."""
    journal.seek(0)
    text, results = journal.read(), {}
    if text and not text.endswith("\n"):
        journal.write("\n")
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            key, result = json.loads(line)
            results[key] = result
    return results
