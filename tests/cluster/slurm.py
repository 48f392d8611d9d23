"""One job over two SLURM nodes, by the script that `jukebox launch --slurm` writes; taken off its nodes, it goes on later."""

from __future__ import annotations

import re

import pytest

STEPS = 120


def submit(slurm, words: list[str]) -> str:
    """The number of the job that trains on both nodes."""
    command = ["python", "-m", "launch.cli", "launch", "--slurm", "--nodes", "2", "--ranks_per_node", "1", "--time", "30"]
    return re.search(r"Submitted batch job (\d+)", slurm.run(*command, "--", *words))[1]


def test_the_script_passes_the_schedulers_own_check(slurm, training, tmp_path):
    command = ["python", "-m", "launch.cli", "launch", "--slurm", "--nodes", "2", "--ranks_per_node", "2", "--time", "1-0"]
    (tmp_path / "script").write_text(slurm.run(*command, "--partition", "all", "--print", "--", *training(tmp_path / "model")))
    slurm.run("sbatch", "--test-only", str(tmp_path / "script"))
    (tmp_path / "wrong").write_text((tmp_path / "script").read_text().replace("--partition=all", "--partition=none"))
    with pytest.raises(AssertionError, match="invalid partition"):
        slurm.run("sbatch", "--test-only", str(tmp_path / "wrong"))


@pytest.mark.parametrize("params, asked", [
    (["scontrol", "requeue"], False),  # the nodes are taken away at once: the last checkpoint counts, or one more if there is time
    (["scancel", "--batch", "--signal=USR1"], True),  # as two minutes before the time limit: a checkpoint is written first
])  # fmt: skip
def test_a_job_that_is_requeued_in_the_middle_goes_on_to_the_same_losses(
    slurm, until, training, losses, uninterrupted, tmp_path, params, asked
):
    job = submit(slurm, training(tmp_path / "model"))
    until(lambda: len(losses(tmp_path / "model")) > 30)
    slurm.run(*params, job)
    until(lambda: (slurm.folder / "logs" / "0002").exists())
    kept = max(int(path.name[5:]) for path in (tmp_path / "model" / "training" / "vqvae_2").glob("step_*"))
    stopped = re.search(r"stopped at step (\d+) of", slurm.output(job))
    assert 30 <= len(losses(tmp_path / "model")) < STEPS and (stopped or not asked)
    assert kept == int(stopped[1]) if stopped else (kept >= 30 and kept % 10 == 0)  # what the next start goes on from
    until(lambda: slurm.state(job) in ("COMPLETED", "FAILED", "CANCELLED"))
    print(slurm.output(job))
    assert slurm.state(job) == "COMPLETED", slurm.output(job)
    assert losses(tmp_path / "model") == pytest.approx(uninterrupted["two"], rel=1e-6)


def test_scancel_ends_the_job_for_good(slurm, until, training, losses, tmp_path):
    job = submit(slurm, training(tmp_path / "model", 100000))
    until(lambda: len(losses(tmp_path / "model")) > 20)
    slurm.run("scancel", job)
    until(lambda: not slurm.run("squeue", "-h").strip())
    assert slurm.state(job) == "CANCELLED" and list((tmp_path / "model" / "training" / "vqvae_2").glob("step_*"))
