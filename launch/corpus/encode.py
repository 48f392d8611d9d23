"""`jukebox encode`: encode every song once, so that priors are trained without audio.

Each stream is in a separate folder, `DATA/codes/<codes hash>/`. The codes of another encoder or codebook are in another folder.
Each song is encoded in constant memory. Existing codes are not encoded again, so the same command continues a killed run. With
several ranks (torchrun, mpirun, srun, `jukebox launch`), each rank encodes a share of the songs and writes separate files. The
ranks do not communicate.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import UserError, keeping
from data_prep.files import named_in_utf_8
from jukebox.device import choose_own_device, computing_on
from launch.cli.parse import choose_by_level

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from data_prep.manifest import SongRow
    from jukebox.model.info import ModelInfo
    from vqvae.codec import Codec


def missing_streams(data: Path, info: ModelInfo, songs: Sequence[str], streams: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the streams that are not encoded yet, by song. Songs with all streams are not in the result."""
    from data_prep.codes import CodesReader
    from jukebox.model.codes import folders_with

    there: dict[str, set[str]] = {}
    for stream in streams:
        folders = folders_with(data, info, stream)
        there[stream] = set(CodesReader(*folders).songs_with([stream])) if folders else set()
    missing = {song: tuple(stream for stream in streams if song not in there[stream]) for song in songs}
    return {song: absent for song, absent in missing.items() if absent}


def encode_sound(codec: Codec, audio: Float[np.ndarray, "c t"], streams: Sequence[str]) -> dict[str, np.ndarray]:
    """Encode one song, and return {stream: frames (t // hop, ...)} in the dtype of files.

    `audio` must have the sample rate of the codec.
    """
    import torch

    found = codec.encode_long(torch.from_numpy(audio)[None].to(codec.device), streams)
    return {name: codec.spec.stream(name).check(found[name][0].cpu().numpy(), "encoded") for name in streams}


def make_folder(target: Path, data: Path) -> Path:
    """Create the folder `target`; raise UserError if it is not writable. `data` is the data folder for the message."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / ".rescue.lock").touch()
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror}); give --cache, a folder for the codes of {data}"
        ) from error
    return target


@contextlib.contextmanager
def own_name(target: Path, rank: int) -> Iterator[str]:
    """Context with the name of this rank's files in `target`, which is locked; UserError if another process has the lock.

    First, partial files of killed ranks are completed. Killed ranks have no locks, because a lock ends with its process.
    """
    from filelock import FileLock, Timeout

    from data_prep.codes import CodesWriter

    own = f"codes_{rank}" if rank else "codes"
    lock = FileLock(target / f".{own}.lock", timeout=0)
    with FileLock(target / ".rescue.lock"):  # one rank at a time, so that songs of another rank are not considered missing
        for name in {part.name[1:].rpartition("-")[0] for part in target.glob(".codes*-*")} - {own}:
            with contextlib.suppress(Timeout), FileLock(target / f".{name}.lock", timeout=0):
                CodesWriter(target, (), name=name).close()
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"another process is encoding into {target}; run this again when it is done") from None
        CodesWriter(target, (), name=own).close()
    try:
        yield own
    finally:
        lock.release()


def encode_rows(
    codec: Codec, info: ModelInfo, data: Path, rows: Mapping[str, SongRow], streams: Sequence[str], parallel: int, name: str,
    cache: Path,
) -> None:  # fmt: skip
    """Encode the missing streams of `rows` into files `name` in the folders of the streams below `cache`, with a progress bar.

    On a CPU, `parallel` songs are encoded at a time, one thread per song, because blocks of audio are too short to divide
    between cores. A GPU encodes one song at a time, because the layers need gigabytes of memory per song. Then the threads read
    the next songs.
    """
    import torch

    from data_prep.audio.audio import read
    from data_prep.codes import CodesWriter
    from data_prep.manifest import audio_path
    from data_prep.transpose import reading_rate
    from jukebox.model.codes import codes_folder
    from launch.cli.progress import progress
    from launch.corpus.pcm import in_order

    def sound_of(row: SongRow) -> Float[np.ndarray, "c t"]:
        rate = reading_rate(codec.spec.sample_rate, row.semitones)
        return read(audio_path(data, row), sample_rate=rate, channels=codec.spec.channels)[0]

    def streams_of(row: SongRow) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)  # the setting is per thread
        return encode_sound(codec, sound_of(row), missing[row.song])

    def all_streams(todo: Sequence[SongRow], absent: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        if codec.device.type == "cpu":
            return in_order(streams_of, todo, threads=parallel)
        return (encode_sound(codec, audio, absent) for audio in in_order(sound_of, todo, threads=parallel))

    missing, names = missing_streams(cache, info, list(rows), streams), ", ".join(streams)
    if not missing:
        print(f"all {len(rows)} songs have {names} in {cache / 'codes'}")
        return
    started, made = time.monotonic(), sum(round(rows[song].seconds) for song in missing)
    kept, done = f"{cache / 'codes'} keeps the codes of finished songs: the same command goes on", []
    with keeping(kept, lambda: done), progress(made, f"encoding {names}", unit="s") as bar:
        for absent in sorted(set(missing.values())):  # songs with the same missing streams share writers
            todo = [rows[song] for song in rows if missing.get(song) == absent]
            with contextlib.ExitStack() as stack:
                folders = {stream: codes_folder(cache, info, stream) for stream in absent}
                writers = {s: stack.enter_context(CodesWriter(f, (s,), name=name)) for s, f in folders.items()}
                for row, found in zip(todo, all_streams(todo, absent)):
                    for stream, writer in writers.items():
                        writer.add(row.song, {stream: found[stream]})
                    bar.update(round(row.seconds))
                    done.append(row.song)
    took = max(time.monotonic() - started, 1e-9)
    print(f"{len(missing)} songs, {made} s of music in {took:.1f} s ({made / took:.0f} seconds of music a second)")
    print(f"{names} in {cache / 'codes'}")


def spread_songs(rows: Sequence[SongRow], count: int) -> list[SongRow]:
    """Select `count` songs (0: all): first one song of each artist, then a second song of each artist, and so on.

    Songs of an artist are in the order of their hashes. A larger count includes the songs of a smaller count.
    """
    by_artist: dict[str, list[SongRow]] = {}
    for row in sorted(rows, key=lambda row: row.hash):
        by_artist.setdefault(row.artist or "", []).append(row)
    turns = [row for turn in zip_longest(*by_artist.values()) for row in turn if row]
    return sorted(turns[: count if count > 0 else None], key=lambda row: row.path)


def encode(
    data: str, model: str, *, levels: str = "", songs: int = 0, split: str = "", semitones: tuple[float, ...] = (),
    threads: int = 0, device: str = "auto", cache: str = "",
) -> None:  # fmt: skip
    """Encode the songs of a data folder into codes; songs that are encoded already are skipped.

    data: the data folder that `jukebox prepare` made
    model: the model folder that holds the trained codec
    levels: levels to encode, such as 2,1; empty: all trained levels
    songs: number of songs (of the split, if given), spread over the artists; 0: all
    split: only the songs of this split, train or test; empty: both
    semitones: encode each training song also transposed by these numbers of semitones (played faster or slower), such as -2,2:
        priors are then trained on all of them
    threads: songs to encode in parallel, one CPU thread each (on a GPU: songs to read ahead); 0: one per core
    device: cpu, cuda, cuda:1, ..; auto: cuda if there is one
    cache: folder for the codes, if DATA is not writable; `jukebox train --cache` reads them there; empty: DATA itself
    """
    import torch

    from data_prep.manifest import load_manifest, reading
    from data_prep.transpose import check_semitones, transpose
    from jukebox.model.codes import codes_folder
    from jukebox.model.folder import ModelFolder
    from launch.cluster.ranks import rank_and_ranks, variables

    check_semitones(semitones)
    rank, ranks = rank_and_ranks()
    cores = torch.get_num_threads()  # cores of this rank if the starter sets OMP_NUM_THREADS, else cores of the machine
    parallel = threads or (cores if "OMP_NUM_THREADS" in os.environ else max(1, cores // ranks))
    device = choose_own_device(device, rank, ranks)
    folder, place, opened = (
        Path(data),
        named_in_utf_8(Path(cache or data), "a folder of codes"),
        ModelFolder.from_pretrained(model),
    )
    info, trained = opened.info, opened.trained_streams()
    names = info.spec.names
    wanted = choose_by_level(levels, {names.index(stream): stream for stream in trained or names})
    rows = [row for row in load_manifest(folder) if not split or row.split == split]
    if not rows:
        of_split = f" of the split {split}; expected train or test, or no --split" if split else ""
        raise UserError(f"{data} has no songs{of_split}")
    rows = spread_songs(rows, songs)
    rows += [transpose(row, number) for number in dict.fromkeys(semitones) for row in rows if row.split == "train"]
    chosen = {row.song: row for row in rows[rank::ranks]}
    if ranks > 1:
        print(f"rank {rank} of {ranks} ({variables()}) encodes {len(chosen)} of {len(rows)} songs")
    with reading(folder):
        for entry in info.codecs:
            if not (mine := [stream for stream in wanted if stream in entry.config.spec.names]):
                continue
            codec, name = opened.codec(mine).to(device), ""
            with contextlib.ExitStack() as stack:
                for stream in mine:
                    target = make_folder(codes_folder(place, info, stream), folder)
                    name = stack.enter_context(own_name(target, rank))
                stack.enter_context(computing_on(device))
                encode_rows(codec, info, folder, chosen, mine, parallel, name, place)
