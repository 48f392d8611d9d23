"""Commands that start a job on its hosts: ssh, pdsh, mpirun, srun, and the script of a SLURM job.

Each command starts the same agent (`launch/cluster/agent.py`), one per host, or with mpirun or srun one per rank. The user can
also run the printed commands by hand.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data_prep.errors import UserError
from launch.cluster.agent import MeetingPlace
from launch.cluster.supervise import Start

CARRIED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
CARRIED_PREFIXES = ("OMP_", "MKL_", "NCCL_", "GLOO_", "TORCH_", "DS_", "JUKEBOX_", "HF_HOME")
SSH = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
MPIRUN = {"mpich": "HYDRA", "openmpi": "Open MPI"}  # text in the output of --version
Carrier = Literal["ssh", "pdsh", "openmpi", "mpich", "srun"]


def carried_environment() -> list[str]:
    """Return NAME=value arguments with the environment of a remote rank: paths of programs, settings of libraries."""
    folders = [str(Path(sys.executable).parent), *os.environ.get("PATH", "").split(os.pathsep)]
    mine = {"PATH": os.pathsep.join(dict.fromkeys(folders))}  # the programs of this Python environment are first
    names = [name for name in os.environ if name in CARRIED or name.startswith(CARRIED_PREFIXES)]
    return [f"{name}={value}" for name, value in sorted(({n: os.environ[n] for n in names} | mine).items())]


def elsewhere(command: Sequence[str]) -> str:
    """Return a line for the shell of another host, which runs `command` in this folder and this environment."""
    return f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*carried_environment(), *command])}"


def agent(place: MeetingPlace, logs: Path, program: Sequence[str], host: str = "") -> list[str]:
    """Return the command of an agent for all ranks of `host`, or if empty, for the rank in the environment variables."""
    hosts = ",".join(f"{name}:{slots}" for name, slots in place.hosts)
    named = ["--host", host] if host else []
    command = [sys.executable, "-m", "launch.cluster.agent", "--hosts", hosts, *named, "--master", place.master]
    return [*command, "--logs", str(logs), "--", *program]


def commands(
    carrier: Carrier | None, place: MeetingPlace, logs: Path, program: Sequence[str], options: Sequence[str]
) -> list[Start]:
    """Return the commands that start all ranks of `place`. If `carrier` is None, all ranks are on this machine."""
    everyone, names, more = range(place.world), [name for name, _ in place.hosts], list(options)
    alone = agent(place, logs, program)
    if carrier is None:
        return [Start(tuple(agent(place, logs, program, names[0])), everyone)]
    if carrier == "ssh":
        lines = {name: elsewhere(agent(place, logs, program, name)) for name in names}
        return [Start(("ssh", *more, *SSH, name, line), place.ranks_of(name)) for name, line in lines.items()]
    if carrier == "pdsh":  # pdsh replaces %h by the name of the host
        line = elsewhere(agent(place, logs, program, "%h"))
        return [Start(("pdsh", "-R", "ssh", "-S", "-f", "1024", *more, "-w", ",".join(names), line), everyone)]
    if carrier == "srun":
        nodes = ["--nodes", str(len(names)), "--ntasks", str(place.world), "--distribution", "block"]
        return [Start(("srun", *nodes, "--kill-on-bad-exit=1", "--export=ALL", *more, *alone), everyone)]
    words = mpirun(carrier, place)
    return [Start((words[0], *more, *words[1:], *alone), everyone)]


def mpirun(carrier: Literal["openmpi", "mpich"], place: MeetingPlace) -> list[str]:
    """Return mpirun with its options. Binding is off, because Open MPI would bind each rank to one core."""
    here = place.hosts[0][0] == "localhost"
    hosts = ",".join(f"{name}:{slots}" for name, slots in place.hosts)
    environment = ["env", *carried_environment()]  # `env` works with every MPI, whose options for variables differ
    if carrier == "mpich":
        return ["mpirun", "-n", str(place.world), *([] if here else ["-hosts", hosts]), *environment]
    root = ["--allow-run-as-root"] * (os.geteuid() == 0)
    return ["mpirun", *root, "-n", str(place.world), "--host", hosts, "--bind-to", "none", *environment]


def check_carrier(carrier: Carrier | None) -> None:
    """Raise UserError if the program of `carrier` is not installed, or if mpirun belongs to another MPI."""
    program = {"openmpi": "mpirun", "mpich": "mpirun"}.get(carrier or "", carrier)
    if program and shutil.which(program) is None:
        raise UserError(f"--with {carrier} needs {program}, which is not on the PATH of this machine")
    if carrier in MPIRUN:
        output = subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
        if MPIRUN[carrier] not in output:
            first = (output.splitlines() or ["nothing"])[0]
            raise UserError(f"--with {carrier}: the mpirun on the PATH is another one ({first.strip()!r})")


def batch_script(
    words: Sequence[str], logs: Path, nodes: int, ranks: int, time: str, partition: str, patience: float, options: Sequence[str]
) -> str:
    """Return a script for sbatch that runs `jukebox launch --with srun` and requeues the job before the time limit.

    Two minutes before the limit the ranks write a checkpoint and end, and the job is requeued. If the scheduler kills the job,
    the requeued job resumes from the last checkpoint. `scancel` ends the job permanently.
    """
    asked = [f"--job-name=jukebox-{words[0]}", f"--nodes={nodes}", f"--ntasks-per-node={ranks}"]
    asked += [f"--{name}={value}" for name, value in (("time", time), ("partition", partition)) if value]
    asked += ["--requeue", "--open-mode=append", "--signal=B:USR1@120", f"--output={logs}/slurm-%j.out"]
    asked += [shlex.join(options)] * bool(options)  # on one line, because an option and its value may be two words
    inner = [sys.executable, "-m", "launch.cli", "launch", "--with", "srun", "--logs", str(logs)]
    inner += ["--patience", f"{patience:g}", "--", *words]
    head = ["#!/bin/bash", *(f"#SBATCH {word}" for word in asked), f"cd {shlex.quote(os.getcwd())}"]
    head += [f"export {shlex.quote(pair)}" for pair in carried_environment()]
    body = f"""
again=
trap 'again=yes; kill -TERM $job' USR1    # the time limit is near: what is done is kept, the rest comes later
trap 'kill -TERM $job' TERM               # scancel, preemption or requeue: the scheduler knows what comes next
{shlex.join(inner)} &
job=$!
wait $job; code=$?
while kill -0 $job 2>/dev/null; do wait $job; code=$?; done    # a trap ends the first wait
if [ -n "$again" ] && [ $code -ne 0 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
"""
    return "\n".join([*head, body])
