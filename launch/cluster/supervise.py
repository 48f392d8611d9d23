"""The watcher of a job with many ranks: starts the agents, shows the output of rank 0, and reports dead and stalled ranks.

The watcher reports three kinds of failure and then ends the job:

- a rank dies: the report has its number, host, reason, last activity, and the last lines of its log;
- a host is lost, because its agent has ended without a report: the report has its ranks, and the output of ssh or mpirun;
- a stall: no rank has sent a new heartbeat for longer than the patience. The report names the slowest ranks with their position
  in the code. The stacks are in the logs.

In all cases the same command continues from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launch.cluster.agent import PATIENCE, SHORT, MeetingPlace, die_with_parent
from launch.cluster.heartbeat import Beat, read_beat

SETTLE = 1.0  # seconds to wait after a death, because reports of earlier deaths may arrive later
ANSWER = 3.0  # seconds that ranks have to write their stacks
LINES = 12  # number of lines at the end of a log that are shown
FRAME = re.compile(r'File ".*?([^/"]+/[^/"]+\.py)", line (\d+) in (\S+)')
STACK = "most recent call first"  # first line of the stack of a thread
COLLECTIVE = "torch/distributed/"  # path of functions in the stack of a rank that waits for others


@dataclass(frozen=True)
class Start:
    """A command that starts the agents of some ranks."""

    command: tuple[str, ...]
    ranks: range


@dataclass(frozen=True)
class End:
    """The end of a rank. `asked_to_stop`: its agent had requested the end. `when` is in seconds of the clock of its host."""

    rank: int
    code: int
    host: str
    asked_to_stop: bool
    when: float

    def __str__(self) -> str:
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"was killed by signal {-self.code} ({signal.Signals(-self.code).name})"
        return f"was killed by signal {-self.code}"


class Agents:
    """The running start commands of a job, and their output, which is mostly about ranks that could not be started."""

    def __init__(self, starts: Sequence[Start]) -> None:
        self.output: list[str] = []
        self.running = [(start, self._begin(start.command)) for start in starts]
        self.gone: dict[int, float] = {}  # number of a command -> time when its end was first noticed

    def _begin(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        assert process.stdout is not None
        threading.Thread(target=self._collect, args=(process.stdout,), daemon=True).start()
        return process

    def _collect(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self.output.append(line.decode(errors="replace").rstrip())

    def lost(self, ended: set[int]) -> Iterator[tuple[list[int], int]]:
        """Yield (ranks without a reported end, exit code) for each command that ended more than SETTLE seconds ago."""
        for number, (start, process) in enumerate(self.running):
            code = process.poll()
            missing = [rank for rank in start.ranks if rank not in ended]
            if code is None or not missing:
                continue
            if time.monotonic() - self.gone.setdefault(number, time.monotonic()) > SETTLE:
                yield missing, code

    def wait(self, seconds: float) -> None:
        """Wait `seconds` for the commands to end, then terminate and at last kill them."""
        until = time.monotonic() + seconds
        for signal_number, more in ((None, 0.0), (signal.SIGTERM, SHORT), (signal.SIGKILL, SHORT)):
            for _, process in self.running:
                if signal_number and process.poll() is None:
                    process.send_signal(signal_number)
            for _, process in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until + more - time.monotonic()))


class Job:
    """A running job: starts the agents, and watches the ranks by files in the folder `logs`.

    `patience` is the time without heartbeats, in seconds, after which the job is considered stalled.
    """

    def __init__(self, starts: Sequence[Start], place: MeetingPlace, logs: Path, patience: float) -> None:
        self.place, self.logs, self.patience = place, logs, patience
        self.shown, self.asked = 0, 0
        self.beats: dict[int, tuple[Beat, float]] = {}  # rank -> last beat, and the time when the watcher first read this beat
        self.ends: dict[int, End] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        self.agents = Agents(starts)

    def _ask(self, number: int, frame: object) -> None:
        """Handle Ctrl-C and SIGTERM: the first signal asks all ranks to end after their step, the second signal kills them."""
        self.stop(0.0 if self.asked else PATIENCE)
        self.asked = self.asked or number

    def stop(self, patience: float) -> None:
        """Ask all agents to end their ranks within `patience` seconds."""
        part = self.logs / f"stop.{time.monotonic_ns()}"  # a unique name, because a signal handler may interrupt this function
        part.write_text(str(patience))
        part.replace(self.logs / "stop")

    def log(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.log"

    def run(self) -> int:
        """Watch the job until it is over, and return its exit code."""
        try:
            while True:
                self.read_ends()
                self.show()  # after reading the ends, so that the last output of rank 0 is shown too
                if (code := self.verdict()) is not None:
                    self.stop(SHORT)
                    self.agents.wait(2 * SHORT)
                    return code
                time.sleep(0.1)
        finally:
            self.agents.wait(0.0)

    def show(self) -> None:
        """Print the output of rank 0 since the last call."""
        with contextlib.suppress(OSError), self.log(0).open("rb") as file:
            file.seek(self.shown)
            text = file.read()
            self.shown += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()

    def read_ends(self) -> None:
        """Read the reports of ranks that have ended since the last call."""
        for path in self.logs.glob("rank_*.end"):
            rank = int(path.stem.removeprefix("rank_"))
            if rank not in self.ends:
                metadata = json.loads(path.read_text())
                self.ends[rank] = End(rank, metadata["code"], metadata["host"], metadata["told"], metadata["time"])

    def verdict(self) -> int | None:
        """Return the exit code if the job is over or must be ended, else None. Failures are reported."""
        failed = [end for end in self.ends.values() if end.code and not end.asked_to_stop]
        lost = list(self.agents.lost(set(self.ends)))
        if failed and not self.asked:
            time.sleep(SETTLE)
            self.read_ends()
            return self.report_death(first_cause([end for end in self.ends.values() if end.code and not end.asked_to_stop]))
        if len(self.ends) == self.place.world or (self.asked and lost):
            codes = [end.code for end in self.ends.values() if end.code]
            return 0 if not (codes or lost) else 128 + self.asked if self.asked else abs(codes[0])
        if lost:
            return self.report_loss(*lost[0])
        return None if self.asked else self.look_for_a_hang()

    def report_death(self, end: End) -> int:
        """Report a dead rank and its last output, and return the exit code of the job."""
        beat = read_beat(self.logs / f"rank_{end.rank}.beat")
        complain(f"rank {end.rank} on {end.host} {end}{f' at {beat}' if beat else ''}; the others are ended")
        if end.rank or end.code < 0:  # the output of rank 0 is shown already
            complain(f"the last lines of {self.log(end.rank)}:", *last_lines(self.log(end.rank)))
        if end.code != 2:  # the exit code of a mistake in the command
            complain("the same command goes on from the last checkpoint")
        return end.code if end.code > 0 else 128 - end.code

    def report_loss(self, ranks: Sequence[int], code: int) -> int:
        """Report the ranks that were lost with their host or starter, and return the exit code of the job."""
        hosts = dict.fromkeys(self.place.host_of(rank) for rank in ranks)
        complain(f"lost {numbered(ranks)} on {', '.join(hosts)}: what started them ended with exit code {code}")
        complain(*self.agents.output[-LINES:])
        complain("the same command goes on from the last checkpoint")
        return code if code > 0 else 1

    def look_for_a_hang(self) -> int | None:
        """Read heartbeats. Without new ones for longer than the patience, report the stalled ranks and return exit code 1."""
        now = time.monotonic()
        for rank in range(self.place.world):
            beat = read_beat(self.logs / f"rank_{rank}.beat")
            if beat and rank not in self.ends and (rank not in self.beats or self.beats[rank][0] != beat):
                self.beats[rank] = (beat, now)
        standing = {rank: now - since for rank, (_, since) in self.beats.items() if rank not in self.ends}
        if min(standing.values(), default=0.0) <= self.patience:
            return None
        self.report_hang(standing, self.ask_where(list(standing)))
        return 1

    def ask_where(self, ranks: Sequence[int]) -> dict[int, str]:
        """Ask ranks for their stacks, and return what they write into their logs within ANSWER seconds."""
        begins = {rank: self.log(rank).stat().st_size for rank in ranks}
        (self.logs / "where").touch()
        until, output = time.monotonic() + ANSWER, dict.fromkeys(ranks, "")
        while time.monotonic() < until and not all(STACK in text for text in output.values()):
            time.sleep(0.3)  # a stack arrives in several parts
            output = {rank: text_from(self.log(rank), begin) for rank, begin in begins.items()}
        return output

    def report_hang(self, standing: dict[int, float], output: dict[int, str]) -> None:
        """Report the slowest ranks with their position in the code, then the positions at which other ranks wait."""
        complain(f"nothing has moved for {min(standing.values()):.0f} s (--patience); the job is ended. Behind:")
        lagging, waiting = lagging_ranks({rank: self.beats[rank][0] for rank in standing}, output), {}
        for rank in sorted(standing):
            words = f"{self.beats[rank][0]}, {place_in_code(output[rank])}"
            if rank in lagging:
                complain(f"  rank {rank} on {self.place.host_of(rank)}: {words}, for {standing[rank]:.0f} s")
            else:
                waiting.setdefault(words, []).append(rank)
        for words, ranks in waiting.items():
            complain(f"  waiting: {numbered(ranks)}: {words}")
        complain(f"all stacks are in {self.logs}; the same command goes on from the last checkpoint")


def lagging_ranks(beats: dict[int, Beat], output: dict[int, str]) -> list[int]:
    """Return the ranks that the others wait for: the slowest ranks outside of collectives, or of all if all are inside."""
    working = [rank for rank in beats if COLLECTIVE not in output[rank]] or list(beats)
    least = min((beats[rank].step, beats[rank].count) for rank in working)
    return [rank for rank in working if (beats[rank].step, beats[rank].count) == least]


def first_cause(failed: Sequence[End]) -> End:
    """Return the failed rank that caused the other failures: a rank that a signal killed, else the earliest failure.

    For an error of the user (exit code 2) rank 0 is preferred: the error is equal on all ranks, and rank 0 has printed it.
    """
    return min(failed, key=lambda end: (end.code >= 0, end.rank != 0 if end.code == 2 else True, end.when))


def last_lines(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [f"  | {line}" for line in text_from(log, max(0, log.stat().st_size - 8192)).splitlines()[-LINES:]]
    return []


def text_from(log: Path, begin: int) -> str:
    """Return the text of a log from byte `begin` to the end."""
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def place_in_code(output: str) -> str:
    """Return the position of the main thread of a rank: its innermost line, and its innermost line in this project.

    If `output` has no stack, the state of the process is returned instead.
    """
    frames = [f"{m[1]} line {m[2]} ({m[3]})" for m in FRAME.finditer(output[output.rfind(STACK) :])]
    if STACK not in output or not frames:
        state = re.search(r"state of the process: (\S)", output)
        stopped = {"T": "stopped", "D": "waiting for a disk"}.get(state[1], state[1]) if state else "gone"
        return f"no answer (its process is {stopped})"
    ours = next((f for f in frames if f.split("/")[0] in ("launch", "jukebox", "priors", "vqvae", "data_prep")), "")
    return f"in {frames[0]}" + (f", called from {ours}" if ours and ours != frames[0] else "")


def numbered(ranks: Sequence[int]) -> str:
    """Format ranks as text, such as "rank 3" or "ranks 0, 2, 3"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def complain(*lines: str) -> None:
    for line in lines:
        print(line if line.startswith("  ") else f"jukebox launch: {line}", file=sys.stderr, flush=True)
