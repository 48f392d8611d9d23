"""Ctrl-C: one line and exit code 130; what is kept is named where something is kept, and only there."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from data_prep.audio.audio import write_wav
from data_prep.errors import keeping
from data_prep.synthetic.songs import make_song
from jukebox.runs import request
from jukebox.runs.run import Run
from jukebox.sampling.sampler import LevelSampler
from launch.cli import main
from launch.verbs import codec


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def interrupted(words: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(words) == 130
    lines = [line for line in capsys.readouterr().err.splitlines() if "interrupted" in line]
    assert len(lines) == 1
    return lines[0]


def test_nothing_is_promised_before_there_is_a_run_and_its_resumption_is_named_once_there_is(
    tiny_model, tmp_path, capsys, monkeypatch
):
    words = ["sample", str(tiny_model.folder), "--seconds", "0.1", "--levels", "2", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(request, "sampled", stop)
        assert interrupted(words, capsys) == "interrupted" and not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr(LevelSampler, "fill", stop)
        assert (
            interrupted(words, capsys)
            == f"interrupted; {tmp_path / 'run'} keeps what is made: go on with `jukebox resume {tmp_path / 'run'}`"
        )
    assert main(["resume", str(tmp_path / "run")]) == 0 and Run.open(tmp_path / "run").count(2)


def test_of_a_folder_of_files_those_that_are_done_are_named(tiny_model, tmp_path, capsys, monkeypatch):
    for name in "ab":
        (tmp_path / "in").mkdir(exist_ok=True)
        write_wav(tmp_path / "in" / f"{name}.wav", make_song(0, seconds=1.0).audio, tiny_model.sample_rate)
    words = ["codec", "reconstruct", str(tmp_path / "in"), "--model", str(tiny_model.folder), "--out", str(tmp_path / "out")]
    made = codec.reconstruct_file

    def first_only(loaded: Any, path: Path, *rest: Any) -> int:
        return stop() if path.stem == "b" else made(loaded, path, *rest)  # type: ignore[func-returns-value]

    with monkeypatch.context() as patch:
        patch.setattr(codec, "reconstruct_file", stop)
        assert interrupted(words, capsys) == "interrupted"
    monkeypatch.setattr(codec, "reconstruct_file", first_only)
    assert interrupted(words, capsys) == f"interrupted; the files that are done are kept in {tmp_path / 'out'}"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_an_interruption_that_a_library_suppresses_is_reported(tiny_model, tmp_path, capsys, monkeypatch):
    def suppressed(*_: Any, **__: Any) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        return 1

    write_wav(tmp_path / "a.wav", make_song(0, seconds=1.0).audio, tiny_model.sample_rate)
    words = [
        "codec",
        "reconstruct",
        str(tmp_path / "a.wav"),
        "--model",
        str(tiny_model.folder),
        "--out",
        str(tmp_path / "b.wav"),
    ]
    monkeypatch.setattr(codec, "reconstruct_file", suppressed)
    assert interrupted(words, capsys) == "interrupted"


def test_the_innermost_block_names_what_is_kept():
    with pytest.raises(KeyboardInterrupt) as caught, keeping("outer", lambda: True), keeping("inner", lambda: True):
        stop()
    assert caught.value.args == ("inner",)
    with pytest.raises(KeyboardInterrupt) as caught, keeping("nothing", lambda: []):
        stop()
    assert caught.value.args == ()
