"""A server of a test model, for the tests of the API: in this process, or one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from starlette.testclient import TestClient

from jukebox import Jukebox, MachineOptions
from launch.serve.app import build_app
from launch.serve.folder import ServedFolder
from launch.serve.jobs import OVER, JobQueue
from launch.serve.requests import Limits
from launch.serve.work import ModelService

ROOT = Path(__file__).parents[3]
SMALL = Limits(max_seconds=30.0, max_takes=3, max_jobs=8, max_upload=1)


class Client(TestClient):
    """A client of a server in this process; `queue` and `folder` are the server's own."""

    queue: JobQueue
    folder: ServedFolder

    def finished(self, id: str, seconds: float = 60.0) -> dict[str, Any]:
        """A job when it is over."""
        end = time.monotonic() + seconds
        while (job := self.get(f"/api/jobs/{id}").json())["state"] not in OVER:
            assert time.monotonic() < end, job
            time.sleep(0.02)
        return job

    def made(self, **request: Any) -> dict[str, Any]:
        """A job that was submitted and is done."""
        answer = self.post("/api/jobs", json=request)
        assert answer.status_code == 201, answer.text
        job = self.finished(answer.json()["id"])
        assert job["state"] == "done", job
        return job

    def uploaded(self, path: Path) -> dict[str, Any]:
        answer = self.post("/api/uploads", params={"name": path.name}, content=path.read_bytes())
        assert answer.status_code == 201, answer.text
        return answer.json()


@contextmanager
def serving(model: Path, runs: Path, limits: Limits = SMALL, token: str = "", start: bool = True) -> Iterator[Client]:
    """A client of a server in this process."""
    folder = ServedFolder(runs, limits.max_upload)
    service = ModelService(Jukebox.from_pretrained(model), folder, limits, MachineOptions(threads=1, device="cpu"))
    queue = JobQueue(folder.jobs, limits.max_jobs, service.begin, service.work, service.shown)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    client = Client(build_app(service, queue, token), base_url="http://127.0.0.1", headers=headers)
    client.queue, client.folder = queue, folder
    if start:
        queue.start()
    try:
        yield client
    finally:
        queue.close()


@contextmanager
def process(model: Path | str, runs: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`jukebox serve` in a process of its own, and its address."""
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "serve",
        str(model),
        "--runs",
        str(runs),
        "--port",
        "0",
        "--device",
        "cpu",
        *flags,
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    log = runs.with_name(f"{runs.name}.{time.monotonic_ns()}.log")
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 180  # the machine may be busy
        while not (found := re.findall(r"open (http://\S+?/)", log.read_text())):
            assert time.monotonic() < end and server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield server, found[-1]
    finally:
        server.kill()
        server.wait()


def tone(path: Path, seconds: float = 3.0, rate: int = 44100) -> Path:
    """A stereo recording."""
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (len(at), 2))
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * 300 * at)[:, None] + noise, rate)
    return path
