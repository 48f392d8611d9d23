"""The verb gpu-check: every figure of a GPU within eight minutes (docs/gpu.md).

Parts run in sequence, the most valuable first. Each part runs in a separate process with a time limit, so that a failure does
not affect the others. Rows are printed and written immediately.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from data_prep.errors import UserError
from jukebox.device import choose_device

Row = dict[str, Any]
# part -> its function, its time limit in seconds
PARTS = {target.partition(":")[2]: (f"launch.gpu_check.{target}", limit) for target, limit in (
    ("smoke:smoke", 60), ("speed:decode", 100), ("training:train", 75), ("speed:masked", 35), ("speed:peer", 50),
    ("speed:codec", 35), ("training:deepspeed", 50), ("training:verbs", 40), ("speed:int8", 35),
)}  # fmt: skip


def gpu_check(*, only: tuple[str, ...] = (), device: str = "cuda", tiny: bool = False, out: str = "") -> None:
    """Measure this machine's GPU within eight minutes: exactness, decoding, training, masked decoding, codec, kill and resume.

    only: parts to run, as in smoke,decode (empty: smoke, decode, train, masked, peer, codec, deepspeed, verbs and int8)
    device: cuda, or cuda:N; cpu with --tiny, which tests this command
    tiny: models of a few weights, whose figures are meaningless
    out: a file to write the rows to, one JSON object per line; by default they are only printed
    """
    if unknown := [name for name in only if name not in PARTS]:
        raise UserError(f"--only got {','.join(only)!r}: there is no part {unknown[0]}; choose among {', '.join(PARTS)}")
    device, rows = choose_device(device), []
    if device == "cpu" and not tiny:
        raise UserError("--device cpu cannot hold the published models in minutes; add --tiny, which tests this command")
    with open(out, "w", encoding="utf-8") if out else contextlib.nullcontext() as file:
        for row in (row for name in only or PARTS for row in run_part(name, device, tiny)):
            rows.append(row)
            for target in filter(None, (sys.stdout, file)):
                print(json.dumps(row), file=target, flush=True)
    print(*map(table_line, rows), sep="\n")
    if any("error" in row for row in rows):
        raise SystemExit(1)


def run_part(name: str, device: str, tiny: bool) -> Iterator[Row]:
    """Yield the rows of a part, and then a row with its time."""
    common, (target, limit) = common_fields(name, device), PARTS[name]
    limit *= 4 if tiny else 1  # a CPU may also run other work
    job = {"target": target, "device": device, "tiny": tiny, "row": common}
    command = [sys.executable, "-m", "launch.gpu_check.part", json.dumps(job)]
    began, failed = time.monotonic(), False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        timer = threading.Timer(limit, end_all, (process.pid,))
        timer.start()
        try:
            for row in map(json.loads, process.stdout or ()):
                failed |= "error" in row
                yield row
            process.wait()
        finally:
            timer.cancel()
            end_all(process.pid)
    seconds = time.monotonic() - began
    if process.returncode and not failed:
        ended = f"ended with code {process.returncode}; its own message is above"
        yield common | {"error": f"ran out of its {limit} s" if seconds >= limit else ended}
    yield common | {"figure": "time of the part", "value": seconds, "unit": "s", "aim": f"<= {limit}", "met": seconds <= limit}


def end_all(session: int) -> None:
    """Kill the remaining processes of a session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def common_fields(part: str, device: str) -> Row:
    """Return the fields that all rows of a part have."""
    import torch

    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    empty = dict.fromkeys(("dtype", "figure", "value", "unit", "aim", "met"))
    return {"card": card, "torch": torch.__version__, "part": part, **empty}


def table_line(row: Row) -> str:
    what = row["figure"] or next(f"{key}: {row[key]}" for key in ("error", "skipped") if key in row)
    value, met = "" if row["value"] is None else f"{row['value']:.4g}", {None: "", True: "met", False: "NOT met"}[row["met"]]
    return f"{row['part']:<10} {what:<76} {value:>9} {row['unit'] or '':<8} {row['aim'] or '':<9} {met}".rstrip()
