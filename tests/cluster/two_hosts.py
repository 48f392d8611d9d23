"""One job over two hosts by ssh, pdsh and mpirun: what comes out, what is said when a rank dies, and what stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from jukebox.run import Run
from launch.cli import main


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
