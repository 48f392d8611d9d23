"""The code blocks of a page, run in order in a scratch folder: `python -m tests.blocks FOLDER PAGE ..`.

Blocks of `bash` and `python` are run, those of `text`, `toml` and others are not. Comments of HTML change what is run, not what is shown:

    <!-- given: MUSIC MODEL OLD=MODEL -->                   what the page presupposes: copies of toys
    <!-- run: --preset test; sample --seconds 1 -->         flags of all verbs that have them, or of one verb; they replace those shown
    <!-- run: seconds=1 -->                                 keyword arguments of a block of Python
    <!-- run: no, needs a GPU -->                           the next block is not run, and why

Verbs run in this process. `jukebox launch` prints what it would start, which the shell parses; `make` does a dry run; of `pip install`
the extras are looked up. Other launchers are not started: `tests/test_pages.py` parses their commands.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.cli.commands import VERBS, load, main
from launch.cli.usage import read_usage
from tests.census import ROOT

PART = re.compile(r"^<!-- (given|run): (.*?) -->$|^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LAUNCHERS = ("torchrun", "deepspeed", "mpirun", "srun", "source")


@dataclass(frozen=True)
class Block:
    """A code block; `given` are the toys it presupposes, `run` is the text of its directive."""

    page: Path
    line: int
    kind: str
    code: str
    given: tuple[str, ...] = ()
    run: str = ""

    @property
    def is_skipped(self) -> bool:
        return self.run.partition(",")[0] == "no"

    @property
    def reason(self) -> str:
        """Why it is not run."""
        return self.run.partition(",")[2].strip()

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, each with the directives before it."""
    text, blocks, given, run = page.read_text("utf-8"), [], "", ""
    for match in PART.finditer(text):
        what, directive, kind, code = match.groups()
        if what == "given":
            given += f" {directive}"
        elif what:
            run = directive
        else:
            line = text.count("\n", 0, match.start()) + 1
            blocks.append(Block(page, line, kind, code, tuple(given.split()), run))
            given, run = "", ""
    return blocks


class Failure(AssertionError):
    """A block that does not run."""


@dataclass
class PageRun:
    """Runs blocks in the working directory; Python blocks share their names."""

    give: Callable[[str], None]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})

    def __call__(self, block: Block) -> None:
        for name in block.given:
            self.give(name)
        if block.is_skipped or block.kind not in ("bash", "python"):
            return
        try:
            if block.kind == "python":
                self._python(block)
            else:
                for line in filter(None, map(str.strip, block.code.splitlines())):
                    run_line(line, read_changes(block.run))
        except Exception as error:
            raise Failure(f"{block}: {type(error).__name__}: {error}") from error

    def _python(self, block: Block) -> None:
        code = block.code
        for name, _, value in (word.partition("=") for word in block.run.split()):
            code = re.sub(rf"\b{name}=[^,)]+", f"{name}={value}", code)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            exec(compile("\n" * block.line + code, block.page, "exec"), self.names)


def read_changes(directive: str) -> list[tuple[str, str, list[str]]]:
    """(verb or "", flag, its values) of a directive for shell blocks."""
    changes = []
    for part in filter(None, directive.split(";")):
        words = shlex.split(part)
        verb = "" if words[0].startswith("--") else words.pop(0)
        starts = [i for i, word in enumerate(words) if word.startswith("--")]
        changes += [(verb, words[i][2:], words[i + 1 : end]) for i, end in zip(starts, [*starts[1:], len(words)])]
    return changes


def adapt(words: list[str], changes: list[tuple[str, str, list[str]]]) -> list[str]:
    """The words after `jukebox` with the changed flags; a change without a verb is for each that has the flag."""
    verb, *rest = words
    head, tail = (rest[: rest.index("--")], rest[rest.index("--") :]) if "--" in rest else (rest, [])
    known = {flag.name: flag for flag in read_usage(verb, load(VERBS[verb][0])).flags}
    for only, name, values in changes:
        if only == verb or (not only and name in known):
            if f"--{name}" in head:
                at = head.index(f"--{name}")
                del head[at : at + (1 if name in known and known[name].kind is bool else 2)]
            head += [f"--{name}", *values]
    return [verb, *head, *tail]


def run_line(line: str, changes: list[tuple[str, str, list[str]]]) -> None:
    """Run one line of a shell block."""
    words = shlex.split(line, comments=True)
    if words[:3] == ["python3", "-m", "launch.cli"]:
        words[:3] = ["jukebox"]
    if not words or words[0] in LAUNCHERS:
        return
    if words[0] == "make":
        check(["make", "-n", *words[1:]], cwd=ROOT)
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", words[-1])))
        missing = [name for name in extras if f"\n{name} = [" not in (ROOT / "pyproject.toml").read_text("utf-8")]
        assert extras and not missing, f"{line}: no extra {missing}"
    elif words[0] == "jukebox":
        launch = words[1] == "launch"
        printed = call(adapt(words[1:], changes + [("launch", "print", [])] * launch))
        if launch:
            check(["bash", "-n"], input=printed)
    else:
        check(["bash", "-euc", line])


def call(words: list[str]) -> str:
    """Run a verb in this process; what it printed. Raises where its exit code is not 0."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code: Any = main(words)
        except SystemExit as end:
            code = end.code
    if code:
        raise Failure(f"jukebox {shlex.join(words)}: exit code {code}: {err.getvalue()[-1000:]}")
    return out.getvalue()


def check(command: list[str], **more: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr[-1000:]}"


class Toys:
    """What pages presuppose: small music, a model of both codecs with random weights, its codes and a run, made once in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def give(self, name: str) -> None:
        """Copy a toy into the working directory: its name, or `NAME=TOY`."""
        target, _, kind = name.partition("=")
        made, place = self.made(kind or target), Path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, place) if made.is_dir() else shutil.copy(made, place)
        if made.name == "DATA" and not Path("MUSIC").exists():  # whose songs it lists
            self.give("MUSIC")

    def made(self, kind: str) -> Path:
        path = self.root / kind
        if not path.exists():
            {"MUSIC": _music, "MODEL": _model, "DATA": self._data, "RUN": self._run, "vqvae.pth.tar": _published}.get(
                kind, _file
            )(path)
        return path

    def _data(self, path: Path) -> None:
        call(["prepare", str(self.made("MUSIC")), "--out", str(path), "--workers", "1", "--test_share", "0.4"])
        call(["encode", str(path), str(self.made("MODEL"))])
        from data_prep.manifest import load_manifest
        from launch.corpus.controls import FILE

        # beats are not looked for: librosa compiles its tracker
        measured = {row.hash: {"tempo": 100.0, "onsets": [0.5, 1.0, 1.5]} for row in load_manifest(path)}
        (path / FILE).write_text(json.dumps(measured))

    def _run(self, path: Path) -> None:
        lyrics = str(self.made("words.txt"))
        call(["sample", str(self.made("MODEL")), "--seconds", "1", "--takes", "2", "--lyrics", lyrics, "--out", str(path)])


def _music(path: Path) -> None:
    for number in range(8):
        song = path / ("ann", "bob")[number % 2] / f"song {number}.wav"
        song.parent.mkdir(parents=True, exist_ok=True)
        _sound(song, 220 + 60 * number)
        song.with_suffix(".lrc").write_text("[00:00.20]late sun goes\n[00:01.00]down and down\n")


def _sound(path: Path, pitch: float) -> None:
    import numpy as np
    import soundfile

    at = np.arange(6 * 22050) / 22050
    beats = 0.3 + 0.7 * (at % 0.5 < 0.1)
    soundfile.write(path, 0.3 * beats * np.sin(2 * np.pi * pitch * at * (1 + at / 90)), 22050)


def _model(path: Path) -> None:
    from jukebox.model.presets import find
    from tests.conftest import make_model, random_prior

    model = make_model(path, presets=("test", "test_spectral"))
    for preset, name in (("test", "masked"), ("test_spectral", "masked_tokens")):
        model.save_prior(name, random_prior(find(preset).priors[name]))


def _published(path: Path) -> None:
    from tests.launch.verbs.test_import import checkpoint

    checkpoint(path)


def _file(path: Path) -> None:
    texts = {"words.txt": "late sun goes\ndown and down\n", "hosts": "node01 slots=8\nnode02 slots=8\n"}
    if path.name in texts:
        path.write_text(texts[path.name])
    else:
        _sound(path, 330)


def run_pages(folder: Path, pages: list[Path]) -> Iterator[str]:
    """A line for each block that fails; later blocks are run all the same."""
    toys = Toys(folder / "toys")
    toys.root.mkdir(parents=True)
    for page in pages:
        (folder / page.name).mkdir()
        os.chdir(folder / page.name)
        run = PageRun(toys.give)
        for block in read_blocks(page):
            try:
                run(block)
            except Failure as failure:
                yield str(failure)


if __name__ == "__main__":
    failures = list(run_pages(Path(sys.argv[1]).resolve(), [Path(name).resolve() for name in sys.argv[2:]]))
    print(*failures, sep="\n")
    sys.exit(bool(failures))
