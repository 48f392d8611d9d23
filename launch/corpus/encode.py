"""`jukebox encode`: the codes of every song, once, so that priors train without touching sound.

Codes go to `DATA/codes/<hash of the codec>/`: another codec writes another folder, never among them. Each song is
encoded level by level in constant memory; what is there already is not made again, so a killed run goes on by the
same command. Of several ranks (torchrun, mpirun, srun, `jukebox launch`) each takes its share of the songs and writes
files of its own; they need not talk to each other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from data_prep.manifest import SongRow
    from vqvae.jukebox.vqvae import VQVAE


def missing_levels(folder: Path, songs: Sequence[str], levels: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """For each song the levels of `levels` whose codes are not in `folder` yet; songs that have all are left out."""
    from data_prep.codes import CodesReader

    reader = CodesReader(folder) if any(folder.glob("*.arrow")) else None
    there = {level: set(reader.songs_with([level])) if reader else set() for level in levels}
    missing = {song: tuple(level for level in levels if song not in there[level]) for song in songs}
    return {song: absent for song, absent in missing.items() if absent}


def encode_sound(codec: VQVAE, audio: Float[np.ndarray, "c t"], levels: Sequence[int]) -> dict[int, np.ndarray]:
    """Codes of one song as {level: uint16 (t // hop,)}; the sound is at the codec's rate."""
    import torch

    from vqvae.jukebox.stream import encode_long

    device = next(codec.parameters()).device
    codes = encode_long(codec, torch.from_numpy(audio)[None].to(device), levels)
    return {level: codes[level][0].cpu().numpy().astype("uint16") for level in levels}


@contextlib.contextmanager
def own_name(target: Path, rank: int) -> Iterator[str]:
    """The name of this rank's files in `target`, which no other process has meanwhile; UserError where one has it.

    What killed ranks left behind becomes whole before: a lock is held as long as its process lives, and no longer.
    """
    from filelock import FileLock, Timeout

    from data_prep.codes import CodesWriter

    own = f"codes_{rank}" if rank else "codes"
    lock = FileLock(target / f".{own}.lock", timeout=0)
    with FileLock(target / ".rescue.lock"):  # one rank at a time, so that none takes another's songs for missing
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
    codec: VQVAE, data: Path, rows: Mapping[str, SongRow], levels: Sequence[int], target: Path, beside: int, name: str
) -> None:
    """Write what is missing of the codes of `rows` into files `name` of `target`, with a bar and a closing line.

    `beside` songs go side by side, each in one thread: pieces of sound are too short to be shared between cores.
    """
    import torch

    from data_prep.audio.audio import read
    from data_prep.codes import CodesWriter
    from data_prep.manifest import audio_path
    from launch.corpus.pcm import in_order
    from launch.training.log import progress

    def codes_of(row: SongRow) -> dict[int, np.ndarray]:
        torch.set_num_threads(1)  # a setting of the thread
        spec = codec.spec
        audio = read(audio_path(data, row), sample_rate=spec.sample_rate, channels=spec.channels)[0]
        return encode_sound(codec, audio, missing[row.song])

    missing, names = missing_levels(target, list(rows), levels), ", ".join(map(str, levels))
    if not missing:
        print(f"all {len(rows)} songs have codes of level {names} in {target}")
        return
    started, made = time.monotonic(), sum(rows[song].seconds for song in missing)
    with progress(round(made), f"encoding level {names}", unit="s") as bar:
        for absent in sorted(set(missing.values())):  # songs that lack the same levels share a writer
            todo = [rows[song] for song in rows if missing.get(song) == absent]
            with CodesWriter(target, absent, name=name) as writer:
                for row, codes in zip(todo, in_order(codes_of, todo, threads=beside)):
                    writer.add(row.song, codes)
                    bar.update(round(row.seconds))
    took = max(time.monotonic() - started, 1e-9)
    print(f"{len(missing)} songs, {made:.0f} s of music in {took:.1f} s ({made / took:.0f} seconds of music a second)")
    print(f"codes of level {names} in {target}")


def encode(
    data: str,
    model: str,
    *,
    levels: str = "",
    songs: int = 0,
    split: str = "",
    threads: int = 0,
    device: str = "auto",
) -> None:
    """Encode the songs of a data folder into codes; songs that are encoded already are skipped.

    data: the data folder that `jukebox prepare` made
    model: the model folder that holds the trained codec
    levels: levels to encode, such as 2,1; empty: all that are trained
    songs: how many songs, the first of the manifest (of the split, if one is named); 0: all
    split: only the songs of this split, train or test; empty: both
    threads: songs to encode side by side, one CPU thread each; 0: one a core
    device: cpu, cuda, cuda:1, ..; auto: cuda where there is one
    """
    import torch

    from data_prep.manifest import load_manifest
    from jukebox.model.folder import Jukebox
    from launch.cluster.ranks import rank_and_ranks
    from launch.training.train import chosen_levels

    rank, ranks = rank_and_ranks()
    cores = torch.get_num_threads()  # of this rank where its starter has said so, else of the machine
    beside = threads or (cores if "OMP_NUM_THREADS" in os.environ else max(1, cores // ranks))
    if device == "auto":
        device = f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    folder, jukebox = Path(data), Jukebox.from_pretrained(model)
    wanted = chosen_levels(levels, jukebox.trained_levels() or range(len(jukebox.hops)))
    rows = [row for row in load_manifest(folder) if not split or row.split == split]
    if not rows:
        of_split = f" of the split {split}; expected train or test, or no --split" if split else ""
        raise UserError(f"{data} has no songs{of_split}")
    chosen = {row.song: row for row in rows[: songs if songs > 0 else None][rank::ranks]}
    target = folder / "codes" / jukebox.codec_hash()
    target.mkdir(parents=True, exist_ok=True)
    with own_name(target, rank) as name:
        encode_rows(jukebox.codec(wanted).to(device), folder, chosen, wanted, target, beside, name)
