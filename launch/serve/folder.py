"""The served folder: runs, and below .serve the uploads and the records of jobs. Nothing outside of the folder is read.

    NAME/ NAME.run/ NAME.wav    run folders; edits with their files, as the command line writes them
    .serve/uploads/ID.mp3       recordings; .serve/uploads/ID.json has their names and lengths
    .serve/jobs/ID.json         one record per job (launch/serve/jobs.py)

A name in a request must be one path component of plain characters, and its path must not be a symbolic link.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.audio.audio import probe
from data_prep.audio.decoders import AUDIO_SUFFIXES
from data_prep.errors import UserError
from data_prep.files import write_json
from jukebox.report.run_page import speeds
from jukebox.report.spectrograms import read_lines
from jukebox.runs.run import PROGRESS
from jukebox.runs.run_file import REQUEST, read_request

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
UPLOADS = 10  # all uploads together are at most this multiple of the largest allowed upload
AT_ONCE, STALLED = 4, 30.0  # most uploads in progress, and seconds without data after which an upload is aborted
MB = 1_000_000


class Missing(UserError):
    """A request names something that does not exist."""


class TooLarge(UserError):
    """An upload has more bytes than the server accepts."""


class TooMany(UserError):
    """There are more requests than the server accepts at the same time."""


@dataclass(frozen=True)
class Upload:
    """An uploaded recording: its file, its name on the client, its length and its format."""

    id: str
    file: str
    name: str
    seconds: float
    sample_rate: int
    channels: int


def new_id() -> str:
    """Return a new id of a job or an upload; ids sort by time and cannot be guessed."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def check_name(name: str) -> str:
    """Return a name that is one path component of plain characters; Missing for any other name."""
    if not NAME.fullmatch(name):
        raise Missing("there is nothing of that name; expected the name of a run, or the id of an upload or a job")
    return name


class ServedFolder:
    """The served folder: its runs and its uploads."""

    def __init__(self, root: str | Path, max_upload: int) -> None:
        self.root, self.limit = Path(root).resolve(), max_upload * MB
        self.jobs, self.uploads = self.root / ".serve" / "jobs", self.root / ".serve" / "uploads"
        self._receiving = 0  # uploads in progress; only the thread that receives them changes it
        self._known: dict[str, tuple[list[int], dict[str, Any]]] = {}  # name -> (times of its files, its summary)
        for folder in (self.jobs, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)

    # ---- runs

    def run(self, name: str) -> Path:
        """Return the folder of a run; Missing if there is no run of this name."""
        path = self.root / check_name(name)
        if path.is_symlink() or not (path / REQUEST).is_file():
            raise Missing(f"there is no run {name}")
        return path

    def runs(self, most: int = 500) -> list[dict[str, Any]]:
        """Return the summaries of the newest runs; a run that cannot be read has only its name and an error."""
        found = [path.parent for path in self.root.glob(f"*/{REQUEST}") if NAME.fullmatch(path.parent.name)]
        found = sorted((path for path in found if not path.is_symlink()), key=lambda path: -path.stat().st_mtime)
        summaries = []
        for path in found[:most]:
            try:
                summaries.append(self.summary(path.name))
            except UserError:
                summaries.append({"name": path.name, "error": "its run.json cannot be read"})
        return summaries

    def summary(self, name: str) -> dict[str, Any]:
        """Return the data of a run for the list of runs; it is cached until the files of the run change."""
        folder = self.run(name)
        stamp = [path.stat().st_mtime_ns for path in (folder / REQUEST, folder / PROGRESS) if path.is_file()]
        if self._known.get(name, ((), {}))[0] != stamp:
            self._known[name] = stamp, _summary(folder)
        return self._known[name][1]

    def delete(self, name: str) -> None:
        """Delete a run, and the output files of an edit."""
        folder = self.run(name)
        for path in self.results(folder):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder)
        self._known.pop(name, None)

    def results(self, folder: Path) -> list[Path]:
        """Return the files that an edit writes beside its run folder; empty for a song."""
        outputs = read_request(folder / REQUEST).get("outputs", ())
        return [path for path in map(Path, outputs) if path.parent == self.root and not path.is_symlink()]

    def check_sources(self, folder: Path) -> None:
        """Raise UserError if a run reads files outside of the served folder; a run that was copied here by hand may do so."""
        request = read_request(folder / REQUEST)
        paths = [path for path, _ in request["sources"]] + [request.get("recording", {}).get("path", "")]
        if outside := [path for path in paths if path and not Path(path).resolve().is_relative_to(self.root)]:
            raise UserError(f"this run reads {Path(outside[0]).name} outside of the served folder; use `jukebox resume` for it")

    def inside(self, path: Path) -> Path:
        """Return a file of a run; Missing if it is a link to a place outside of the served folder."""
        if not path.resolve().is_relative_to(self.root):
            raise Missing(f"{path.name} is not in the served folder")
        return path

    # ---- uploads

    async def receive(self, name: str, blocks: AsyncIterator[bytes]) -> Path:
        """Write an upload block by block; TooLarge as soon as it exceeds the limit. A failed upload leaves no file."""
        suffix = Path(name).suffix.lower()
        if suffix not in AUDIO_SUFFIXES:
            raise UserError("the name of a recording ends in .wav, .flac, .mp3, .ogg or the like")
        if self._receiving >= AT_ONCE:
            raise TooMany(f"{AT_ONCE} recordings are uploaded at once already; try again when one of them is there")
        path, size = self.uploads / f"{new_id()}{suffix}", 0
        self._receiving += 1
        try:
            with path.open("wb") as file:
                while block := await asyncio.wait_for(anext(blocks, b""), STALLED):
                    size += len(block)
                    if size > self.limit:
                        raise TooLarge(f"the recording is larger than {self.limit // MB} MB; cut it, or save it as flac or mp3")
                    file.write(block)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, TimeoutError):
                raise UserError(f"nothing has come for {STALLED:g} s; send the recording again") from error
            raise
        finally:
            self._receiving -= 1
        return path

    def accept(self, path: Path, name: str, max_seconds: float) -> Upload:
        """Check and register an upload; if it is not audio, it is deleted and UserError is raised."""
        try:
            _check_binary(path)
            info = probe(path)
            if not 0 < info.seconds <= max_seconds or info.peak != info.peak:
                raise UserError(
                    f"the recording is {info.seconds:.4g} s long; expected up to {max_seconds:g} s of finite samples"
                )
        except Exception as error:
            path.unlink(missing_ok=True)
            raise UserError(str(error).replace(str(path), "the recording")) from error
        upload = Upload(path.stem, path.name, Path(name).name[:200], info.seconds, info.sample_rate, info.channels)
        write_json(path.with_suffix(".json"), asdict(upload))
        return upload

    def upload(self, id: str) -> Upload:
        """Return an upload by its id; Missing if there is none."""
        path = self.uploads / f"{check_name(id)}.json"
        if not path.is_file():
            raise Missing(f"there is no recording {id}; upload it again")
        return Upload(**json.loads(path.read_text(encoding="utf-8")))

    def clean(self, jobs: Collection[str]) -> None:
        """Delete files that a killed server has left: exports and unfinished uploads. Excerpts of `jobs` (ids) are kept."""
        for path in (*self.uploads.parent.iterdir(), *self.uploads.iterdir()):
            if path.is_file() and not path.with_suffix(".json").is_file() and path.stem not in jobs:
                path.unlink()

    def make_room(self, used: Collection[str]) -> None:
        """Delete the oldest unused uploads while all uploads together exceed UPLOADS times the limit of one upload."""
        files = sorted(path for path in self.uploads.iterdir() if path.suffix != ".json")
        size = sum(path.stat().st_size for path in files)
        for path in files[:-1]:
            if size > UPLOADS * self.limit and path.stem not in used:
                size -= path.stat().st_size
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)


def _check_binary(path: Path) -> None:
    """Raise UserError for a text file, because a decoder may read it as a list of other files to open."""
    with path.open("rb") as file:
        head = file.read(512)
    if not any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in head):
        raise UserError("this is text, no recording" if head else "the recording is empty")


def _summary(folder: Path) -> dict[str, Any]:
    request = read_request(folder / REQUEST)
    songs, rows = request["samples"], speeds(request, read_lines(folder / PROGRESS))
    done = [row["done"] for level, row in rows.items() if level != "all"]
    return {
        "name": folder.name, "verb": request["verb"], "seconds": request["seconds"], "takes": len(songs), "seed": request["seed"],
        "artist": songs[0]["artist"] or "", "genre": ", ".join(songs[0]["genres"]), "share": sum(done) / len(done),
        "prompt_seconds": (request["prompt"] or {}).get("seconds", 0.0), "made": (folder / REQUEST).stat().st_mtime,
    }  # fmt: skip
