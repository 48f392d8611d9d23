"""Compile the C++ sources of this project once per machine, then load the libraries from the user's cache directory.

The name of a library contains a hash of the inputs (source, headers, flags, compiler, processor) and a hash of the content. If
an input changes, another file is built. If the content does not match its hash, the file is built again. Files are renamed into
place, so several processes can build at the same time. If the cache directory is not writable, the library is built and loaded
in a temporary folder, which is deleted after loading.

The command `python -m vqvae.compiled priors/autoregressive/native.cpp` compiles the given sources. It prints the paths of the
libraries, or the errors. The first line of a source may contain additional flags (`// flags: -O3`).
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
EXTRA = (("-march=native", "-fopenmp"), ())  # without OpenMP the second entry is used, and the library has one thread
PROCESSOR = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")  # of /proc/cpuinfo


@functools.cache
def library(source: Path) -> ctypes.CDLL:
    """Compile a source and load the library; RuntimeError if there is no compiler or the compilation fails."""
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
    """Return the folder of built libraries: $XDG_CACHE_HOME/jukebox, or ~/.cache/jukebox if the variable is not set.

    Raises RuntimeError if there is no home directory.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "jukebox"


def _hash_of_inputs(compiler: str, source: Path) -> str:
    """Hash of the inputs of a build: source, flags, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    texts = "".join(file.read_text("utf-8") for file in (source, *_headers(source)))
    parts = (texts, repr((FLAGS, EXTRA)), os.path.realpath(compiler), version, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _headers(source: Path) -> list[Path]:
    """Paths of the header files that `source` includes in quotes."""
    return [source.parent / name for name in re.findall(r'^#include "(.+)"$', source.read_text("utf-8"), re.MULTILINE)]


def _processor() -> str:
    """Description of the processor of this machine: model and instruction sets."""
    lines = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):  # Linux
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
        lines += [line for line in first.splitlines() if line.split("\t")[0].strip() in PROCESSOR]
    return "\n".join(lines)


def _hash_of_content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _kept(name: str) -> ctypes.CDLL | None:
    """Load the library `name` from the cache directory; None if the file is missing, damaged or not loadable."""
    with contextlib.suppress(OSError, RuntimeError):
        for file in sorted(cache_folder().glob(f"{name}-*.so")):
            with contextlib.suppress(OSError):
                # the hash is checked first, because loading a damaged library may crash the process instead of raising
                if file.stem == f"{name}-{_hash_of_content(file)}":
                    return ctypes.CDLL(str(file))
    return None


def _built(compiler: str, source: Path, name: str) -> ctypes.CDLL:
    """Compile a source, store the library in the cache directory if possible, and load the library."""
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
    """Store the library `made` in the cache directory, and delete other files with the same `name`.

    Returns the path of the stored file. Raises OSError if a file cannot be written or deleted.
    """
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
