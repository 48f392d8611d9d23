"""Tables of streams: Arrow files of about 1 GB with one row per song and one list of frames per stream, and an index.

A frame is one number, or a list of fixed size (several books, or a latent). The numbers have the dtype of the stream.

`CodesWriter` writes songs to a temporary file and renames a complete file to a shard. A killed job keeps its finished songs,
and the next run continues after them. A song can be written again with other streams. The index is computed from the shards and
has the position of each stream of each song.

`CodesReader` maps the shards of one or several folders into memory, and reads a slice of a song without the rest of the file.
In shards of version 1 the columns `level_0`, `level_1`, .. are the streams `vq.0`, `vq.1`, ..
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import UserError
from data_prep.files import replacing

INDEX, OLD = "index.parquet", "level_"
SHARD_BYTES = 1 << 30


class CodesWriter(contextlib.AbstractContextManager["CodesWriter"]):
    """Append the frames of songs to a folder; `songs_done` are the songs that already have all streams of this writer.

    Several writers (one per rank) can share a folder if each has a different `name`. A name has no "-".
    """

    def __init__(self, folder: str | Path, streams: Sequence[str], shard_bytes: int = SHARD_BYTES, name: str = "codes") -> None:
        """Open a folder; first turn the unfinished file of a killed writer of the same name into a shard."""
        self.folder, self.streams, self.shard_bytes, self.name = Path(folder), tuple(streams), shard_bytes, name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = None
        self._bytes = 0
        for part in sorted(self.folder.glob(f".{name}-*")):  # .lost, left by a kill during a recovery, sorts before .part
            if part.exists():
                self._rescue(part)
        lengths = _lengths(_entries(self.folder))
        self.songs_done = {song for song, has in lengths.items() if set(self.streams) <= set(has)}

    def add(self, song: str, values: Mapping[str, np.ndarray]) -> None:
        """Write the frames (t, ...) of each stream of one song; a kill after this call does not lose them."""
        import pyarrow as pa

        if set(values) != set(self.streams):
            raise ValueError(f"{song}: expected {', '.join(self.streams)}, got {', '.join(sorted(values))}")
        columns: dict[str, Any] = {"song": pa.array([song], pa.string())}
        for stream in self.streams:
            frames = np.asarray(values[stream])
            if not 1 <= frames.ndim <= 2 or frames.dtype.kind not in "uf":
                given = f"{frames.dtype} of shape {frames.shape}"
                raise ValueError(f"{song}: {stream} is {given}; expected unsigned or float frames")
            numbers = pa.array(frames.ravel())
            if frames.ndim == 2:
                numbers = pa.FixedSizeListArray.from_arrays(numbers, frames.shape[1])
            ends = pa.array([0, len(frames)], pa.int64())
            columns[stream] = pa.LargeListArray.from_arrays(ends, numbers)
            self._bytes += frames.nbytes
        self._write(pa.RecordBatch.from_pydict(columns))
        self.songs_done.add(song)
        if self._bytes >= self.shard_bytes:
            self._finish()

    def _write(self, batch: Any) -> None:
        """Append a song, which is a record batch of one row, to the current shard."""
        import pyarrow as pa

        if self._writer is None:
            numbers = [int(path.stem.rsplit("-")[-1]) for path in self.folder.glob(f"{self.name}-*.arrow")]
            self._target = self.folder / f"{self.name}-{max(numbers, default=-1) + 1:05d}.arrow"
            self._part = self._target.with_name(f".{self._target.name}.part")
            self._file = pa.OSFile(str(self._part), "wb")  # not buffered, so that written data survives a kill of the process
            self._writer = pa.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)

    def _finish(self) -> None:
        """Complete the current shard and rename it into place."""
        if self._writer is not None:
            self._writer.close()
            self._file.close()
            self._part.replace(self._target)
        self._writer, self._bytes = None, 0

    def _rescue(self, part: Path) -> None:
        """Turn the complete songs of an unfinished file into a shard.

        After its first 8 bytes the file is a stream of record batches, and its last batch may be incomplete.
        """
        import pyarrow as pa

        lost = part.rename(part.with_suffix(".lost"))  # frees the name for the new file
        with pa.memory_map(str(lost)) as file:
            with contextlib.suppress(pa.ArrowInvalid, OSError):  # the incomplete song
                file.seek(8)
                for batch in pa.ipc.open_stream(file):
                    self._write(batch)
        self._finish()
        lost.unlink()

    def close(self) -> None:
        """Complete the last shard and write the index."""
        self._finish()
        write_index(self.folder)

    def __exit__(self, *exception: object) -> None:
        """Close the writer; songs that are already written are kept, also after an error."""
        self.close()


def write_index(folder: str | Path) -> None:
    """Write index.parquet (song, stream, shard, row, length) from the shards; a later shard replaces an earlier one."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from filelock import FileLock

    folder = Path(folder)
    text, number = pa.string(), pa.int64()
    schema = pa.schema([("song", text), ("stream", text), ("shard", text), ("row", number), ("length", number)])
    with FileLock(folder / ".index.lock"):  # if two writers end at the same time, the later one indexes all shards
        rows = [dict(zip(schema.names, row)) for row in sorted(_entries(folder).values())]
        table = pa.Table.from_pylist(rows, schema)
        with replacing(folder / INDEX) as temporary:
            pq.write_table(table, temporary)


class CodesReader:
    """Read frames from memory-mapped folders of shards; opening a folder reads only its index."""

    def __init__(self, *folders: str | Path) -> None:
        """Read the index of each folder; a missing or outdated index is computed from the shards."""
        self.folders = [Path(folder) for folder in folders]
        self._places: dict[tuple[str, str], tuple] = {}
        for folder in reversed(self.folders):  # the first folder that has a stream of a song is used
            self._places |= {key: (folder, *place) for key, place in _index(folder).items()}
        self._lengths = _lengths({key: place[1:] for key, place in self._places.items()})
        self._shards: dict[Path, Any] = {}

    @property
    def songs(self) -> list[str]:
        """Return all songs, sorted."""
        return sorted(self._lengths)

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the streams that at least one song has, sorted."""
        return tuple(sorted({stream for _, stream in self._places}))

    def songs_with(self, streams: Sequence[str]) -> list[str]:
        """Return the songs that have all of these streams, sorted."""
        return [song for song in self.songs if set(streams) <= set(self._lengths[song])]

    def length(self, song: str, stream: str) -> int:
        """Return the number of frames of a stream of a song."""
        return self._place(song, stream)[5]

    def read(self, song: str, stream: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return frames start..stop of a stream of a song, (t, ...), as a read-only view into the file."""
        folder, _, _, shard, row, length = self._place(song, stream)
        start, stop, _ = slice(start, stop).indices(length)
        path = folder / shard
        if path not in self._shards:
            self._shards[path] = _open_shard(path)
        batch = self._shards[path].get_batch(row)
        column = stream if stream in batch.schema.names else stream.replace("vq.", OLD)  # shards of version 1 name levels
        frames = batch.column(column).values.slice(start, max(0, stop - start))
        if hasattr(frames.type, "list_size"):
            return frames.flatten().to_numpy(zero_copy_only=True).reshape(-1, frames.type.list_size)
        return frames.to_numpy(zero_copy_only=True)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open files."""
        return {**self.__dict__, "_shards": {}}

    def _place(self, song: str, stream: str) -> tuple:
        """Return the position of a stream of a song; UserError if the folders do not have this stream."""
        try:
            return self._places[song, stream]
        except KeyError:
            known = "it has not been encoded" if song not in self._lengths else f"it has {sorted(self._lengths[song])}"
            raise UserError(f"{song}: no {stream} in {', '.join(map(str, self.folders))}; {known}") from None


def _index(folder: Path) -> dict[tuple[str, str], tuple]:
    """Return the result of `_entries`, from the index file if it is newer than all shards."""
    import pyarrow.parquet as pq

    shards = sorted(folder.glob("*.arrow"))
    if not shards:
        raise UserError(f"{folder}: there are no codes here; make them with: jukebox encode DATA MODEL")
    index = folder / INDEX
    if index.is_file() and index.stat().st_mtime_ns >= max(shard.stat().st_mtime_ns for shard in shards):
        table = pq.read_table(index)
        if "stream" in table.schema.names:
            return {(row[0], row[1]): row for row in zip(*(column.to_pylist() for column in table.columns))}
    return _entries(folder)


def _open_shard(path: Path) -> Any:
    """Map a shard into memory; its batches (one per song) are views into the file."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path)))


def _entries(folder: Path) -> dict[tuple[str, str], tuple[str, str, str, int, int]]:
    """Return {(song, stream): (song, stream, shard, row, length)} from the shards; a newer shard replaces an older one."""
    places = {}
    for path in sorted(folder.glob("*.arrow"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        shard = _open_shard(path)
        for row in range(shard.num_record_batches):
            batch = shard.get_batch(row)
            song = batch.column("song")[0].as_py()
            for name in batch.schema.names[1:]:
                stream = f"vq.{name.removeprefix(OLD)}" if name.startswith(OLD) else name
                places[song, stream] = (song, stream, path.name, row, len(batch.column(name).values))
    return places


def _lengths(places: Mapping[tuple[str, str], tuple]) -> dict[str, dict[str, int]]:
    """Return {song: {stream: length}}."""
    lengths: dict[str, dict[str, int]] = {}
    for (song, stream), place in places.items():
        lengths.setdefault(song, {})[stream] = place[4]
    return lengths
