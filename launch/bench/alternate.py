"""Sides of a benchmark: one process for each implementation or setting that is compared.

The sides run alternately, so that other load of the machine affects all of them. For every line on its stdin a side runs once,
and prints the wall and CPU seconds of the run. The line may name a case. At the end of its stdin a side prints a report.
Separate processes have separate peak memory. The scripts of the peers use the same protocol. They do not import this file,
because they run in another environment.
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

Times = list[tuple[float, float]]  # wall and CPU seconds, one pair per run


def check_peer(peer: str, device: str = "cpu") -> None:
    """Raise UserError if the peer's python does not exist, or if the peer would be compared with a GPU."""
    if peer and not Path(peer).exists():
        raise UserError(f"--peer got {peer!r}, expected the python of an environment with transformers 4.46 (make bench)")
    if peer and device != "cpu":
        raise UserError(f"--peer runs on a CPU and cannot be compared with --device {device}; add --device cpu")


def check_sides(peer: str, repeats: int, device: str) -> None:
    """Raise UserError if the peer cannot be measured, or if there are no repeats."""
    check_peer(peer, device)
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: expected at least 1")


def write_rows(rows: list[dict[str, Any]], out: str) -> list[dict[str, Any]]:
    """Return the rows of a table. If `out` is given, also write them to this json file."""
    if out:
        Path(out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def run_peer(peer: str, script: Path, job: Mapping[str, Any]) -> str:
    """Run a peer's script once with a job and return its output, for example to make the weights that both sides load."""
    result = subprocess.run([peer, script, json.dumps(job)], capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the peer in {peer} failed: {last}; rebuild it with make distclean bench, or leave --peer away")
    return result.stdout


class Side:
    """A process that runs a case on request."""

    def __init__(self, command: Sequence[str | Path], job: Mapping[str, Any]) -> None:
        # OpenMP's wait policy stays at its default: if threads sleep between two loops, a side with many small products (the
        # peer) is five times slower
        env = {**os.environ, "OMP_NUM_THREADS": str(job["threads"])}
        self.process = subprocess.Popen(
            [*command, json.dumps(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.answer()  # waits until the process is ready

    def answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise UserError("a process of the bench ended early; its own message is above")
        return line

    def run(self, case: str = "") -> tuple[float, float]:
        """Return the wall and CPU seconds of one run."""
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        wall, cpu = json.loads(self.answer())
        return wall, cpu

    def close(self) -> dict[str, Any]:
        """End the process and return its report."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        report = json.loads(self.answer())
        self.process.wait()
        return report


def in_turn(sides: Mapping[str, Side], repeats: int, case: str = "") -> dict[str, Times]:
    """Return the times of `repeats` runs of every side, after one warm-up run of each. The order of the sides alternates."""
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
    """Return the speed-up of our implementation: the median over turns of the other side's time divided by ours."""
    return statistics.median(b / a for (a, _), (b, _) in zip(ours, theirs, strict=True))


def serve(run: Callable[[str], object], report: Callable[[], Mapping[str, Any]]) -> None:
    """The main loop of one of our sides: call `run` with each line, and print its times. At the end print the report.

    The peak memory is read before `report` is called.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run(line)
        wait_for_gpu()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    peak = peak_mb()
    print(json.dumps({"peak_mb": peak, **report()}), flush=True)


def best_seconds(function: Callable[[], object], least: float = 0.5) -> float:
    """Return the seconds of the fastest call in `least` seconds, because noise only adds time. At least one call is made."""
    best, end = float("inf"), time.perf_counter() + least
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        function()
        wait_for_gpu()
        best = min(best, time.perf_counter() - began)
    return best


def gpu() -> Any:
    """Return `torch.cuda` if this process uses a GPU, else None. This function does not import torch."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda and cuda.is_initialized() else None


def wait_for_gpu() -> None:
    """Synchronise with the GPU that this process uses."""
    if cuda := gpu():
        cuda.synchronize()


def peak_mb() -> float:
    """Return the peak memory of this process in MiB. If the process uses a GPU, it is the memory of the GPU."""
    if cuda := gpu():
        return cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):  # on Linux, getrusage includes the memory of the parent when it started this process
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Reset the peak of `peak_mb` to the current memory, if the system supports it."""
    if cuda := gpu():
        cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
