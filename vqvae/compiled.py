"""Compile the C++ sources of this project once per machine, then load the libraries from the user's cache directory.

The file name has a hash of the inputs (source, headers, flags, compiler, processor) and a hash of the content. If an input changes,
another file is built. If the content does not match its hash, the file is built again. Files are renamed into place, so that
processes can build at the same time. If the directory is not writable, the library is built in a temporary folder and is
deleted when the process ends.

As a program it builds the libraries of the given sources, and prints their paths or the errors: `python -m vqvae.compiled
priors/autoregressive/native.cpp`. The first line of a source may have additional flags (`// flags: -O3`).
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
EXTRA = (("-march=native", "-fopenmp"), ())  # the second is for compilers without OpenMP: one thread
PROCESSOR = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")  # of /proc/cpuinfo


@functools.cache
def library(source: Path) -> ctypes.CDLL:
    """Compile and load a source; RuntimeError with the reason if there is no compiler or it fails."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (c++, g++ or clang++); install one, or set the variable CXX to another")
    name = f"{source.stem}-{_hash_of_inputs(compiler, source)}"
    return _kept(name) or _built(compiler, source, name)


def _flags(source: Path) -> list[str]:
    first = source.read_text("utf-8").partition("\n")[0]
    return [*FLAGS, *(first.removeprefix(OWN_FLAGS).split() if first.startswith(OWN_FLAGS) else ())]


def cache_folder() -> Path:
    """The folder of built libraries, XDG_CACHE_HOME/jukebox, by default ~/.cache/jukebox; RuntimeError without a home directory."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "jukebox"


def _hash_of_inputs(compiler: str, source: Path) -> str:
    """Hash of the inputs of a build: source, flags, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    texts = "".join(file.read_text("utf-8") for file in (source, *_headers(source)))
    parts = (texts, repr((FLAGS, EXTRA)), os.path.realpath(compiler), version, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _headers(source: Path) -> list[Path]:
    """Header files that a source includes by a relative path."""
    return [source.parent / name for name in re.findall(r'^#include "(.+)"$', source.read_text("utf-8"), re.MULTILINE)]


def _processor() -> str:
    """Model and instruction sets of this machine's processor."""
    lines = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):  # Linux
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
        lines += [line for line in first.splitlines() if line.split("\t")[0].strip() in PROCESSOR]
    return "\n".join(lines)


def _hash_of_content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _kept(name: str) -> ctypes.CDLL | None:
    """Load the library of this name from the cache directory; None if it is missing, damaged or not loadable."""
    with contextlib.suppress(OSError, RuntimeError):
        for file in sorted(cache_folder().glob(f"{name}-*.so")):
            with contextlib.suppress(OSError):
                # a damaged library may crash the process instead of raising
                if file.stem == f"{name}-{_hash_of_content(file)}":
                    return ctypes.CDLL(str(file))
    return None


def _built(compiler: str, source: Path, name: str) -> ctypes.CDLL:
    """Compile and load the library, and store it in the cache directory if possible."""
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
    """Store a library in the cache directory and delete damaged files of its name; OSError if that fails."""
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
            print(f"{source} is not compiled, so sampling on a CPU is slower: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
