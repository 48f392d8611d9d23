"""Download a large file. A partial download is kept and resumed, and a complete file is renamed to its final name."""

from __future__ import annotations

import os
import re
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from data_prep.errors import UserError, keeping
from data_prep.files import file_hash, stand_in
from data_prep.progress import ProgressBar

BLOCK = 1 << 20
TRIES = 5  # consecutive attempts without data


def download(url: str, path: str | Path, *, sha256: str = "", wait: float = 1.0, timeout: float = 30.0) -> Path:
    """Download `url` to `path` unless the file exists, and return `path`. A partial file (`.part`) is resumed.

    The server's length and the first digits of the SHA-256 (`sha256`, if known) are checked before the file is renamed. An
    existing file with other content is reported and downloaded again. `wait` and `timeout` are in seconds. UserError if the
    server cannot be reached or the content is wrong.
    """
    path = Path(path)
    if path.is_file():
        if not (wrong := misfit(path, sha256)):
            return path
        print(f"{path} is {wrong}; fetching it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, failures = path.with_name(path.name + ".part"), 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            total = _fetch(url, part, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(
                    f"{url}: the server answers {error.code} {error.reason}; give another root with --url, or your own --files"
                ) from error
            reason = f"{error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        got = part.stat().st_size if part.is_file() else 0
        failures = 0 if got > before else failures + 1
        if failures >= TRIES or (not got and failures >= 2):
            kept = f"; {got / 1e6:.1f} MB are kept and the same command goes on from there" if got else ""
            raise UserError(f"{url} cannot be reached ({reason}): are you online?{kept}; or give your own --files")
        time.sleep(wait * failures)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)
    size = part.stat().st_size
    if total is not None and size != total:
        part.unlink()
        raise UserError(f"{url}: {size} bytes were received, the server states {total}; they are deleted, try again")
    if wrong := misfit(part, sha256):
        part.unlink()
        raise UserError(f"{url} is {wrong}; what came is thrown away: give another root with --url, or your own --files")
    os.replace(part, path)
    return path


def misfit(path: Path, sha256: str = "") -> str:
    """Describe what is wrong with a file; empty if it may be the expected file."""
    if wrong := stand_in(path):
        return wrong
    if sha256 and (found := file_hash(path, len(sha256))) != sha256:
        return f"another file, or damaged: its SHA-256 begins with {found[:16]}, expected {sha256[:16]}"
    return ""


def _fetch(url: str, part: Path, timeout: float) -> int | None:
    """Resume the download of `part` and return the total length that the server states (None: unknown).

    Raise OSError if the connection breaks.
    """
    have, tag = part.stat().st_size if part.is_file() else 0, part.with_name(part.name + ".tag")
    request = urllib.request.Request(quote(url, safe=":/?&=%~+@,;"), headers={"User-Agent": "jukebox"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag.is_file():
            request.add_header("If-Range", tag.read_text())  # if the file has changed, the server sends it from its start
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and whole and int(whole[1]) == have:
            return have
        if error.code == 416:  # the partial file is longer than the server's file, so it is another file
            part.unlink()
            raise OSError("the partial file does not match the server's file; the download starts again") from error
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if resumed and (span is None or int(span[1]) != have):
            raise OSError(f"asked from byte {have}, the server sent {response.headers.get('Content-Range')}")
        total = int(span[2]) if resumed and span else int(length) if length else None
        if etag := response.headers.get("ETag"):
            tag.write_text(etag)
        else:
            tag.unlink(missing_ok=True)
        name, start = part.name.removesuffix(".part"), have if resumed else 0
        bar = ProgressBar(total=total, initial=start, desc=name, unit="B", unit_scale=True)
        with (
            keeping(f"{part} keeps the received bytes: the same command goes on", lambda: have + file.tell()),
            bar,
            open(part, "ab" if resumed else "wb") as file,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the line broke after {part.stat().st_size} of {total} bytes")
    return total
