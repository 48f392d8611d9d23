"""C++ sources of this project as libraries: built once per machine by its own compiler, then loaded from the user's cache directory.

A file is named by a hash of what it was built from (source, headers, flags, compiler, processor) and by a hash of its content. A change of
the former gives another file, and a file that does not have the content of its name is built again. Files are put in place by renaming, so
that processes which build at once do not disturb each other. Where the directory cannot be written, the library is built in a temporary
folder and lives as long as the process.

Run as a module, it builds the libraries of the sources that it is given, and prints where they are, or why there are none:
`python -m vqvae.compiled priors/autoregressive/native.cpp`. The first line of a source may have flags of its own (`// flags: -O3`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-shared", "-fPIC")
OWN_FLAGS = "// flags:"
EXTRA = (("-march=native", "-fopenmp"), ())  # the second: one thread, for compilers without OpenMP
PROCESSOR = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")  # of /proc/cpuinfo


@functools.cache
def library(source: Path) -> ctypes.CDLL:
    """The compiled source; RuntimeError with the reason where there is no compiler, or it fails."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (c++, g++ or clang++; the variable CXX names another)")
    name = f"{source.stem}-{_hash_of_inputs(compiler, source)}"
    return _kept(name) or _built(compiler, source, name)


def _flags(source: Path) -> list[str]:
    first = source.read_text("utf-8").partition("\n")[0]
    return [*FLAGS, *(first.removeprefix(OWN_FLAGS).split() if first.startswith(OWN_FLAGS) else ())]


def cache_folder() -> Path:
    """The folder of built libraries, XDG_CACHE_HOME/jukebox, by default ~/.cache/jukebox; RuntimeError without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "jukebox"


def _hash_of_inputs(compiler: str, source: Path) -> str:
    """A hash of what decides how a library comes out."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    texts = "".join(file.read_text("utf-8") for file in (source, *_headers(source)))
    parts = (texts, repr((FLAGS, EXTRA)), os.path.realpath(compiler), version, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _headers(source: Path) -> list[Path]:
    """The files that a source includes by a path of its own."""
    return [source.parent / name for name in re.findall(r'^#include "(.+)"$', source.read_text("utf-8"), re.MULTILINE)]


def _processor() -> str:
    """Model and instructions of this machine's processor."""
    lines = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):  # Linux
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
        lines += [line for line in first.splitlines() if line.split("\t")[0].strip() in PROCESSOR]
    return "\n".join(lines)


def _hash_of_content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _kept(name: str) -> ctypes.CDLL | None:
    """The library of this name from the cache directory, if there is one that is whole and can be loaded."""
    with contextlib.suppress(OSError, RuntimeError):
        for file in sorted(cache_folder().glob(f"{name}-*.so")):
            with contextlib.suppress(OSError):
                if file.stem == f"{name}-{_hash_of_content(file)}":  # a damaged one may stop the process instead of raising
                    return ctypes.CDLL(str(file))
    return None


def _built(compiler: str, source: Path, name: str) -> ctypes.CDLL:
    """The library, compiled now, and kept for other processes where that is possible."""
    with tempfile.TemporaryDirectory() as folder:
        made, error = Path(folder) / "made.so", ""
        for extra in EXTRA:
            compiled = subprocess.run(
                [compiler, *_flags(source), *extra, str(source), "-o", str(made)], capture_output=True, text=True
            )
            if compiled.returncode == 0:
                with contextlib.suppress(OSError, RuntimeError):
                    return ctypes.CDLL(str(_keep(made, name)))
                return ctypes.CDLL(str(made))
            error = compiled.stderr
    raise RuntimeError(f"{compiler} could not compile {source.name}: {error.strip().splitlines()[-1:]}")


def _keep(made: Path, name: str) -> Path:
    """Put a library into the cache directory, in place of files of its name that are damaged; OSError where that cannot be."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{_hash_of_content(made)}.so"
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        os.replace(shutil.copy(made, partial), target)
    for other in folder.glob(f"{name}-*.so"):
        if other != target:
            other.unlink(missing_ok=True)
    return target


def main(sources: list[str]) -> None:
    for source in sources:
        try:
            print(f"compiled {source}: {library(Path(source))._name}")
        except (OSError, RuntimeError) as error:
            print(f"{source} is not compiled, so that sampling on a CPU is slower: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
