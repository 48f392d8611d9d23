"""Sides of a comparison: a process each, asked in turn, so that what else the machine does falls on all of them.

A side answers every line on its stdin, which may name a case, with the wall and CPU seconds of one run, and the end of its
stdin with what it has to report. A process of its own gives each its own peak memory. The peers' scripts keep to the
same protocol without importing this file: they run in an environment of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import UserError

Times = list[tuple[float, float]]  # wall and CPU seconds, a pair a run


def check_peer(peer: str, device: str = "cpu") -> None:
    """UserError where the peer's python is named and not there, or is to be compared with a GPU."""
    if peer and not Path(peer).exists():
        raise UserError(f"--peer got {peer!r}, expected the python of an environment with transformers 4.46 (make bench)")
    if peer and device != "cpu":
        raise UserError(f"--peer runs on a CPU and cannot be compared with --device {device}; add --device cpu")


def check_sides(peer: str, repeats: int, device: str) -> None:
    """UserError where the peer cannot be measured or there are no repeats."""
    check_peer(peer, device)
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: expected at least 1")


def write_rows(rows: list[dict[str, Any]], out: str) -> list[dict[str, Any]]:
    """The rows of a table, which are also written to the json file `out` where it is named."""
    if out:
        Path(out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def run_peer(peer: str, script: Path, job: Mapping[str, Any]) -> str:
    """The output of one job of a peer's script that is not a side, such as making the weights that both sides load."""
    result = subprocess.run([peer, script, json.dumps(job)], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the peer in {peer} failed: {last}; rebuild it with make distclean bench, or leave --peer away")
    return result.stdout


class Side:
    """A process that does its case when asked."""

    def __init__(self, command: Sequence[str | Path], job: Mapping[str, Any]) -> None:
        # threads wait as they come: told to sleep between two loops, a side of many small products (the port) is five times slower
        env = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        self.process = subprocess.Popen(
            [*command, json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.answer()  # that it is ready

    def answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise UserError("a process of the bench ended early; its own message is above")
        return line

    def run(self, case: str = "") -> tuple[float, float]:
        """Wall and CPU seconds of one run."""
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        wall, cpu = json.loads(self.answer())
        return wall, cpu

    def close(self) -> dict[str, Any]:
        """What it has to say at its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        report = json.loads(self.answer())
        self.process.wait()
        return report


def in_turn(sides: Mapping[str, Side], repeats: int, case: str = "") -> dict[str, Times]:
    """The times of `repeats` runs of every side, each warmed up by one more; the order of the sides changes from turn to turn."""
    times: dict[str, Times] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            times[name].append(sides[name].run(case))
    return {name: runs[1:] for name, runs in times.items()}


def walls(times: Times) -> list[float]:
    return [wall for wall, _ in times]


def median_cpu(times: Times) -> float:
    return statistics.median(cpu for _, cpu in times)


def median_ratio(ours: Times, theirs: Times) -> float:
    """How many times faster ours is: the median over turns, in each of which both sides ran."""
    return statistics.median(b / a for (a, _), (b, _) in zip(ours, theirs, strict=True))


def serve(run: Callable[[str], object], report: Callable[[], Mapping[str, Any]]) -> None:
    """The life of one of our own sides: `run` gets each line; its peak memory is taken before it reports."""
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run(line)
        wait_for_gpu()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    peak = peak_mb()
    print(json.dumps({"peak_mb": peak, **report()}), flush=True)


def best_seconds(function: Callable[[], object], least: float = 0.5) -> float:
    """Seconds of one call, the best of the calls that fit into `least` seconds (one at least): noise only ever adds."""
    best, end = float("inf"), time.perf_counter() + least
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        function()
        wait_for_gpu()
        best = min(best, time.perf_counter() - began)
    return best


def gpu() -> Any:
    """`torch.cuda` where this process uses a GPU, else None; torch is not imported for it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda and cuda.is_initialized() else None


def wait_for_gpu() -> None:
    """Wait until a GPU that this process uses has done all that it was given."""
    if cuda := gpu():
        cuda.synchronize()


def peak_mb() -> float:
    """The most memory that this process has had, MiB: that of the GPU where it uses one."""
    if cuda := gpu():
        return cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):  # getrusage, on Linux, counts what the parent had when it started this process
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Let `peak_mb` start from what the process has now, where the system can."""
    if cuda := gpu():
        cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
