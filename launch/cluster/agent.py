"""The agent: starts and supervises the ranks of its host. `jukebox launch` starts one agent per host.

With ssh, pdsh or on the user's machine, an agent has all ranks of its host. mpirun and srun start one agent per rank, and each
agent has one rank. Agents, ranks and the watcher communicate by files in a shared folder:

    rank_3.log    output of the rank               rank_3.beat   heartbeat of the rank (launch/cluster/heartbeat.py)
    rank_3.end    end of the rank, as JSON         stop, where   requests of the watcher: end the ranks; report their stacks

A rank ends with its agent, and an agent ends with its launcher. So a killed launcher leaves no process that holds a lock, a
port or a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.pool import usable_cores
from launch.cluster.heartbeat import VARIABLE
from launch.cluster.ranks import rank_and_ranks

PATIENCE = 60.0  # seconds that a rank has to end on request, because it may be writing a checkpoint
SHORT = 5.0  # seconds that a rank has to end after another rank has died, because collectives cannot complete
POLL = 0.1
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class MeetingPlace:
    """The hosts of a job as ((name, number of ranks), ...), and the address of rank 0, to which all ranks connect."""

    hosts: tuple[tuple[str, int], ...]
    master: str

    @property
    def world(self) -> int:
        return sum(slots for _, slots in self.hosts)

    def ranks_of(self, host: str) -> range:
        """Return the numbers of the ranks on a host. Numbers are assigned in the order of the hosts."""
        first = 0
        for name, slots in self.hosts:
            if name == host:
                return range(first, first + slots)
            first += slots
        raise UserError(f"there is no host {host!r} among {', '.join(name for name, _ in self.hosts)}")

    def host_of(self, rank: int) -> str:
        return next(name for name, _ in self.hosts if rank in self.ranks_of(name))

    def environment(self, rank: int) -> dict[str, str]:
        """Return the environment variables of a rank, under the names that torchrun uses."""
        host = self.host_of(rank)
        here, names = self.ranks_of(host), [name for name, _ in self.hosts]
        address, _, port = self.master.rpartition(":")
        found = {
            "RANK": rank,
            "WORLD_SIZE": self.world,
            "LOCAL_RANK": rank - here.start,
            "LOCAL_WORLD_SIZE": len(here),
            "GROUP_RANK": names.index(host),
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            # the ranks of a host divide its cores, unless the user sets the variable
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, usable_cores() // len(here))),
        }
        if len(names) > 1 and (interface := interface_to(names[1] if names[0] == host else address)):
            # without these variables gloo uses the address of the host name, which is 127.0.1.1 on many machines
            found |= {name: os.environ.get(name, interface) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
        return {name: str(value) for name, value in found.items()}


def interface_to(host: str) -> str:
    """Return the name of the network interface for packets to `host`; empty if unknown."""
    import fcntl

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = name.encode()[:15].ljust(40, b"\0")
                address = socket.inet_ntoa(fcntl.ioctl(probe.fileno(), 0x8915, request)[20:24])  # SIOCGIFADDR
                if address == own and not own.startswith("127."):
                    return name
    return ""


class Rank:
    """One rank: a process in a new session. Its output goes to a file."""

    def __init__(self, number: int, place: MeetingPlace, logs: Path, program: Sequence[str]) -> None:
        self.number, self.place, self.logs, self.asked_to_stop = number, place, logs, False
        environment = os.environ | place.environment(number) | {VARIABLE: str(self._file("beat"))}
        # unbuffered, so that the last output before a crash is kept
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        with self._file("log").open("ab") as log:
            self.process = subprocess.Popen(
                program,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C for the watcher must not reach the ranks a second time
                close_fds=False,  # mpirun communicates with its processes by an inherited pipe
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def _file(self, what: str) -> Path:
        return self.logs / f"rank_{self.number}.{what}"

    def ended(self) -> int | None:
        """Return the exit code of the process (negative: a signal), or None while the process runs.

        The first call after the end reports the code to the watcher.
        """
        code = self.process.poll()
        if code is not None and not self._file("end").exists():
            metadata = {"code": code, "host": self.place.host_of(self.number), "told": self.asked_to_stop, "time": time.time()}
            write_json(self._file("end"), metadata)
        return code

    def stop(self) -> None:
        """Ask the rank once to end after the current step. A second signal would end the rank immediately."""
        if not self.asked_to_stop and self.process.poll() is None:
            self.asked_to_stop = True
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the process and all its child processes."""
        if self.process.poll() is None:
            self.asked_to_stop = True
            os.killpg(self.process.pid, signal.SIGKILL)

    def report_stack(self) -> None:
        """Make the rank write its stack into its log, after a line with the state of the process.

        A stopped process cannot write its stack.
        """
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            with self._file("log").open("a") as log:
                log.write(f"\nasked where it is; state of the process: {state}\n")
        if self._file("beat").exists():  # the rank handles the signal only after it has opened this file
            self.process.send_signal(signal.SIGUSR1)


def die_with_parent(number: int) -> Callable[[], None] | None:
    """Return a function that a child process calls before exec, or None if the system is not Linux.

    The function asks the system to send the signal `number` to the child when the parent dies.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(DIE_WITH_PARENT, number)


def look_after(ranks: Sequence[Rank], logs: Path) -> int:
    """Wait for all ranks, and return the exit code of the first failed rank, or 0.

    Ranks are asked to stop if the watcher or a signal requests it, if the launcher has ended, or if a rank has failed. Ranks
    that do not end in time are killed.
    """
    listener, asked, deadline, failed, answered = select.poll(), threading.Event(), math.inf, 0, False
    listener.register(sys.stdout.fileno(), 0)  # only reports that the other end is closed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    while True:
        codes = [rank.ended() for rank in ranks]
        failed = failed or next((code for code in codes if code), 0)
        patience = stop_asked(logs)
        if patience is None and (asked.is_set() or listener.poll(0)):
            patience = PATIENCE
        if patience is None and failed:
            patience = SHORT
        if patience is not None:
            deadline = min(deadline, time.monotonic() + patience)
        late = time.monotonic() >= deadline
        # mpirun and srun kill all agents when one exits with an error, so after a request all agents wait for the last rank
        if None not in codes and (late or not any(rank.asked_to_stop for rank in ranks) or everyone_ended(ranks[0])):
            return failed if failed >= 0 else 128 - failed
        for rank in ranks if patience is not None else ():
            rank.kill() if late else rank.stop()
        if not answered and (logs / "where").exists():
            answered = True
            for rank in ranks:
                rank.report_stack()
        time.sleep(POLL)


def everyone_ended(one: Rank) -> bool:
    """Whether all ranks of the job of `one`, on all hosts, have ended."""
    return all((one.logs / f"rank_{rank}.end").exists() for rank in range(one.place.world))


def stop_asked(logs: Path) -> float | None:
    """Return the seconds that ranks have to end, if the watcher has requested the end of the job, else None."""
    with contextlib.suppress(OSError, ValueError):
        return float((logs / "stop").read_text())
    return None


def read_hosts(text: str) -> tuple[tuple[str, int], ...]:
    """Parse hosts such as a:2,b:2."""
    return tuple((name, int(slots)) for name, _, slots in (part.rpartition(":") for part in text.split(",")))


def main(argv: Sequence[str] | None = None) -> int:
    """Start the ranks of this host, wait for them, and return the exit code."""
    parser = argparse.ArgumentParser("launch.cluster.agent", description="starts ranks of a job on this machine")
    parser.add_argument("--hosts", required=True, type=read_hosts, help="all hosts with their ranks: a:2,b:2")
    parser.add_argument("--host", default="", help="the name of this host; without it the rank is that of the environment")
    parser.add_argument("--master", required=True, help="address:port at which rank 0 waits for the others")
    parser.add_argument("--logs", required=True, type=Path, help="folder that all hosts see")
    parser.add_argument("program", nargs="+", metavar="-- PROGRAM ...", help="the command of every rank")
    asked = parser.parse_args(argv)
    place = MeetingPlace(asked.hosts, asked.master)
    if not asked.logs.is_dir():
        raise UserError(f"{socket.gethostname()} does not see {asked.logs}; give --logs a folder that all hosts share")
    numbers = place.ranks_of(asked.host) if asked.host else [rank_and_ranks()[0]]
    return look_after([Rank(number, place, asked.logs, asked.program) for number in numbers], asked.logs)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"jukebox launch, on {socket.gethostname()}: {error}")
