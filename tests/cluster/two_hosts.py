"""One job over two hosts by ssh, pdsh and mpirun: the results, the report of a dead rank, and the remaining processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from jukebox.runs.run import Run
from launch.cli import main

STEPS = 120


def carried(hosts, carrier: str) -> tuple[list[str], dict[str, str]]:
    """Words and variables by which a carrier gets to the hosts with their own key."""
    ssh = hosts.folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {hosts.options} "$@"\n')
    ssh.chmod(0o755)
    words, variables = {
        "ssh": ([f"--options={hosts.options}"], {}),
        "pdsh": ([], {"PDSH_SSH_ARGS_APPEND": hosts.options}),
        "mpich": ([f"--options=-launcher ssh -launcher-exec {ssh} -localhost {hosts.here}"], {}),
        "openmpi": (
            [f"--options=--mca plm_rsh_agent {ssh} --mca oob_tcp_if_include {hosts.net}"],
            {"PATH": f"/usr/bin:{os.environ['PATH']}"},
        ),
    }[carrier]
    program = shutil.which({"mpich": "mpirun", "openmpi": "mpirun"}.get(carrier, carrier), path=variables.get("PATH"))
    if program is None:
        pytest.skip(f"no {carrier} here")
    if carrier in ("mpich", "openmpi"):
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        if {"mpich": "HYDRA", "openmpi": "Open MPI"}[carrier] not in said:
            pytest.skip(f"no {carrier} here")
    return ["--with", carrier, *words], variables


def end(process, seconds: float = 240) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    print(out, err)
    return process.returncode, out, err


@pytest.mark.parametrize("carrier", ["ssh", "pdsh", "mpich", "openmpi"])
def test_two_hosts_share_the_samples_of_a_run(hosts, tiny_model, tmp_path, carrier):
    words, variables = carried(hosts, carrier)
    ask = ["sample", str(tiny_model.folder), "--seconds", "0.3", "--takes", "2", "--seed", "5"]
    code, _, err = end(hosts.launch(*words, "--", *ask, "--out", str(tmp_path / "run"), **variables))
    assert (code, err) == (0, "")
    assert main([*ask, "--out", str(tmp_path / "alone")]) == 0
    run, alone = Run.open(tmp_path / "run"), Run.open(tmp_path / "alone")
    assert run.request["batches"] == [[0], [1]]  # a sample a host
    assert all(np.array_equal(run.codes(level), alone.codes(level)) for level in (2, 1, 0))


def test_two_hosts_train_one_codec_with_the_losses_of_one_process(hosts, training, losses, uninterrupted, tmp_path):
    words, variables = carried(hosts, "ssh")
    code, out, err = end(hosts.launch(*words, "--", *training(tmp_path / "model"), **variables))
    assert (code, err) == (0, "") and "2 ranks on 2 hosts" in out
    assert losses(tmp_path / "model") == pytest.approx(uninterrupted["two"], rel=1e-6)
    assert list(losses(tmp_path / "model").values())[:30] == pytest.approx(list(uninterrupted["one"].values())[:30], rel=1e-4)


@pytest.mark.parametrize("carrier", ["ssh", "pdsh", "mpich", "openmpi"])
def test_a_rank_that_dies_on_the_other_host_ends_the_job_and_the_next_start_goes_on(
    hosts, until, training, losses, uninterrupted, tmp_path, carrier
):
    words, variables = carried(hosts, carrier)
    command = [*words, "--", *training(tmp_path / "model")]
    job = hosts.launch(*command, **variables)
    until(lambda: len(losses(tmp_path / "model")) > 30)
    (rank,) = hosts.ranks(2)
    os.kill(rank, signal.SIGKILL)
    died = time.monotonic()
    code, _, err = end(job)
    print(f"the job ended {time.monotonic() - died:.1f} s after the rank")
    assert code != 0 and time.monotonic() - died < 30
    assert f"rank 1 on {hosts.addresses[1]} was killed by signal 9 (SIGKILL)" in err
    until(lambda: not hosts.processes(1) and not hosts.processes(2), 20)
    before = len(losses(tmp_path / "model"))
    assert before < STEPS
    code, *_ = end(hosts.launch(*command, **variables))
    assert code == 0 and losses(tmp_path / "model") == pytest.approx(uninterrupted["two"], rel=1e-6)


def test_a_host_whose_cable_is_pulled_is_named(hosts, until, training, losses, tmp_path):
    words, variables = carried(hosts, "ssh")
    words[-1] += " -o ServerAliveInterval=2 -o ServerAliveCountMax=3"
    job = hosts.launch(*words, "--", *training(tmp_path / "model", 100000), **variables)
    until(lambda: len(losses(tmp_path / "model")) > 5)
    subprocess.run(["ip", "link", "set", "jukebox-v2", "down"], check=True)
    pulled = time.monotonic()
    code, _, err = end(job)
    print(f"the job ended {time.monotonic() - pulled:.1f} s after the cable was pulled")
    assert code != 0 and f"lost rank 1 on {hosts.addresses[1]}" in err


def test_a_rank_that_stands_still_on_the_other_host_is_named_with_its_line(hosts, until, training, losses, tmp_path):
    words, variables = carried(hosts, "ssh")
    more = training(tmp_path / "model", 100000)
    job = hosts.launch(*words, "--patience", "20", "--", *more, **variables)
    until(lambda: len(losses(tmp_path / "model")) > 5)
    (rank,) = hosts.ranks(2)
    os.kill(rank, signal.SIGSTOP)
    code, _, err = end(job)
    assert code == 1 and f"Behind:\n  rank 1 on {hosts.addresses[1]}: step" in err and "its process is stopped" in err
    assert "waiting: rank 0: step" in err and "torch/" in (hosts.folder / "logs" / "0001" / "rank_0.log").read_text()
    until(lambda: not hosts.processes(1) and not hosts.processes(2), 20)
