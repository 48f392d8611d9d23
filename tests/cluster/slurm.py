"""One job over two SLURM nodes, by the script that `jukebox launch --slurm` writes."""

from __future__ import annotations

import re

import numpy as np

from jukebox.run import Run
from launch.cli import main


def submit(slurm, *words: str) -> str:
    """The number of the job."""
    said = slurm.run("python", "-m", "launch.cli", "launch", "--slurm", *words)
    return re.search(r"Submitted batch job (\d+)", said)[1]


def test_two_nodes_share_the_samples_of_a_run(slurm, until, tiny_model, tmp_path):
    ask = ["sample", str(tiny_model.folder), "--seconds", "0.3", "--takes", "2", "--seed", "5"]
    job = submit(
        slurm, "--nodes", "2", "--ranks_per_node", "1", "--time", "10", "--", *ask, "--out", str(tmp_path / "run")
    )
    until(lambda: slurm.state(job) in ("COMPLETED", "FAILED"))
    assert slurm.state(job) == "COMPLETED", slurm.output(job)
    assert main([*ask, "--out", str(tmp_path / "alone")]) == 0
    run, alone = Run.open(tmp_path / "run"), Run.open(tmp_path / "alone")
    assert run.request["batches"] == [[0], [1]]
    assert all(np.array_equal(run.codes(level), alone.codes(level)) for level in (2, 1, 0))
