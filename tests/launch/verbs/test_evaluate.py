"""The verb evaluate: its priors run on the device that is asked for."""

from __future__ import annotations

import json

import pytest
import torch

from launch.cli.commands import main

FIGURES: dict = {"songs": 0, "seconds": 0.0, "codec": {}, "priors": {}}


def test_a_gpu_that_is_not_there_is_one_line_before_songs_are_read(tiny_model, tmp_path, capsys):
    assert main(["evaluate", str(tiny_model.folder), str(tmp_path / "nowhere"), "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert (
        error
        == "jukebox evaluate: there is no GPU here for --device cuda; use --device cpu (its results differ from a GPU's)\n"
    )


@pytest.mark.parametrize(("given", "chosen"), [("cuda:1", "cuda:1"), ("auto", "cuda"), ("cpu", "cpu")])
def test_priors_are_measured_on_the_device_that_is_asked_for(given, chosen, tiny_model, tmp_path, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("jukebox.evaluation.figures.evaluate_model", lambda *_, device, **__: seen.append(device) or FIGURES)
    out = str(tmp_path / "evaluation.json")
    assert main(["evaluate", str(tiny_model.folder), str(tmp_path), "--device", given, "--out", out]) == 0
    assert seen == [chosen]


@pytest.fixture
def quick(monkeypatch) -> list[str]:
    """Figures without measuring; the data folders that would be."""
    seen: list[str] = []
    measured = lambda _, data, **__: seen.append(data.name) or dict(FIGURES)  # noqa: E731
    monkeypatch.setattr("jukebox.evaluation.figures.evaluate_model", measured)
    return seen


def test_a_file_that_cannot_be_written_is_one_line_before_the_work(quick, tiny_model, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "out.json"):
        assert main(["evaluate", str(tiny_model.folder), str(tmp_path / "data"), "--out", str(out), "--device", "cpu"]) == 2
        assert f"{out} cannot be written" in capsys.readouterr().err
    assert not quick


def test_figures_of_other_data_are_kept(quick, tiny_model, tmp_path, capsys):
    out = str(tmp_path / "out.json")
    for data, code in (("one", 0), ("two", 2), ("one", 0)):
        (tmp_path / data).mkdir(exist_ok=True)
        (tmp_path / data / "manifest.parquet").write_bytes(data.encode())
        words = ["evaluate", str(tiny_model.folder), str(tmp_path / data), "--out", out, "--device", "cpu"]
        assert main(words) == code
    assert "holds figures of one, not of two; name another --out" in capsys.readouterr().err
    assert quick == ["one", "one"] and json.loads((tmp_path / "out.json").read_text())["data"]["path"] == "one"
    (tmp_path / "one").rename(tmp_path / "moved")
    assert main(["evaluate", str(tiny_model.folder), str(tmp_path / "moved"), "--out", out, "--device", "cpu"]) == 0


def test_a_file_that_is_no_evaluation_is_not_overwritten(quick, tiny_model, tmp_path, capsys):
    (tmp_path / "notes.json").write_text("my notes")
    words = ["evaluate", str(tiny_model.folder), str(tmp_path), "--out", str(tmp_path / "notes.json"), "--device", "cpu"]
    assert main(words) == 2 and (tmp_path / "notes.json").read_text() == "my notes"
