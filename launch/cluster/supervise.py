"""The watcher of a job of many ranks: starts their agents, shows rank 0, and reports dead and stalled ranks.

It reports three kinds of failure:

- a rank dies: its number, host, reason, last activity, and the last lines of its log; the others are ended;
- a host is lost (its agent has ended without a report): its ranks, and the output of ssh or mpirun;
- a stall: a rank has sent no new heartbeat for longer than the patience. The slowest ranks are named with their position in the
  code (their stacks are in their logs), and the job is ended.

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

SETTLE = 1.0  # seconds after a death to wait for reports of earlier deaths
ANSWER = 3.0  # seconds for ranks to write their stacks
LINES = 12  # last lines of a dead rank's log
FRAME = re.compile(r'File ".*?([^/"]+/[^/"]+\.py)", line (\d+) in (\S+)')
STACK = "most recent call first"  # the head of a thread's stack
COLLECTIVE = "torch/distributed/"  # functions in the stack of a rank that waits for others


@dataclass(frozen=True)
class Start:
    """A command that starts the agents of some ranks."""

    command: tuple[str, ...]
    ranks: range


@dataclass(frozen=True)
class End:
    """The end of a rank; `asked_to_stop` if its agent requested it, `when` in seconds of its host's clock."""

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
    """The running commands of a job and their output (mostly about ranks that they could not start)."""

    def __init__(self, starts: Sequence[Start]) -> None:
        self.output: list[str] = []
        self.running = [(start, self._begin(start.command)) for start in starts]
        self.gone: dict[int, float] = {}  # process -> time when its end was first seen

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
        """(ranks, exit code) of commands that ended some time ago without a report of these ranks."""
        for number, (start, process) in enumerate(self.running):
            code = process.poll()
            missing = [rank for rank in start.ranks if rank not in ended]
            if code is None or not missing:
                continue
            if time.monotonic() - self.gone.setdefault(number, time.monotonic()) > SETTLE:
                yield missing, code

    def wait(self, seconds: float) -> None:
        """Wait some time for the commands to end, then kill them."""
        until = time.monotonic() + seconds
        for signal_number, more in ((None, 0.0), (signal.SIGTERM, SHORT), (signal.SIGKILL, SHORT)):
            for _, process in self.running:
                if signal_number and process.poll() is None:
                    process.send_signal(signal_number)
            for _, process in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until + more - time.monotonic()))


class Job:
    """A running job: hosts of its ranks, folder of logs, agents."""

    def __init__(self, starts: Sequence[Start], place: MeetingPlace, logs: Path, patience: float) -> None:
        self.place, self.logs, self.patience = place, logs, patience
        self.shown, self.asked = 0, 0
        self.beats: dict[int, tuple[Beat, float]] = {}  # rank -> its last beat, and the time when it was first seen
        self.ends: dict[int, End] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        self.agents = Agents(starts)

    def _ask(self, number: int, frame: object) -> None:
        """Handle Ctrl-C: ask all ranks to end after their step; a second one kills them."""
        self.stop(0.0 if self.asked else PATIENCE)
        self.asked = self.asked or number

    def stop(self, patience: float) -> None:
        """Ask all agents to end their ranks within so many seconds."""
        part = self.logs / f"stop.{time.monotonic_ns()}"  # a separate name, because a signal may interrupt this
        part.write_text(str(patience))
        part.replace(self.logs / "stop")

    def log(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.log"

    def run(self) -> int:
        """Watch until all ranks have ended; the job's exit code."""
        try:
            while True:
                self.read_ends()
                self.show()  # after the ends, so that the last output is shown too
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
        """Read the ends of ranks since the last call."""
        for path in self.logs.glob("rank_*.end"):
            rank = int(path.stem.removeprefix("rank_"))
            if rank not in self.ends:
                metadata = json.loads(path.read_text())
                self.ends[rank] = End(rank, metadata["code"], metadata["host"], metadata["told"], metadata["time"])

    def verdict(self) -> int | None:
        """The exit code once the job is over or must be ended; None while it runs."""
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
        """Report which rank died with its last output; return the exit code."""
        beat = read_beat(self.logs / f"rank_{end.rank}.beat")
        complain(f"rank {end.rank} on {end.host} {end}{f' at {beat}' if beat else ''}; the others are ended")
        if end.rank or end.code < 0:  # the output of rank 0 is shown already
            complain(f"the last lines of {self.log(end.rank)}:", *last_lines(self.log(end.rank)))
        if end.code != 2:  # the exit code of a mistake in the command
            complain("the same command goes on from the last checkpoint")
        return end.code if end.code > 0 else 128 - end.code

    def report_loss(self, ranks: Sequence[int], code: int) -> int:
        """Report which ranks were lost with their host or starter; return the exit code."""
        hosts = dict.fromkeys(self.place.host_of(rank) for rank in ranks)
        complain(f"lost {numbered(ranks)} on {', '.join(hosts)}: what started them ended with exit code {code}")
        complain(*self.agents.output[-LINES:])
        complain("the same command goes on from the last checkpoint")
        return code if code > 0 else 1

    def look_for_a_hang(self) -> int | None:
        """Note new heartbeats; without any for too long, report the stalled ranks. Return the exit code, or None."""
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
        """The stacks that the ranks have written into their logs on request, if they could."""
        begins = {rank: self.log(rank).stat().st_size for rank in ranks}
        (self.logs / "where").touch()
        until, output = time.monotonic() + ANSWER, dict.fromkeys(ranks, "")
        while time.monotonic() < until and not all(STACK in text for text in output.values()):
            time.sleep(0.3)  # a stack arrives in several parts
            output = {rank: text_from(self.log(rank), begin) for rank, begin in begins.items()}
        return output

    def report_hang(self, standing: dict[int, float], output: dict[int, str]) -> None:
        """Report the slowest ranks with their position in the code, then where the others wait."""
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
    """The ranks that the others wait for: those outside of collectives if others are inside; of these the slowest."""
    working = [rank for rank in beats if COLLECTIVE not in output[rank]] or list(beats)
    least = min((beats[rank].step, beats[rank].count) for rank in working)
    return [rank for rank in working if (beats[rank].step, beats[rank].count) == least]


def first_cause(failed: Sequence[End]) -> End:
    """Of several failed ranks the cause: one killed by a signal, else the first by the clock.

    An error of the user (exit code 2) is the same on all ranks, and rank 0 has printed it already.
    """
    return min(failed, key=lambda end: (end.code >= 0, end.rank != 0 if end.code == 2 else True, end.when))


def last_lines(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [f"  | {line}" for line in text_from(log, max(0, log.stat().st_size - 8192)).splitlines()[-LINES:]]
    return []


def text_from(log: Path, begin: int) -> str:
    """The content of a log from byte `begin` on."""
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def place_in_code(output: str) -> str:
    """Position of a rank's main thread: the innermost line of all, and the innermost line of this project."""
    frames = [f"{m[1]} line {m[2]} ({m[3]})" for m in FRAME.finditer(output[output.rfind(STACK) :])]
    if STACK not in output or not frames:
        state = re.search(r"state of the process: (\S)", output)
        stopped = {"T": "stopped", "D": "waiting for a disk"}.get(state[1], state[1]) if state else "gone"
        return f"no answer (its process is {stopped})"
    ours = next((f for f in frames if f.split("/")[0] in ("launch", "jukebox", "priors", "vqvae", "data_prep")), "")
    return f"in {frames[0]}" + (f", called from {ours}" if ours and ours != frames[0] else "")


def numbered(ranks: Sequence[int]) -> str:
    """Format ranks: "rank 3", "ranks 0, 2, 3"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def complain(*lines: str) -> None:
    for line in lines:
        print(line if line.startswith("  ") else f"jukebox launch: {line}", file=sys.stderr, flush=True)
