"""The verb evaluate: its priors run on the device that is asked for."""

from __future__ import annotations

import pytest
import torch

from launch.cli.commands import main

FIGURES = {"songs": 0, "seconds": 0.0, "codec": {}, "priors": {}}


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
