"""Numbers that no machine can hold are rejected by arithmetic, before anything is written or grows."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.device import _left_in_groups, available_memory
from jukebox.model.presets import find
from jukebox.planning import sampling
from jukebox.song import Song
from launch.cli import main
from launch.training.tasks.task import TaskSetup
from launch.training.train import check_batch

SAMPLE = ["sample", "MODEL", "--out", "OUT"]
PLAN = ["plan", "sample", "MODEL"]


def run(words: list[str], model: Jukebox, out: Path) -> int:
    return main([{"MODEL": str(model.folder), "OUT": str(out)}.get(word, word) for word in words])


@pytest.mark.parametrize("words", [
    [*SAMPLE, "--seconds", "1e9"], [*SAMPLE, "--seconds", "1e300"], [*SAMPLE, "--takes", "100000000000"], [*PLAN, "--seconds", "1e9"],
    [*PLAN, "--takes", "100000000000"], [*SAMPLE, "--takes", "1" + 20 * "0"], [*SAMPLE, "--total_seconds", "1e300"],
    [*SAMPLE, "--threads", "100000000"], [*SAMPLE, "--threads", "-5"], [*SAMPLE, "--batch", "1000000000000"], [*PLAN, "--batch", "-1"],
    ["plan", "train", "MODEL", "--batch", "1000000000000"], ["evaluate", "MODEL", "DATA", "--windows", "1000000000000"],
    ["demo", "--out", "OUT", "--songs", "1000000000000"], ["demo", "--out", "OUT", "--seconds", "1e9"], [*SAMPLE, "--seed", "1" + 30 * "0"],
], ids=" ".join)  # fmt: skip
def test_an_absurd_number_is_one_line_at_once_and_nothing_is_written(words, tiny_model, tmp_path, capsys):
    began = time.process_time()
    assert run(words, tiny_model, tmp_path / "run") == 2
    assert time.process_time() - began < 2 and not (tmp_path / "run").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and any(word in error for word in ("GB are available", "up to", "expected"))


def test_a_run_predicted_above_the_memory_that_is_left_does_not_begin(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sampling, "available_memory", lambda: 300_000_000)
    assert run([*SAMPLE, "--seconds", "0.1"], tiny_model, tmp_path / "run") == 2
    assert "GB of memory (level" in capsys.readouterr().err and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="of which 0.30 GB are available"):
        tiny_model.generate(Song(), seconds=0.1)


def test_the_memory_that_is_left_is_that_of_the_smallest_control_group_with_its_droppable_files(tmp_path):
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    inner = tmp_path / "v2" / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder, limit, used in ((inner, "max", 5), (inner.parent, "1000", 300)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 40\n")
    (tmp_path / "groups").write_text("0::/outer/inner\n")
    assert list(_left_in_groups(tmp_path / "groups", tmp_path / "v2")) == [740]


@pytest.mark.parametrize("what", ["vqvae", "prior"])
def test_a_batch_that_memory_cannot_hold_is_refused_before_training(what, tiny_model, tmp_path):
    preset, part = find("test"), "vq.2" if what == "vqvae" else "prior_2"
    config = preset.priors.get(part)
    recipe = preset.parts("vqvae")[part] if what == "vqvae" else preset.prior_recipes[part]
    setup = TaskSetup(tiny_model, part, tmp_path, recipe, 0, "cpu", config)
    check_batch(setup, 1, 1)
    huge = replace(setup, recipe=replace(recipe, batch=10**9))
    with pytest.raises(UserError, match="a step of 1,000,000,000 rows takes .* GB"):
        check_batch(huge, 1, 1)
