"""Libraries of C++ sources: built once per machine, and never taken from a file that is not what it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from priors.autoregressive import native
from vqvae import compiled

ROOT = Path(__file__).parents[2]
compiler = pytest.mark.skipif(native.why_not() is not None, reason="no C++ compiler here")
SOURCE = "priors/autoregressive/native.cpp"
COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo 1.0 && exit 0
[ -e "{broken}" ] && echo "internal compiler error" >&2 && exit 1
echo built >> "{log}"
for out; do :; done  # the last argument
echo 'extern "C" void step() {{}}' | c++ -shared -fPIC -x c++ - -o "$out"
"""


class Machine:
    """A cache directory, and a compiler that builds a small library whatever the source, counts its builds and can be broken."""

    def __init__(self, folder: Path):
        self.folder, self.log, self.broken = folder / "cache", folder / "log", folder / "broken"
        self.compiler = folder / "compiler"
        self.compiler.write_text(COMPILER.format(log=self.log, broken=self.broken))
        self.compiler.chmod(0o755)

    def start(self) -> subprocess.Popen:
        """A process that builds or loads the library."""
        env = {**os.environ, "CXX": str(self.compiler), "XDG_CACHE_HOME": str(self.folder)}
        command = [sys.executable, "-m", "vqvae.compiled", SOURCE]
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)

    def run(self) -> str:
        process = self.start()
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0
        return output

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    @property
    def builds(self) -> int:
        return self.log.read_text().count("built") if self.log.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@compiler
def test_a_second_process_loads_without_compiling(machine):
    first = machine.run()
    machine.broken.touch()
    assert machine.run() == first == f"compiled {SOURCE}: {machine.files[0]}\n" and machine.builds == 1


@compiler
@pytest.mark.parametrize("content", [b"", b"no library", None], ids=["empty", "other", "truncated"])
def test_a_damaged_file_is_built_again(machine, content):
    machine.run()
    (file,) = machine.files
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert f"compiled {SOURCE}: " in machine.run() and machine.builds == 2
    assert [path.read_bytes() for path in machine.files] == [whole]


@compiler
def test_a_file_that_cannot_be_loaded_is_built_again(machine, tmp_path):
    machine.run()
    (file,) = machine.files
    (tmp_path / "text").write_text("whole, but no library")
    bad = file.with_name(f"{file.stem.rsplit('-', 1)[0]}-{compiled._hash_of_content(tmp_path / 'text')}.so")
    file.unlink()
    os.replace(tmp_path / "text", bad)
    assert f"compiled {SOURCE}: " in machine.run() and machine.builds == 2 and machine.files == [file]


@compiler
def test_without_a_directory_to_write_it_is_built_in_a_temporary_folder(machine):
    machine.folder.write_text("a file in the place of the directory")
    assert all(f"compiled {SOURCE}: " in machine.run() for _ in range(2))
    assert machine.builds == 2


@compiler
def test_two_processes_at_once_leave_one_whole_file(machine):
    outputs = [process.communicate(timeout=120)[0] for process in [machine.start() for _ in range(2)]]
    assert all(f"compiled {SOURCE}: " in output for output in outputs) and len(machine.files) == 1


def test_another_source_flag_compiler_or_processor_has_another_file(monkeypatch, tmp_path, machine):
    names = [compiled._hash_of_inputs(str(machine.compiler), native.SOURCE)]
    assert compiled._hash_of_inputs(str(machine.compiler), native.SOURCE) == names[0]
    names.append(compiled._hash_of_inputs("/bin/true", native.SOURCE))
    monkeypatch.setattr(compiled, "_processor", lambda: "another processor")
    names.append(compiled._hash_of_inputs(str(machine.compiler), native.SOURCE))
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-g"))
    names.append(compiled._hash_of_inputs(str(machine.compiler), native.SOURCE))
    (tmp_path / "other.cpp").write_text("int other;\n")
    names.append(compiled._hash_of_inputs(str(machine.compiler), tmp_path / "other.cpp"))
    machine.compiler.write_text(machine.compiler.read_text().replace("1.0", "1.1"))
    names.append(compiled._hash_of_inputs(str(machine.compiler), native.SOURCE))
    assert len(set(names)) == 6


def test_a_compiler_that_fails_is_reported_and_no_error(machine):
    machine.broken.touch()
    assert "is not compiled" in (output := machine.run()) and "internal compiler error" in output


def test_without_a_compiler_the_reason_is_given(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    compiled.library.cache_clear()
    assert "no C++ compiler was found" in (native.why_not() or "")
    assert "float16 is not compiled" in (native.why_not("float16") or "")
    assert native.why_not("float16", "cuda") is None
    compiled.library.cache_clear()


def test_a_change_of_an_included_header_gives_another_name(tmp_path):
    (tmp_path / "part.h").write_text("static int part = 1;\n")
    source = tmp_path / "whole.cpp"
    source.write_text('#include <cmath>\n#include "part.h"\n')
    before = compiled._hash_of_inputs("c++", source)
    (tmp_path / "part.h").write_text("static int part = 2;\n")
    assert compiled._hash_of_inputs("c++", source) != before
