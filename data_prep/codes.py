"""Tables of codes: Arrow files of about 1 GB, one row a song, one large list of uint16 a level, and an index.

`CodesWriter` writes every song as it comes, into a file that gets its name when it is complete; the index is made from
the shards. So a killed job keeps its finished songs and continues after them. A song may come again with other levels
(level 2 of all songs first, the fine levels of some later): the index knows where each level of each song lies.
`CodesReader` maps the shards into memory and reads a slice of a song without touching the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import UserError

INDEX = "index.parquet"
SHARD_BYTES = 1 << 30


class CodesWriter:
    """Append songs' codes to a folder; `songs_done` are the songs that have all of this writer's levels already.

    Several writers (one a rank) may share a folder when each has its own `name` (without "-").
    """

    def __init__(
        self, folder: str | Path, levels: Sequence[int], shard_bytes: int = SHARD_BYTES, name: str = "codes"
    ) -> None:
        """Open or continue a folder; what a killed writer of the same name left behind becomes a shard first."""
        self.folder, self.levels, self.shard_bytes, self.name = Path(folder), tuple(sorted(levels)), shard_bytes, name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = None
        self._bytes = 0
        for part in sorted(self.folder.glob(f".{name}-*")):  # .lost (a kill during a rescue) comes before .part
            if part.exists():
                self._rescue(part)
        lengths = _lengths(_entries(self.folder))
        self.songs_done = {song for song, has in lengths.items() if set(self.levels) <= set(has)}

    def add(self, song: str, codes: Mapping[int, np.ndarray]) -> None:
        """Write the codes of one song, {level: (t,) integers below 65536}; from here on a kill does not lose them."""
        import pyarrow as pa

        if set(codes) != set(self.levels):
            raise ValueError(f"{song}: expected codes of levels {self.levels}, got {tuple(sorted(codes))}")
        columns: dict[str, Any] = {"song": pa.array([song], pa.string())}
        for level in self.levels:
            values = np.asarray(codes[level])
            if values.ndim != 1 or (values.size and not (values.min() >= 0 and values.max() < 1 << 16)):
                raise ValueError(f"{song}: codes of level {level} must be one row of values in 0..65535")
            ends = pa.array([0, len(values)], pa.int64())
            columns[f"level_{level}"] = pa.LargeListArray.from_arrays(ends, pa.array(values.astype(np.uint16)))
            self._bytes += 2 * len(values)
        self._write(pa.RecordBatch.from_pydict(columns))
        self.songs_done.add(song)
        if self._bytes >= self.shard_bytes:
            self._finish()

    def _write(self, batch: Any) -> None:
        """Append a song, a record batch of one row, to the shard in the making."""
        import pyarrow as pa

        if self._writer is None:
            numbers = [int(path.stem.rsplit("-")[-1]) for path in self.folder.glob(f"{self.name}-*.arrow")]
            self._target = self.folder / f"{self.name}-{max(numbers, default=-1) + 1:05d}.arrow"
            self._part = self._target.with_name(f".{self._target.name}.part")
            self._file = pa.OSFile(str(self._part), "wb")  # not buffered: what is written is in the system's hands
            self._writer = pa.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)

    def _finish(self) -> None:
        """Complete the shard in the making and give it its name."""
        if self._writer is not None:
            self._writer.close()
            self._file.close()
            self._part.replace(self._target)
        self._writer, self._bytes = None, 0

    def _rescue(self, part: Path) -> None:
        """Make a shard of the songs in an unfinished file: behind 8 bytes it is a stream of batches that ends early."""
        import pyarrow as pa

        lost = part.rename(part.with_suffix(".lost"))  # its name is needed for the new one
        with pa.memory_map(str(lost)) as file:
            with contextlib.suppress(pa.ArrowInvalid, OSError):  # the song that was being written
                file.seek(8)
                for batch in pa.ipc.open_stream(file):
                    self._write(batch)
        self._finish()
        lost.unlink()

    def close(self) -> None:
        """Complete the last shard and write the index."""
        self._finish()
        write_index(self.folder)

    def __enter__(self) -> CodesWriter:
        """Use as a context: what is finished is kept also where the work stops with an error."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


def write_index(folder: str | Path) -> None:
    """Write index.parquet (song, level, shard, row, length) from the shards; a later shard replaces an earlier one."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from filelock import FileLock

    folder = Path(folder)
    schema = pa.schema(
        [
            ("song", pa.string()),
            ("level", pa.int8()),
            ("shard", pa.string()),
            ("row", pa.int64()),
            ("length", pa.int64()),
        ]
    )
    part = folder / f".{INDEX}.part"
    with FileLock(folder / ".index.lock"):  # of two writers that end together the later one has seen all shards
        rows = sorted(_entries(folder).values())
        columns = list(zip(*rows)) if rows else [[] for _ in schema]
        table = pa.table([pa.array(column, field.type) for column, field in zip(columns, schema)], schema)
        pq.write_table(table, part)
        part.replace(folder / INDEX)


class CodesReader:
    """Read codes from a folder of shards, memory-mapped: opening costs the index, reading costs what is read."""

    def __init__(self, folder: str | Path) -> None:
        """Read the index (from the shards themselves where a killed job left none or an old one)."""
        import pyarrow.parquet as pq

        self.folder = Path(folder)
        shards = sorted(self.folder.glob("*.arrow"))
        if not shards:
            raise UserError(f"{folder}: there are no codes here; make them with: jukebox encode DATA MODEL")
        index = self.folder / INDEX
        if index.is_file() and index.stat().st_mtime_ns >= max(shard.stat().st_mtime_ns for shard in shards):
            rows = zip(*(column.to_pylist() for column in pq.read_table(index).columns))
            self._places = {(row[0], row[1]): row for row in rows}
        else:
            self._places = _entries(self.folder)
        self._lengths = _lengths(self._places)
        self._shards: dict[str, Any] = {}

    @property
    def songs(self) -> list[str]:
        """Return all songs, sorted."""
        return sorted(self._lengths)

    @property
    def levels(self) -> tuple[int, ...]:
        """Return the levels that at least one song has, finest first."""
        return tuple(sorted({level for _, level in self._places}))

    def songs_with(self, levels: Sequence[int]) -> list[str]:
        """Return the songs that have all of these levels, sorted."""
        return [song for song in self.songs if set(levels) <= set(self._lengths[song])]

    def length(self, song: str, level: int) -> int:
        """Return how many codes a song has at a level."""
        return self._place(song, level)[4]

    def read(self, song: str, level: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return codes start..stop of a song, uint16 (t,): a read-only view into the file."""
        _, _, shard, row, length = self._place(song, level)
        start, stop, _ = slice(start, stop).indices(length)
        if shard not in self._shards:
            self._shards[shard] = _open_shard(self.folder / shard)
        lists = self._shards[shard].get_batch(row).column(f"level_{level}")
        return lists.values.slice(start, max(0, stop - start)).to_numpy(zero_copy_only=True)

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without the open files."""
        return {**self.__dict__, "_shards": {}}

    def _place(self, song: str, level: int) -> tuple:
        """Look up one level of one song."""
        try:
            return self._places[song, level]
        except KeyError:
            known = "it has not been encoded" if song not in self._lengths else f"it has {sorted(self._lengths[song])}"
            raise UserError(f"{song}: no codes of level {level} in {self.folder}; {known}") from None


def _open_shard(path: Path) -> Any:
    """Map a shard into memory; its batches (one a song) are views into the file."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path)))


def _entries(folder: Path) -> dict[tuple[str, int], tuple[str, int, str, int, int]]:
    """Return {(song, level): (song, level, shard, row, length)} from the shards, later ones over earlier ones."""
    places = {}
    for path in sorted(folder.glob("*.arrow"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        shard = _open_shard(path)
        for row in range(shard.num_record_batches):
            batch = shard.get_batch(row)
            song = batch.column("song")[0].as_py()
            for name in batch.schema.names[1:]:
                level = int(name.removeprefix("level_"))
                places[song, level] = (song, level, path.name, row, len(batch.column(name).values))
    return places


def _lengths(places: Mapping[tuple[str, int], tuple]) -> dict[str, dict[int, int]]:
    """Return {song: {level: length}}."""
    lengths: dict[str, dict[int, int]] = {}
    for (song, level), place in places.items():
        lengths.setdefault(song, {})[level] = place[4]
    return lengths
