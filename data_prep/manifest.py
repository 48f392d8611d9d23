"""Convert a folder of music to tables: manifest.parquet has one row per song, refused.parquet one row per skipped file.

Every file is decoded once in a worker process (`pool.py`), which measures its length and checks it. The tables are sorted by
path and do not depend on the number of processes. They are written atomically at the end. During the run, results are appended
to a journal, and an interrupted run continues from the journal.

The split assigns whole songs to training or test, by a hash of the seed and the bytes of the file. So a song is in the same
split in every folder, and copies of a song are never in both splits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from data_prep.align import TimedText
from data_prep.audio.audio import probe
from data_prep.errors import BadAudio, UserError
from data_prep.files import file_hash, held, named_in_utf_8, replacing
from data_prep.labels import build_labels, one_spelling
from data_prep.metadata.lyrics import describe
from data_prep.pool import is_leader, map_songs
from data_prep.sources import LYRICS_SUFFIXES, UNREADABLE, Found, SongSource, complete, find_songs

MANIFEST, REFUSED, LABELS, JOURNAL = "manifest.parquet", "refused.parquet", "labels.json", ".journal.jsonl"
PROVENANCE = ("source", "licence")
STALL = 120.0  # seconds within which a decoder must return samples
SILENT = 1e-4  # a file is silent if its largest |sample| is below this, -80 dB


@dataclass(frozen=True)
class SongRow:
    """One song of the manifest; `song` is its path below the stored root and also its name in the tables of codes."""

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
    source: str | None = None  # where the song is from, as a text or URL
    licence: str | None = None
    semitones: float = 0.0  # of a transposed song (`transpose.py`); manifests have none


@dataclass(frozen=True)
class PrepareSummary:
    """Result of `prepare`: songs kept and their hours, skipped files with reasons, ignored files, earlier songs."""

    kept: int
    refused: int
    hours: float
    reasons: Mapping[str, int]
    ignored: int
    folder: Path
    left_out: Mapping[str, int] = field(default_factory=dict)  # unused parts of lyrics and names, with counts
    unread: Sequence[str] = ()  # songs with an unreadable file of lyrics
    ignored_suffixes: str = ""  # suffixes with the number of files of each
    several_tracks: int = 0  # songs of files with more than one audio track
    before: int = 0

    def __str__(self) -> str:
        """Format as one line."""
        unread = ", ".join([*self.unread[:3], *[".."] * (len(self.unread) > 3)])
        left_out = describe(self.left_out)
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
            + (f"; {left_out}" if left_out else "")
            + (f"; {UNREADABLE}: {len(self.unread)} ({unread}; save them as UTF-8)" if self.unread else "")
            + (f"; with the {self.before} there were, {self.before + self.kept} songs" if self.before else "")
        )


def prepare(
    sources: str | Path | Sequence[str | Path], out: str | Path, *, add: bool = False, min_seconds: float = 1.0,
    test_share: float = 0.1, seed: int = 0, workers: int = 0,
) -> PrepareSummary | None:  # fmt: skip
    """Read folders, csv or jsonl files, and write manifest.parquet, refused.parquet and labels.json into the folder `out`.

    With `add`, the songs of `out` keep their names and splits, and new songs are added. Under mpirun every rank calls this
    function; rank 0 gets the summary, the others None.

    Raises UserError for a source without audio, if `out` has songs of other sources, or if a training reads `out`. If no file
    could be used, UserError is raised after the tables are written.
    """
    if not (0 <= test_share < 1 and min_seconds >= 0 and workers >= 0):
        given = f"{test_share}, {min_seconds} and {workers}"
        raise UserError(f"expected 0 <= test_share < 1, min_seconds >= 0 and workers >= 0, got {given}")
    out, given = named_in_utf_8(Path(out), "a data folder"), [sources] if isinstance(sources, str | Path) else sources
    places = [named_in_utf_8(Path(place).expanduser(), "a folder or list of music") for place in given]
    before = read_state(out, add)
    found = find_all(places, out, before.root)
    before.check(places)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: this folder cannot be made ({error.strerror}); choose another --out") from None
    refusal = (
        f"{out} is read by a training or an encoding, or written by another prepare; wait for its end, or name another --out"
    )
    with held(out, True, refusal) if is_leader() else contextlib.nullcontext():
        songs = tuple(song for song in found.songs if song.path not in before.songs)
        new = replace(found, songs=songs, ignored=found.ignored + len(found.songs) - len(songs))
        everything = _inspected(new, out, min_seconds, workers)
        if everything is None:
            return None
        return _write_tables(out, before, [*before.sources, *places], new, everything, (test_share, seed))


def _inspected(found: SongSource, out: Path, min_seconds: float, workers: int) -> list[dict[str, Any]] | None:
    """Return the result of `inspect` for each song, from the journal of an interrupted run if possible; None outside rank 0."""
    journal = (out / JOURNAL).open("a+", encoding="utf-8") if is_leader() else None
    results = _journalled(journal) if journal else {}
    keys = {song.path: _key(found.root, song, min_seconds) for song in found.songs} if journal else {}
    todo = [song for song in found.songs if keys.get(song.path) not in results]
    function = partial(inspect, root=found.root, min_seconds=min_seconds)
    for result in map_songs(function, todo, workers, what="songs", on_crash=_crashed, stall=STALL):
        assert journal is not None
        results[keys[result["path"]]] = result
        journal.write(json.dumps([keys[result["path"]], result]) + "\n")
        journal.flush()
    if journal is None:
        return None
    journal.close()
    return [results[keys[song.path]] for song in found.songs]


def _write_tables(
    out: Path, before: DataState, sources: Sequence[Path], found: SongSource, everything: Sequence[dict[str, Any]],
    chance: tuple[float, int],
) -> PrepareSummary:  # fmt: skip
    """Write the tables of the earlier and the inspected songs; `chance` is (share of test songs, seed)."""
    refused = [result for result in everything if "reason" in result]
    good = [result for result in everything if "reason" not in result]
    splits = split_songs([result["hash"] for result in good], *chance, {row.hash: row.split for row in before.songs.values()})
    left_out = sum((Counter(result["left_out"]) for result in good), Counter[str]())
    new = [_row({**result, "split": result.get("split") or splits[result["hash"]]}) for result in good]
    new = _in_one_spelling(new, before.songs.values(), left_out)
    rows = sorted([*before.songs.values(), *new], key=lambda row: row.path)
    again = {result["path"] for result in everything}
    _write_refused(out, [row for row in before.refused if row["path"] not in again] + refused)
    _write_manifest(out, rows, found.root, sources)
    build_labels(row for row in rows if row.split == "train").save(out / LABELS)
    (out / JOURNAL).unlink()
    reasons = Counter(result["reason"] for result in refused)
    counts = {reason: reasons[reason] for reason in BadAudio.REASONS if reasons[reason]}
    hours = sum(row.seconds for row in new) / 3600
    unread = [result["path"] for result in good if UNREADABLE in result["left_out"]]
    left_out[UNREADABLE] = 0  # the summary names these files
    several = sum(result.get("tracks", 1) > 1 for result in good)
    prepared = PrepareSummary(
        len(new), len(refused), hours, counts, found.ignored, out, +left_out, unread, found.ignored_suffixes, several,
        len(before.songs),
    )  # fmt: skip
    if not rows:
        raise UserError(f"{', '.join(map(str, sources))}: no file could be used: {prepared}")
    return prepared


def _in_one_spelling(new: Sequence[SongRow], before: Collection[SongRow], left_out: Counter[str]) -> list[SongRow]:
    """Return the new rows with one spelling for all artists and genres that differ in case only.

    The spelling of `before` is preferred, then the most frequent one.
    """
    artists = one_spelling((row.artist for row in new if row.artist), (row.artist for row in before if row.artist))
    genres = one_spelling((name for row in new for name in row.genres), (name for row in before for name in row.genres))
    spelled = [
        replace(row, artist=artists.get(row.artist or ""), genres=tuple(dict.fromkeys(genres[genre] for genre in row.genres)))
        for row in new
    ]
    left_out["other spellings of names, in songs"] += sum(a != b for a, b in zip(new, spelled))
    return spelled


# ---- existing data


@dataclass(frozen=True)
class DataState:
    """Content of a data folder: root of its music and its sources; if songs are added, also its songs and skipped files."""

    out: Path
    root: Path | None = None
    sources: tuple[Path, ...] = ()
    songs: Mapping[str, SongRow] = field(default_factory=dict)
    refused: Sequence[Mapping[str, Any]] = ()
    add: bool = False

    def check(self, sources: Sequence[Path]) -> None:
        """Raise UserError if `prepare` would replace songs of other sources.

        An old table has no list of sources; its only source is its root.
        """
        if self.add or self.root is None:
            return
        given = {place.resolve() for place in sources}
        roots = {place if place.is_dir() else place.parent for place in given}
        if given != set(self.sources) if self.sources else roots != {self.root}:
            there = ", ".join(map(str, self.sources or [self.root]))
            raise UserError(
                f"{self.out} holds the songs of {there}, which would be replaced; give --add to add to them, or name another --out"
            )


def read_state(out: Path, add: bool) -> DataState:
    """Read the state of a data folder; the state is empty if the folder has no manifest or no songs."""
    import pyarrow.parquet as pq

    path = out / MANIFEST
    if not path.is_file():
        return DataState(out)
    rows, root = load_manifest(out), _root(str(path), path.stat().st_mtime_ns)
    if not rows:
        return DataState(out)
    metadata = pq.read_schema(path).metadata or {}
    named = [Path(place) for place in json.loads(metadata.get(b"sources", b"[]"))]
    sources = tuple(Path(os.path.normpath(root / place)) for place in named)
    if not add:
        return DataState(out, root, sources)
    return DataState(out, root, sources or (root,), {row.path: row for row in rows}, load_refused(out), add)


def find_all(sources: Sequence[Path], out: Path, root: Path | None = None) -> SongSource:
    """Find the songs of several sources; all paths are relative to `root` (None: the root of the first source)."""
    found = [find_songs(source, out) for source in sources]
    root = root or found[0].root
    songs: dict[str, Found] = {}
    ignored, suffixes = sum(each.ignored for each in found), sum((Counter(each.suffixes) for each in found), Counter[str]())
    for each in found:
        below = os.path.relpath(each.root, root)
        for song in each.songs:
            path = song.path if below == os.curdir else Path(os.path.normpath(Path(below) / song.path)).as_posix()
            ignored += path in songs
            songs.setdefault(path, replace(song, path=path))
    return SongSource(root, tuple(songs[path] for path in sorted(songs)), ignored, suffixes)


def inspect(song: Found, root: Path, min_seconds: float) -> dict[str, Any]:
    """Decode one song and read its tags; return the columns of its row in the manifest or in refused.parquet."""
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
    except UnicodeEncodeError:  # a table cannot hold this name
        return {"path": song.path, "reason": "unreadable", "detail": "its name is not valid unicode; rename it"}
    song = complete(song, root)
    sound_info = {"seconds": info.seconds, "sample_rate": info.sample_rate, "channels": info.channels}
    sound_info["tracks"] = info.tracks
    return {**asdict(song), **sound_info, "hash": file_hash(path, 64)}


def _crashed(song: Found, explanation: str) -> dict[str, Any]:
    """Return a row of refused.parquet for a file that crashed its decoder."""
    return {"path": song.path, "reason": "unreadable", "detail": f"decoder crashed: {explanation}"}


def split_songs(hashes: Iterable[str], test_share: float, seed: int, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return {hash: "train" or "test"}; the split of a song depends on (seed, hash) only.

    `before`, {hash: split}, has the splits of earlier songs, which do not change. Without `before`, if one split would be empty
    and there are two different songs, the song closest to the threshold is moved to this split.
    """
    draws = {name: int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 16**13 for name in hashes}
    order = sorted(draws, key=lambda name: (draws[name], name))
    split = {name: "test" if draws[name] < test_share else "train" for name in order}
    if before:
        return {name: before.get(name, side) for name, side in split.items()}
    if test_share and len(order) > 1:
        split[order[0]], split[order[-1]] = "test", "train"
    return split


def reading(data: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a data folder during a long read, so that `prepare` does not replace its tables; UserError if `prepare` runs."""
    return held(data, False, f"{data} is being written by jukebox prepare; run this again when that is done")


def load_manifest(data: str | Path) -> list[SongRow]:
    """Return the songs of a data folder, sorted by path; UserError if the folder has no manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = named_in_utf_8(Path(data), "a data folder") / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: there is no manifest; make it with: jukebox prepare MUSIC --out {data}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: this is not a manifest ({error}); make it again with jukebox prepare") from None
    return [_row(row) for row in table.to_pylist()]


def load_refused(data: str | Path) -> list[dict[str, str]]:
    """Return path, reason and detail of each skipped file; the list is empty if there is no table."""
    import pyarrow.parquet as pq

    path = Path(data) / REFUSED
    return pq.read_table(path).to_pylist() if path.is_file() else []


def audio_path(data: str | Path, row: SongRow) -> Path:
    """Return the path of the audio file of a song, below the root of the manifest (see `_root`)."""
    path = Path(data) / MANIFEST
    return _root(str(path), path.stat().st_mtime_ns) / row.path


@lru_cache(maxsize=16)
def _root(manifest: str, _changed: int) -> Path:
    """Return the root of a manifest: the stored path, or the path relative to the data folder if both were moved together."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(manifest).metadata or {}
    root = Path(metadata[b"root"].decode())
    relative = metadata.get(b"root_from_data", b"").decode()
    moved = Path(manifest).parent / relative
    return moved if relative and not root.is_dir() and moved.is_dir() else root


def _row(values: Mapping[str, Any]) -> SongRow:
    """Convert the plain values of a table or journal to a row."""
    times = [(time["text"], time["start"], time["end"]) if isinstance(time, dict) else time for time in values["word_times"]]
    kept = {name: values[name] for name in ("path", "seconds", "sample_rate", "channels", "artist", "lyrics", "hash", "split")}
    times = tuple(TimedText(*time) for time in times)
    kept |= {name: values.get(name) for name in PROVENANCE}  # an older table does not have these columns
    return SongRow(song=values["path"], genres=tuple(values["genres"]), word_times=times, **kept)


def _write_manifest(out: Path, rows: Sequence[SongRow], root: Path, sources: Sequence[Path]) -> None:
    """Write manifest.parquet; sources are stored relative to the root, so that both can be moved together."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    time = pa.struct([("text", text), ("start", number), ("end", number)])
    columns = [("path", text), ("seconds", number), ("sample_rate", pa.int32()), ("channels", pa.int16()), ("artist", text)]
    columns += [("genres", pa.list_(text)), ("lyrics", text), ("word_times", pa.list_(time)), ("hash", text), ("split", text)]
    columns += [(name, text) for name in PROVENANCE]
    named = dict.fromkeys(os.path.relpath(source.resolve(), root) for source in sources)
    metadata = {"root": str(root), "sources": json.dumps(list(named))}
    with contextlib.suppress(ValueError):  # the folders are on different drives
        metadata["root_from_data"] = Path(os.path.relpath(root, out.resolve())).as_posix()
    table = [{**vars(row), "word_times": [word._asdict() for word in row.word_times]} for row in rows]
    _write(out / MANIFEST, table, pa.schema(columns, metadata))


def _write_refused(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write refused.parquet; invalid characters of a path are replaced."""
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
    """Return a hash of everything that determines the result of a song.

    Inputs are the metadata of the song, the settings, and size and time of its audio file and its lyrics files.
    """
    stats: list[Any] = [str(root), asdict(song), min_seconds]
    for path in (root / song.path, *((root / song.path).with_suffix(suffix) for suffix in LYRICS_SUFFIXES)):
        try:
            stat = path.stat()
            stats.append([stat.st_size, stat.st_mtime_ns])
        except (OSError, ValueError):  # no such file, or its name is not valid unicode
            stats.append(None)
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _journalled(journal: Any) -> dict[str, dict]:
    """Return {key: result} from the journal of an interrupted run; an incomplete last line is ignored."""
    journal.seek(0)
    text, results = journal.read(), {}
    if text and not text.endswith("\n"):
        journal.write("\n")
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            key, result = json.loads(line)
            results[key] = result
    return results
