"""`jukebox launch`: the same verb in many processes, on one machine, on the hosts of a list, or in a SLURM job.

ssh, pdsh, mpirun or srun starts a small agent (`launch/cluster/agent.py`) on every host. The agent sets torchrun's variables
for each rank (its number and the address of rank 0) and supervises the rank. The watcher (`launch/cluster/supervise.py`) runs
on the user's machine. All hosts must see data, model and logs under the same names. There is no state between two starts: every
start has a new port and a new folder of logs.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.errors import UserError
from launch.cli.commands import VERBS, load
from launch.cli.usage import nearest, read_arguments, read_usage, shared_flags
from launch.cluster.agent import MeetingPlace
from launch.cluster.carriers import Carrier, batch_script, check_carrier, commands
from launch.cluster.ranks import COLLECTIVE_TIMEOUT
from launch.cluster.supervise import Job

# verbs that divide their work between ranks; with any other verb, every rank would do the whole work
SHARED = ("train", "prepare", "encode", "sample", "continue", "branch", "upsample", "resume")


def read_hostfile(path: str) -> tuple[tuple[str, int], ...]:
    """Read ((name, ranks), ...) from a file with one line per host: `name`, `name slots=8` or `name:8`; # begins a comment."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--hostfile {path} cannot be read ({error}); expected a line a host: name slots=8") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].replace(":", " ").replace("slots=", " ").split()
        if not words:
            continue
        slots = words[1] if len(words) > 1 else "1"
        if len(words) > 2 or not slots.isdigit() or not int(slots) or words[0].startswith("-"):
            raise UserError(f"line {number} of {path} is {line.strip()!r}; expected a host and its ranks: name slots=8")
        if words[0] in hosts:
            raise UserError(f"{words[0]} stands twice in {path}; give it one line with all its slots")
        hosts[words[0]] = int(slots)
    if not hosts:
        raise UserError(f"{path} names no host; expected a line a host: name slots=8")
    return tuple(hosts.items())


def allocation() -> tuple[tuple[str, int], ...]:
    """Return ((host, ranks), ...) of the SLURM job of this process; UserError outside of a job with --ntasks-per-node."""
    try:
        nodes, ranks = os.environ["SLURM_JOB_NODELIST"], int(os.environ["SLURM_NTASKS_PER_NODE"])
    except (KeyError, ValueError):
        raise UserError(
            "--with srun works inside a SLURM job with --ntasks-per-node; jukebox launch --slurm submits one"
        ) from None
    names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True).stdout
    return tuple((name, ranks) for name in names.split())


def address_of(host: str, carrier: Carrier | None) -> str:
    """Return the address of a host for other hosts. The address of a SLURM node may differ from its name."""
    if carrier != "srun":
        return "127.0.0.1" if host == "localhost" else host
    output = subprocess.run(["scontrol", "show", "node", host], capture_output=True, text=True, check=True).stdout
    return next((word.partition("=")[2] for word in output.split() if word.startswith("NodeAddr=")), host)


def check_words(words: Sequence[str], ranks: int) -> None:
    """Raise UserError if the verb or its arguments are wrong, or if a verb for several ranks does not divide its work."""
    if not words:
        raise UserError("what is to run is missing; write it behind --: jukebox launch --ranks 2 -- train prior DATA")
    verb = words[0]
    if verb not in VERBS or verb == "launch":
        raise UserError(f"there is no verb {verb!r} to launch{nearest(verb, list(VERBS))} (jukebox --help lists them)")
    if ranks > 1 and verb not in SHARED:
        raise UserError(f"{verb} does not share its work between ranks; these do: {', '.join(SHARED)}")
    read_arguments(read_usage(verb, load(VERBS[verb][0])), words[1:])


def free_port() -> int:
    """Find a free port on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fresh_folder(logs: Path) -> Path:
    """Create a new folder logs/0001, logs/0002, ... for a start, and return it."""
    logs.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in logs.iterdir() if path.name.isdigit()), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            (logs / f"{number:04d}").mkdir()
            return logs / f"{number:04d}"


@dataclass(frozen=True)
class PlacementParams:
    """Hosts, number of ranks, and starter.

    ranks: processes on this machine; 0: one per GPU, or one
    hostfile: file with a line a host: name slots=8
    with_: starter of the ranks; auto: ssh for a hostfile, else none; mpich or openmpi for `prepare`
    slurm: write a batch script that is requeued after time limit and preemption, and submit it
    nodes: hosts of the SLURM job
    ranks_per_node: ranks on each host, in place of the slots in the hostfile; SLURM: must be given
    """

    ranks: int = 0
    hostfile: str = ""
    with_: Literal["auto", "ssh", "pdsh", "openmpi", "mpich", "srun"] = "auto"
    slurm: bool = False
    nodes: int = 1
    ranks_per_node: int = 0

    @property
    def carrier(self) -> Carrier | None:
        """Program that starts the ranks. None: this process starts them on this machine."""
        return ("ssh" if self.hostfile else None) if self.with_ == "auto" else self.with_


@shared_flags
def launch(
    *words: str, placement: PlacementParams, time: str = "", partition: str = "", logs: str = "logs", patience: float = 900.0,
    options: str = "", print_: bool = False,
) -> None:  # fmt: skip
    """Run a verb in many processes: on this machine, on the hosts of a list, or in a SLURM job.

    All hosts must see the same files under the same names. Each rank has a log in a new folder below --logs; that of rank 0 is
    shown. If a rank dies, or makes no progress for --patience seconds, the job ends, and the rank, its host and the reason are
    printed. Ctrl-C lets all ranks finish their step. The same command continues the work.

    words: the verb of every rank with its arguments: train prior DATA --level 2
    time: time limit of the SLURM job, as sbatch takes it: 1-12:00:00
    partition: partition of the SLURM job
    logs: folder for logs that all hosts see
    patience: longest time without progress of any rank, in seconds, below 1800, after which ranks stop waiting for each other
    options: more words for ssh, pdsh, mpirun or srun, or #SBATCH lines, written with =: --options="--account=music
        --gpus-per-node=8"
    print_: print the commands without running them
    """
    carrier, folder, more = placement.carrier, Path(logs).resolve(), shlex.split(options)
    if not 0 < patience < COLLECTIVE_TIMEOUT:
        raise UserError(
            f"--patience got {patience:g}, expected seconds above 0 and below {COLLECTIVE_TIMEOUT:g}, because ranks stop "
            f"waiting for each other after that time and none would be named; a rank that writes makes progress"
        )
    if placement.slurm:
        nodes, ranks = placement.nodes, placement.ranks_per_node
        check_words(words, nodes * ranks)
        if nodes < 1 or ranks < 1 or placement.hostfile or placement.ranks or placement.with_ != "auto":
            raise UserError("--slurm takes --nodes N --ranks_per_node M, each at least 1, and no --ranks, --hostfile or --with")
        script = batch_script(words, folder, nodes, ranks, time, partition, patience, more)
        return print(script, end="") if print_ else submit(script, folder)
    hosts = places(carrier, placement.hostfile, placement.ranks, placement.ranks_per_node)
    check_words(words, sum(slots for _, slots in hosts))
    master = address_of(hosts[0][0], carrier)
    port = free_port() if len(hosts) == 1 and master == "127.0.0.1" else random.SystemRandom().randint(20000, 32000)
    place, program = MeetingPlace(hosts, f"{master}:{port}"), [sys.executable, "-m", "launch.cli", *words]
    if print_:
        return print(*(shlex.join(start.command) for start in commands(carrier, place, folder, program, more)), sep="\n")
    check_carrier(carrier)
    own = fresh_folder(folder)
    print(
        f"{place.world} rank{'s' * (place.world > 1)} on {len(hosts)} host{'s' * (len(hosts) > 1)}; logs in {own}", flush=True
    )
    if code := Job(commands(carrier, place, own, program, more), place, own, patience).run():
        raise SystemExit(code)


def places(carrier: Carrier | None, hostfile: str, ranks: int, ranks_per_node: int) -> tuple[tuple[str, int], ...]:
    """Return ((host, ranks), ...) of the SLURM job, of the hostfile, or of this machine."""
    if hostfile and ranks:
        raise UserError("--ranks is for this machine alone; with a --hostfile give --ranks_per_node, or slots in the file")
    if carrier == "srun":
        return allocation()
    if hostfile:
        return tuple((name, ranks_per_node or slots) for name, slots in read_hostfile(hostfile))
    if carrier in ("ssh", "pdsh"):
        raise UserError(f"--with {carrier} needs a --hostfile with a line a host: name slots=8")
    if ranks < 0 or ranks_per_node < 0:
        raise UserError(f"--ranks got {ranks or ranks_per_node}, expected a number of processes")
    count = ranks or ranks_per_node
    if not count:
        import torch

        count = max(torch.cuda.device_count(), 1)
    return (("localhost", count),)


def submit(script: str, logs: Path) -> None:
    """Write the script into the folder of logs and submit it with sbatch."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on the PATH of this machine; --print shows the script, to be submitted elsewhere")
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / "job.sbatch"
    path.write_text(script, "utf-8")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch rejected {path}: {done.stderr.strip()}")
    print(f"{done.stdout.strip()}; script {path}, output {logs}/slurm-JOB.out; scancel JOB ends it")
