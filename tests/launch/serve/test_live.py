"""Live sessions by the API: the music of `jukebox live`, controls, one job at a time, limits, and the end where the client is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
from data_prep.audio.audio import to_pcm
from data_prep.errors import UserError
from jukebox import Jukebox, Song
from jukebox.api import Callbacks, Cancelled, Progress
from jukebox.audio import Audio
from launch.live.live import LiveControls
from launch.serve import live
from launch.serve.live import LiveSession
from launch.serve.requests import Limits
from priors.gan.config import GanParams
from tests.launch.live.musika import random_musika
from tests.launch.serve.server import Client, serving
from tests.launch.serve.test_api import error

RATE = 22050


@pytest.fixture(scope="module")
def musika(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_musika(tmp_path_factory.mktemp("musika") / "model")


@pytest.fixture(scope="module")
def band(musika: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(musika, tmp_path_factory.mktemp("live_runs"), Limits(max_jobs=3, max_live=60.0)) as client:
        yield client


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AHEAD", 1e9)  # a client that plays as fast as it can


def session(**options) -> LiveSession:
    return LiveSession(LiveControls(GanParams), 1, options.pop("sample_rate", 1000))


def seconds(count: int) -> Iterator[Audio]:
    """Blocks of a second."""
    return (Audio(np.full((1, 1000), i / 32768, np.float32), 1000) for i in range(count))


def test_a_session_sends_the_music_of_the_python_api_as_a_wav(band, musika, fast):
    job = band.post("/api/jobs", json={"kind": "live", "seconds": 2, "seed": 3, "params": {"more": {"density": 2}}}).json()
    sound = band.get(f"/api/live/{job['id']}/sound").content
    own = Jukebox.from_pretrained(musika).live(Song(), 2.0, seed=3, params={"spectral.2": {"density": 2.0}})
    true = b"".join(to_pcm(block.samples, "it").T.tobytes() for block in own)
    assert sound[:4] == b"RIFF" and len(true) == 2 * 2 * RATE and sound[44:] == true
    done = band.finished(job["id"])
    assert (done["state"], done["run"]) == ("done", "") and not band.get("/api/runs").json()
    assert "it is over" in error(band.get(f"/api/live/{job['id']}"), 404)


def test_controls_act_from_the_next_patch_and_mistakes_are_sentences(band, fast):
    job = band.post("/api/jobs", json={"kind": "live", "seconds": 60}).json()["id"]
    other = band.post("/api/jobs", json={"kind": "sample", "route": "musika", "seconds": 1}).json()["id"]
    error(band.get(f"/api/live/{other}"), 404)
    while band.get(f"/api/jobs/{job}").json()["state"] != "running":
        time.sleep(0.02)
    assert band.get(f"/api/jobs/{other}").json()["state"] == "queued"  # one job at a time
    path = f"/api/live/{job}/controls"
    for values, words in (
        ({"volume": 3}, "'volume 3': expected truncation"), ({"tempo": "fast"}, "'tempo fast'"),
        ({"truncation": 99}, "truncation 99; expected 0.1 to 3.9"), ({"density": 3, "style": -9}, "style -9"),
    ):  # fmt: skip
        assert words in error(band.post(path, json={"values": values}), 400)
    for body in ({}, {"values": {"tempo": []}}, {"values": {"tempo": 1}, "x": 1}):
        error(band.post(path, json=body), 422)
    playing = band.queue.begin.__self__.sessions[job]
    while not playing.generated:
        time.sleep(0.01)
    values = band.post(path, json={"values": {"tempo": 120, "loop": True}}).json()["values"]
    assert (values["tempo"], values["loop"], values["density"]) == (120.0, True, 0.0)
    while not (changed := playing.state()["changes"]):
        playing.take()
        time.sleep(0.01)
    assert [each["name"] for each in changed] == ["tempo", "loop"] and changed[0]["second"] > 0
    band.delete(f"/api/jobs/{job}")
    assert band.finished(job)["state"] == "cancelled" and band.finished(other)["state"] == "done"
    assert band.delete(f"/api/jobs/{job}").json()["state"] == "cancelled"
    error(band.get("/api/live/none/sound"), 404)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seconds": 61}, "expected from 0 to 60"), ({"seconds": 0}, "seconds above 0"),
        ({"params": {"more": {"truncation": 9}}}, "expected 0.1 to 3.9"), ({"params": {"more": {"passes": "3"}}}, "passes"),
    ],
)  # fmt: skip
def test_a_session_has_limits(fields, words, band):
    for path in ("/api/jobs", "/api/plan"):
        assert words in error(band.post(path, json={"kind": "live", "seconds": 9} | fields), 400)


def test_a_model_says_whether_it_can_play_live_and_what_is_missing(band, client, model):
    can, cannot = band.get("/api/model").json(), client.get("/api/model").json()
    assert can["live"] is True and can["live_route"] == "musika" and can["patch_seconds"] == pytest.approx(8 * 512 / RATE)
    assert cannot["live"] is False and cannot["live_missing"].startswith("This model has no route of unbounded length; ")
    assert "`jukebox train spectral DATA --out NEW --preset musika`" in cannot["live_missing"] and str(model) not in str(cannot)
    assert "no route of unbounded length" in error(client.post("/api/jobs", json={"kind": "live"}), 400)


def test_no_more_is_generated_than_a_client_fetches(fast):
    made, one = [], session()
    blocks = (made.append(block) or block for block in seconds(100))

    def cancel() -> bool:
        if len(made) == one.fetched // 1000 + 2:  # a second is ready, and one more
            one.take()
        return one.fetched >= 5000

    with pytest.raises(Cancelled):
        one.generate(blocks, Progress(0, "x", 0, 100_000), Callbacks(cancel=cancel))
    assert one.fetched == 5000 and len(made) <= 7 and one.over


def test_a_session_ends_when_its_client_is_gone(monkeypatch):
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    made, one = [], session()
    one.generate((made.append(block) or block for block in seconds(100)), Progress(0, "x", 0, 100_000), Callbacks())
    assert len(made) == 2 and one.over and one.fetched == 0


def test_pieces_come_at_the_pace_of_a_player_and_a_second_client_takes_over(monkeypatch):
    monkeypatch.setattr(live, "AHEAD", 0.5)
    one = session()
    one._ready += bytes(2 * 1000 * 10)
    one.generated = 10_000

    monkeypatch.setattr(live, "TICK", 0.0)

    async def play() -> tuple[float, int, bytes]:
        first, got, begin = one.sound(lambda: True), 0, time.monotonic()
        while time.monotonic() - begin < 1.0:
            got += len(await anext(first))
        took = time.monotonic() - begin
        second = one.sound(lambda: True)
        await anext(second)  # its header
        rest = [piece async for piece in first]
        return took, got, b"".join(rest)

    took, got, rest = asyncio.run(play())
    assert 2 * 1000 * 0.5 < got - 44 <= 2 * 1000 * (took + 0.5 + 2 * live.PIECE) and rest == b""


def test_a_value_that_a_kind_does_not_take_changes_nothing():
    controls = LiveControls(GanParams, {"tempo": 90.0})
    with pytest.raises(UserError, match="truncation 9; expected 0.1 to 3.9"):
        controls.set({"tempo": "120", "truncation": "9"})
    assert controls.changes(0.0) == {} and controls.values == {"tempo": 90.0}


def test_a_session_can_be_set_before_its_turn_and_ends_with_a_cancelled_job(musika, tmp_path):
    with serving(musika, tmp_path / "waiting", start=False) as waiting:
        job = waiting.post("/api/jobs", json={"kind": "live", "seconds": 9, "params": {"more": {"tempo": 90}}}).json()["id"]
        assert waiting.post(f"/api/live/{job}/controls", json={"values": {"style": 4}}).json()["values"]["style"] == 4
        values = waiting.get(f"/api/live/{job}").json()["values"]
        assert (values["tempo"], values["style"]) == (90.0, 4)
        threading.Timer(0.3, waiting.queue.cancel, [job]).start()
        assert len(waiting.get(f"/api/live/{job}/sound").content) == 44
        error(waiting.get(f"/api/live/{job}"), 404)
        assert not waiting.queue.begin.__self__.sessions
