"""Damaged audio files, each a function of its number; `python -m tests.data_prep.audio.mutations FOLDER FIRST LAST` reads them.

One json line per file: what was done to which kind, seconds of audio or the reason of the refusal, how long it took, and the
seconds that its bytes can hold. At the end the most memory that the process had, MB.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from data_prep.audio.audio import probe, read
from data_prep.audio.splice import Original
from data_prep.errors import BadAudio
from tests.data_prep.audio_files import encoded, with_tracks

SECONDS = 3.0
Mutation = Callable[[random.Random, bytes], bytes]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data))]


def join(rng: random.Random, data: bytes) -> bytes:
    return data + data[rng.choice([0, rng.randrange(len(data))]) :]


def flip(rng: random.Random, data: bytes) -> bytes:
    """Other bytes in some places, half of the time in the header alone."""
    changed, end = bytearray(data), rng.choice([len(data), min(len(data), 400)])
    for _ in range(rng.choice([1, 3, 20, 200])):
        changed[rng.randrange(end)] = rng.randrange(256)
    return bytes(changed)


def resize(rng: random.Random, data: bytes) -> bytes:
    """Another number in place of four bytes, which in the header are often a size."""
    at = rng.randrange(min(len(data), rng.choice([100, 1000, 1 << 20])) - 4) // 2 * 2
    return data[:at] + rng.choice([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)]) + data[at + 4 :]


def move(rng: random.Random, data: bytes) -> bytes:
    a, b, c = sorted(rng.randrange(len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def drop(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:a] + data[b:]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 5000)) + data[at:]


def whole_files(folder: Path) -> dict[str, bytes]:
    """A small file of each kind by its suffix."""
    files = {".wav": encoded("WAV"), ".flac": encoded("FLAC"), ".ogg": encoded("OGG", "VORBIS"), ".mp3": encoded("MP3")}
    files[".opus"] = encoded("OGG", "OPUS", rate=24000)
    return files | {".m4a": with_tracks(folder / "whole.m4a", "aac", [440.0]).read_bytes()}


def examine(path: Path) -> float | str:
    """Seconds of a file by all readers, which must agree; or why it was refused."""
    try:
        info = probe(path)
        assert read(path)[0].shape == (info.channels, info.frames)
        with closing(Original(path)) as original:
            assert sum(map(len, original.blocks())) == info.frames
        return info.seconds
    except BadAudio as error:
        return error.reason


def main(folder: Path, first: int, last: int) -> None:
    files = whole_files(folder)
    for number in range(first, last):
        rng = random.Random(number)
        suffix, change = (
            list(files)[number % len(files)],
            rng.choice([cut, join, flip, flip, resize, resize, move, drop, insert]),
        )
        data = change(rng, files[suffix])
        path = folder / f"{number}{suffix}"
        path.write_bytes(data)
        began = time.monotonic()
        result = examine(path)
        most = SECONDS * len(data) / len(files[suffix]) * 1.3 + 0.3
        took = time.monotonic() - began
        print(
            json.dumps({"file": path.name, "change": change.__name__, "result": result, "took": took, "most": most}), flush=True
        )
        path.unlink()
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
