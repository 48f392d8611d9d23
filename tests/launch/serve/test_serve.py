"""The server as a process: hostile requests, load, and kills."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from jukebox.runs.run import Run
from tests.launch.serve.server import ROOT, process, tone


def ask(address: str, path: str, body: Any = None, method: str = "", headers: dict | None = None) -> tuple[int, Any]:
    """Status and json of a request (bytes are sent as they are)."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address + path, data, {"content-type": "application/json", **(headers or {})}, method=method or None
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def wait(address: str, id: str, *states: str, seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (job := ask(address, f"api/jobs/{id}")[1])["state"] not in states:
        assert time.monotonic() < end, job
        time.sleep(0.05)
    return job


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_a_server_answers_and_ends_by_one_signal_with_a_word_about_its_address(model, tmp_path):
    with process(model, tmp_path / "runs", "--token", "secret") as (server, address):
        assert ask(address, "api/model")[0] == 401
        assert ask(address, "api/model", headers={"authorization": "Bearer secret"})[0] == 200
        assert "?token=secret" in next(tmp_path.glob("runs.*.log")).read_text()
        follow = urllib.request.Request(f"{address}api/events", headers={"authorization": "Bearer secret"})
        with urllib.request.urlopen(follow, timeout=60) as events:
            assert events.readline() == b": alive\n"
            server.send_signal(signal.SIGINT)
            assert server.wait(30) in (0, 130) and events.read() == b"\n"
    assert "ERROR" not in next(tmp_path.glob("runs.*.log")).read_text()


@pytest.mark.long
def test_the_client_of_the_docs_makes_a_song(model, tmp_path, monkeypatch):
    block = (ROOT / "docs" / "web.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    assert len(block.splitlines()) <= 13  # two imports, a blank line, ten lines
    monkeypatch.chdir(tmp_path)
    with process(model, tmp_path / "runs") as (_, address):
        exec(compile(block.replace("http://127.0.0.1:8765", address.rstrip("/")), "web.md", "exec"), {})
    assert (tmp_path / "song.flac").read_bytes().startswith(b"fLaC")


# ---- hostile requests


def hostile(rng: random.Random) -> tuple[str, str, Any, dict]:
    """A request that no page sends: (method, path, body, headers)."""
    names = [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "a" * 3000,
        ".serve",
        ".",
        "~",
        "C:\\x",
        "<b>x</b>",
        "é\u202e",
        "-",
    ]
    odd = [
        None,
        [],
        {},
        "<script>alert(1)</script>",
        "x" * 5000,
        -1,
        1e308,
        1e9,
        10**40,
        True,
        [[1]],
        "\0",
        "\ud800",
        {"a": 1},
        "NaN",
    ]
    name, value = rng.choice(names), rng.choice(odd)
    quoted = urllib.request.quote(name, safe="%")
    field = rng.choice(
        ["artist", "genre", "lyrics", "seed", "seconds", "takes", "route", "params", "kind", "recording", "start", "end", "run"]
    )
    kind = rng.choice(["sample", "continue", "edit", "vary", "extend", "branch", "live", "resume", "align", "dance"])
    base = {"kind": kind, "seconds": 1e9, "recording": name, "start": 0, "end": 1e9, "run": name}
    body = {k: v for k, v in base.items() if rng.random() < 0.8} | {field: value}
    if rng.random() < 0.3:
        body["params"] = {"more": {rng.choice(["temperature", "top_k", "top_p", "passes", "x"]): value}}
    way = rng.randrange(10)
    if way < 4:
        return "POST", rng.choice(["api/jobs", "api/plan"]), body, {}
    if way == 4:
        what = rng.choice(
            ["", "/audio", "/stream", "/lyrics?form=exe", "/spectrogram?take=-1", "/audio?form=../x", "/original"]
        )
        return rng.choice(["GET", "DELETE", "PUT"]), f"api/runs/{quoted}{what}", None, {}
    if way == 5:
        return (
            "POST",
            f"api/uploads?name={quoted}{rng.choice(['', '.wav', '.mp3', '.m3u8'])}",
            rng.randbytes(rng.choice([0, 50, 2000])),
            {},
        )
    if way == 6:
        raw = rng.choice(
            [b"{", b"\xff\xfe", b'{"kind": "sample", "seconds": NaN}', b"[" * 5000, b"x" * 500_000, b'"' + b"a" * 9000]
        )
        return "POST", "api/jobs", raw, {}
    if way == 9:
        method, what = rng.choice([("GET", ""), ("GET", "/sound"), ("POST", "/controls"), ("DELETE", "")])
        return method, f"api/live/{quoted}{what}", {"values": {field: value}} if method == "POST" else None, {}
    if way == 7:
        return (
            "POST",
            "api/jobs",
            body,
            rng.choice([{"origin": "http://evil.example"}, {"host": "evil.example"}, {"content-type": "text/plain"}]),
        )
    places = ["api/jobs/", "vendor/", "api/", *[""] * (name != ".")]  # "/." is the page itself
    return rng.choice(["GET", "DELETE", "POST"]), f"{rng.choice(places)}{quoted}", None, {}


def cut_upload(address: str) -> None:
    """An upload of which half is sent."""
    host, port = address.split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /api/uploads?name=a.wav HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head.encode() + b"RIFF" + bytes(500))


@pytest.mark.long
def test_500_hostile_requests_are_answered_by_one_sentence_each(model, tmp_path):
    rng, counts = random.Random(0), {}
    with process(model, tmp_path / "runs", "--max_upload", "1", "--max_seconds", "30") as (server, address):
        for _ in range(500):
            method, path, body, headers = hostile(rng)
            try:
                status, answer = ask(address, path, body, method, headers)
            except UnicodeEncodeError:  # a surrogate that cannot be sent
                continue
            counts[status] = counts.get(status, 0) + 1
            assert 400 <= status < 500, (status, method, path, body, answer)
            assert 0 < len(answer["error"]) < 500 and "\n" not in answer["error"] and str(tmp_path) not in answer["error"]
        for _ in range(5):
            cut_upload(address)
        time.sleep(0.5)
        assert ask(address, "api/jobs")[1] == [] and ask(address, "api/runs")[1] == []
        assert not list((tmp_path / "runs" / ".serve" / "uploads").iterdir()) and server.poll() is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".log") == ["runs"]
    assert "Traceback" not in next(tmp_path.glob("runs.*.log")).read_text() and len(counts) > 4


# ---- load

TURNS = int(os.environ.get("JUKEBOX_LOAD", "1"))  # requests of each client
LOADED = os.environ.get("JUKEBOX_LOAD_MODEL", "")  # a model folder, or the word shipped, in place of the small model


@pytest.mark.long
def test_50_clients_lose_and_mix_no_result_and_memory_stays_flat(model, tmp_path):
    """Some requests of each client, a queue of 16: a client whose request came to a full queue tries again."""
    done: dict[tuple[int, int], str] = {}
    full, failures = [0], []

    def client(number: int, address: str) -> None:
        try:
            for turn in range(TURNS):
                asked = {"kind": "sample", "seconds": 0.2, "seed": 1000 * number + turn, "artist": ["ann", "bob"][turn % 2]}
                while (answer := ask(address, "api/jobs", asked))[0] == 429:
                    full[0] += 1
                    time.sleep(random.uniform(0.2, 1.0))
                assert answer[0] == 201, answer
                done[number, turn] = wait(address, answer[1]["id"], "done", "failed", seconds=300)["run"]
        except BaseException as error:
            failures.append(error)

    with process(LOADED or model, tmp_path / "runs") as (server, address):
        first = wait(address, ask(address, "api/jobs", {"kind": "sample", "seconds": 0.2})[1]["id"], "done")
        before, threads = resident(server.pid), [threading.Thread(target=client, args=(n, address)) for n in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        grown = resident(server.pid) - before
        assert not failures and len(set(done.values())) == 50 * TURNS and full[0] and first["state"] == "done"
        for (number, turn), name in done.items():
            request = json.loads((tmp_path / "runs" / name / "run.json").read_text())
            assert (request["seed"], request["samples"][0]["artist"]) == (1000 * number + turn, ["ann", "bob"][turn % 2])
            assert len(list((tmp_path / "runs" / name / "audio").glob("*.wav"))) == len(request["levels"])
        assert len(ask(address, "api/runs")[1]) == 50 * TURNS + 1
        print(f"{50 * TURNS} jobs, {full[0]} times full, {grown / 1e6:.1f} MB more")
        assert grown < 60e6, f"{grown / 1e6:.0f} MB more after {50 * TURNS} jobs"


# ---- kills


@pytest.mark.long
def test_after_a_kill_finished_jobs_are_there_and_the_others_continue_to_the_same_codes(model, tmp_path):
    runs, recording = tmp_path / "runs", tone(tmp_path / "a.wav", 2.0)
    with process(model, runs) as (server, address):
        upload = ask(address, "api/uploads?name=a.wav", recording.read_bytes())[1]["id"]
        asked: list[dict[str, Any]] = [
            {"kind": "sample", "seconds": 0.5, "seed": 1}, {"kind": "sample", "seconds": 25, "seed": 2},
            {"kind": "edit", "recording": upload, "start": 0.5, "end": 1.0},
            {"kind": "continue", "recording": upload, "prompt_seconds": 1, "seconds": 2},
        ]  # fmt: skip
        ids = [ask(address, "api/jobs", each)[1]["id"] for each in asked]
        wait(address, ids[0], "done")
        wait(address, ids[1], "running")
        until(lambda: ask(address, f"api/jobs/{ids[1]}")[1]["share"] > 0.02)
        server.send_signal(signal.SIGKILL)
        server.wait()
    begun = (runs / ids[1] / "progress.jsonl").read_text().splitlines()
    with process(model, runs) as (_, address):
        assert ask(address, f"api/jobs/{ids[0]}")[1]["state"] == "done"
        states = [wait(address, id, "done", "failed")["state"] for id in ids]
        assert states == ["done"] * 4
        whole = wait(address, ask(address, "api/jobs", asked[1])[1]["id"], "done")["run"]
    assert (runs / ids[1] / "progress.jsonl").read_text().splitlines()[: len(begun)] == begun
    killed, other = Run.open(runs / ids[1]), Run.open(runs / whole)
    assert np.array_equal(killed.codes(killed.finest), other.codes(other.finest))
    assert killed.audio_path(killed.finest, 0).read_bytes() == other.audio_path(other.finest, 0).read_bytes()
    assert (runs / f"{ids[2]}.wav").is_file() and (runs / ids[3] / "audio").is_dir()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
