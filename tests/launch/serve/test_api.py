"""The API of a small model: every kind of job, what it makes, and what it does not do."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip("fastapi")
import soundfile

from data_prep.errors import UserError
from jukebox import Jukebox, MachineOptions, SamplingOptions, Song
from jukebox.runs.run import Run
from launch.serve.folder import ServedFolder
from launch.serve.planner import check_length
from launch.serve.requests import KINDS, SampleRequest, from_json
from tests.launch.serve.server import tone


def error(answer, status: int) -> str:
    """The one sentence of an error, which has no path of this machine in it."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    sentence = answer.json()["error"]
    assert 0 < len(sentence) < 400 and "\n" not in sentence and "/tmp" not in sentence
    return sentence


def test_a_sampled_job_is_the_run_that_the_python_api_makes(client, song, model, tmp_path):
    run = Run.open(client.folder.run(song["run"]))
    own = Jukebox.from_pretrained(model).generate(
        Song(artist="ann", genre="rock", lyrics="la la\nso la"), 0.5, seed=3, run_folder=tmp_path / "run",
        options=SamplingOptions(takes=2), machine=MachineOptions(threads=1, device="cpu"),
    )  # fmt: skip
    for level in own.request["levels"]:
        assert np.array_equal(run.codes(level), own.codes(level))
    assert {k: run.request[k] for k in ("samples", "params", "route")} == {
        k: own.request[k] for k in ("samples", "params", "route")
    }


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"artist": "bob"}, lambda r: r["samples"][0]["artist"]), ({"genre": "waltz"}, lambda r: r["samples"][0]["genres"]),
        ({"lyrics": "so"}, lambda r: r["samples"][0]["lyrics"]), ({"seed": 8}, lambda r: r["seed"]),
        ({"seconds": 0.7}, lambda r: r["seconds"]),
        ({"takes": 2}, lambda r: len(r["samples"])), ({"params": {"temperature": 0.5}}, lambda r: r["params"]),
        ({"params": {"more": {"top_k": "3"}}}, lambda r: r["params"]),
        ({"params": {"more": {"temperature": "0.5"}}}, lambda r: r["params"]),
    ],
)  # fmt: skip
def test_every_field_of_a_request_reaches_the_run(changed, where, client):
    service = client.queue.begin.__self__
    made = [service._checked("plan", from_json({"kind": "sample", "seconds": 0.5, **each})) for each in ({}, changed)]
    assert where(made[0]) != where(made[1])


def test_a_request_and_its_record_are_inverses():
    asked = SampleRequest(lyrics="la", params=from_json({"kind": "sample", "params": {"passes": [3, 2]}}).params)  # type: ignore[union-attr]
    assert from_json(json.loads(json.dumps(asdict(asked)))) == asked


def test_a_run_shows_its_words_and_gives_audio_pictures_and_words(client, song):
    shown = client.get(f"/api/runs/{song['run']}").json()
    assert [take["lyrics"] for take in shown["samples"]] == ["la la\nso la"] * 2 and len(shown["samples"][0]["words"]) == 4
    assert shown["share"] == 1 and shown["samples"][0]["seconds"] == pytest.approx(0.5, abs=0.03)
    sizes = {}
    for form in ("", "wav16", "wav24", "wav32f", "flac", "mp3"):
        answer = client.get(f"/api/runs/{song['run']}/audio", params={"form": form, "take": 2})
        assert answer.status_code == 200, answer.text
        sizes[form] = len(answer.content)
    assert sizes["wav16"] < sizes["wav24"] < sizes["wav32f"] and not list(client.folder.jobs.parent.glob("*.wav"))
    assert client.get(f"/api/runs/{song['run']}/spectrogram").content.startswith(b"\x89PNG")
    for form, begin in (("lrc", "[00:00"), ("srt", "1\n00:"), ("vtt", "WEBVTT"), ("labels.txt", "0.0000")):
        assert client.get(f"/api/runs/{song['run']}/lyrics", params={"form": form}).text.startswith(begin)
    part = client.get(f"/api/runs/{song['run']}/audio", headers={"range": "bytes=0-3"})
    assert part.status_code == 206 and part.content == b"RIFF"
    assert [run["name"] for run in client.get("/api/runs").json()].count(song["run"]) == 1


def test_the_stream_of_a_run_is_its_wav(client, song):
    whole = client.get(f"/api/runs/{song['run']}/audio").content
    stream = client.get(f"/api/runs/{song['run']}/stream").content
    assert stream[44:] == whole[44:] and stream[:4] == b"RIFF" and stream[4:8] != whole[4:8]


def test_events_end_with_the_job(client):
    job = client.post("/api/jobs", json={"kind": "sample", "seconds": 0.5}).json()
    events = [
        json.loads(line[6:])
        for line in client.get(f"/api/jobs/{job['id']}/events").text.splitlines()
        if line.startswith("data: ")
    ]
    assert events[-1]["state"] == "done" and events[-1]["share"] == 1 and {event["id"] for event in events} == {job["id"]}


def test_a_recording_is_continued_edited_varied_and_extended(client, tmp_path):
    upload = client.uploaded(tone(tmp_path / "mine.wav", 2.0))
    assert (upload["name"], upload["sample_rate"], upload["channels"]) == ("mine.wav", 44100, 2)
    given = {"recording": upload["id"], "seed": 1}
    longer = client.made(kind="continue", start=0.5, prompt_seconds=0.5, seconds=1.0, **given)
    audio = client.get(f"/api/runs/{longer['run']}/audio").content
    (tmp_path / "longer").write_bytes(audio)
    made, rate = soundfile.read(tmp_path / "longer", dtype="float32")
    true, _ = soundfile.read(tmp_path / "mine.wav", dtype="float32")
    assert rate == 44100 and np.array_equal(made[:10000], true[22050:32050])
    edit = client.made(kind="edit", start=0.5, end=1.0, **given)
    made, _ = soundfile.read(client.folder.root / f"{edit['id']}.wav", dtype="float32")
    assert np.array_equal(made[:22050], true[:22050]) and not np.array_equal(made[22050:44100], true[22050:44100])
    shown = client.get(f"/api/runs/{edit['run']}").json()
    assert (
        shown["changed"] == [[0.5, 1.0]]
        and shown["original"]
        and client.get(f"/api/runs/{edit['run']}/original").status_code == 200
    )
    assert client.made(kind="extend", recording=edit["run"], after=0.3)["run"].endswith(".run")
    branch = client.made(kind="branch", run=edit["run"], keep_seconds=1.25, seed=5)
    request = Run.open(client.folder.run(branch["run"])).request
    assert (request["verb"], request["seed"], request["seconds"]) == ("continue", 5, pytest.approx(2.0))
    (tmp_path / "branch").write_bytes(client.get(f"/api/runs/{branch['run']}/audio").content)
    kept, rate = soundfile.read(tmp_path / "branch", dtype="float32")
    assert (
        rate == 44100
        and np.array_equal(kept[:50000], made[:50000])
        and not np.array_equal(kept[60000:70000], made[60000:70000])
    )
    again = client.made(kind="edit", recording=edit["run"], start=1.0, end=1.5)
    assert client.get(f"/api/runs/{again['run']}").json()["changed"] == [[1.0, 1.5]]
    assert client.made(kind="vary", prompt={"periodic": 2}, **given)["state"] == "done"


def test_a_run_is_branched_and_a_cancelled_one_resumed(client, song):
    branch = client.made(kind="branch", run=song["run"], take=2, keep_seconds=0.2)
    both = [Run.open(client.folder.run(job["run"])) for job in (song, branch)]
    level = both[0].finest
    kept = both[1].request["given"][str(level)]
    codes = both[0].codes(level)[1], both[1].codes(level)[0]
    assert kept and np.array_equal(codes[0][:kept], codes[1][:kept]) and not np.array_equal(codes[0], codes[1])
    long = client.post("/api/jobs", json={"kind": "sample", "seconds": 20}).json()
    assert error(client.delete(f"/api/runs/{long['run']}"), 400) == "a job writes or reads this run; cancel it first"
    client.delete(f"/api/jobs/{long['id']}")
    assert client.finished(long["id"])["state"] == "cancelled"
    share = client.get(f"/api/runs/{long['run']}").json()["share"]
    again = client.post("/api/jobs", json={"kind": "resume", "run": long["run"]}).json()
    client.delete(f"/api/jobs/{again['id']}")
    assert share < 1 and client.finished(again["id"])["run"] == long["run"]
    assert client.delete(f"/api/runs/{long['run']}").status_code == 204
    error(client.get(f"/api/runs/{long['run']}"), 404)


def test_a_plan_comes_before_the_job_and_warns(client):
    plan = client.post("/api/plan", json={"kind": "sample", "seconds": 5, "artist": "nobody", "lyrics": "la \u2603"}).json()
    assert plan["memory"] > 1e8 and plan["available"] > plan["memory"] and len(plan["notes"]) == 2
    assert not list(client.folder.root.glob("plan*"))


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"kind": "sample", "seconds": 1e9}, 400, "expected from 0 to 30"), ({"kind": "sample", "takes": 99}, 400, "takes is 99"),
        ({"kind": "sample", "seconds": 0}, 400, "seconds above 0"), ({"kind": "sample", "seed": 10**40}, 400, "seed"),
        ({"kind": "sample", "artist": "x" * 501}, 400, "expected up to 500"),
        ({"kind": "sample", "params": {"more": {"top_p": "0" * 600}}}, 400, "expected up to 500"),
        ({"kind": "sample", "artist": 3}, 422, "artist"), ({"kind": "sample", "colour": "red"}, 422, "colour"),
        ({"kind": "sample", "params": {"passes": [2], "x": 1}}, 422, "x"), ({"kind": "sample", "route": "../.."}, 400, "no route"),
        ({"kind": "sample", "params": {"temperature": -1}}, 400, "must not be negative"),
        ({"kind": "sample", "params": {"more": {"temperature": -1}}}, 400, "must not be negative"),
        ({"kind": "sample", "params": {"more": {"top_k": 1.5}}}, 400, "expected a whole number"),
        ({"kind": "sample", "params": {"more": {"top_p": None}}}, 400, "no number"), ({"kind": "dance"}, 422, "kind"),
        ({"kind": "edit", "recording": "../../etc/passwd", "start": 0, "end": 1}, 404, "nothing of that name"),
        ({"kind": "edit", "recording": "none", "start": 0, "end": 1}, 404, "no run none"),
        ({"kind": "branch", "run": ".serve"}, 404, "nothing of that name"), ([], 422, ""), ("x", 422, ""),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_nothing(request_, status, words, client):
    before = sorted(path.name for path in client.folder.root.iterdir())
    for path in ("/api/jobs", "/api/plan"):
        assert words in error(client.post(path, json=request_), status)
    assert before == sorted(path.name for path in client.folder.root.iterdir())


def test_uploads_are_audio_within_the_limit(client, tmp_path):
    def upload(name, content):
        return client.post("/api/uploads", params={"name": name}, content=content)

    before = set(client.folder.uploads.iterdir())
    assert "this is text" in error(upload("list.mp3", b"#EXTM3U\n/etc/passwd\n"), 400)
    assert "empty" in error(upload("empty.wav", b""), 400)
    assert "ends in" in error(upload("page.html", b"<html>"), 400)
    assert "recording" in error(upload("noise.wav", b"\0" * 4000), 400)
    assert "larger than 1 MB" in error(upload("large.wav", b"\0" * 1_000_001), 413)
    assert "truncated" in error(upload("cut.wav", tone(tmp_path / "a.wav", 0.5).read_bytes()[:30000]), 400)
    assert upload("../<i>x.wav", (tmp_path / "a.wav").read_bytes()).json()["name"] == "<i>x.wav"
    assert len(set(client.folder.uploads.iterdir()) - before) == 2


def test_a_link_out_of_the_folder_is_no_run(client, song, tmp_path):
    (client.folder.root / "link").symlink_to(client.folder.run(song["run"]), target_is_directory=True)
    error(client.get("/api/runs/link"), 404)
    assert "link" not in [run["name"] for run in client.get("/api/runs").json()]
    (client.folder.root / "link").unlink()
    copy = shutil.copytree(client.folder.run(song["run"]), client.folder.root / "copy")
    for file in (copy / "audio").iterdir():
        file.unlink()
        file.symlink_to("/etc/hostname")
    for what in ("audio", "stream", "spectrogram", "audio?form=mp3"):
        error(client.get(f"/api/runs/copy/{what}"), 404)
    shutil.rmtree(copy)


def test_a_run_that_reads_outside_of_the_folder_is_not_resumed(client, song, tmp_path):
    run = Run.open(client.folder.run(song["run"]))
    copy = client.folder.root / "copied"
    Run.create(copy, run.request | {"sources": [[str(tmp_path / "other.wav"), 0]] * 2})
    assert "outside of the served folder" in error(client.post("/api/jobs", json={"kind": "resume", "run": "copied"}), 400)
    client.folder.delete("copied")


def test_the_openapi_page_names_every_kind_of_job(client):
    described = client.get("/api/openapi.json").json()
    assert set(described["paths"]) >= {"/api/jobs", "/api/plan", "/api/runs/{name}/audio", "/api/uploads", "/api/model"}
    kinds = described["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["discriminator"][
        "mapping"
    ]
    assert set(kinds) == set(KINDS)


def test_the_model_is_described_with_its_limits(client):
    model = client.get("/api/model").json()
    assert model["artists"] == ["ann", "bob"] and model["limits"]["max_seconds"] == 30 and model["edit"] and not model["live"]
    assert "temperature" in [each["name"] for each in next(iter(model["routes"].values()))]


def test_few_recordings_are_received_at_once_and_one_that_stops_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.serve.folder.STALLED", 0.2)
    folder = ServedFolder(tmp_path, 1)

    async def stalled():
        yield b"RIFF"
        await asyncio.sleep(60)

    async def receive() -> list[BaseException]:
        return await asyncio.gather(*(folder.receive("a.wav", stalled()) for _ in range(6)), return_exceptions=True)  # type: ignore

    found = asyncio.run(receive())
    assert sum("4 recordings are uploaded at once" in str(each) for each in found) == 2
    assert sum("nothing has come for 0.2 s" in str(each) for each in found) == 4 and not list(folder.uploads.iterdir())
    assert folder._receiving == 0


def test_what_a_killed_server_has_left_is_removed(tmp_path):
    folder = ServedFolder(tmp_path, 1)
    kept = [folder.uploads / "a.mp3", folder.uploads / "a.json", folder.uploads / "job.wav", folder.jobs / "job.json"]
    for path in (*kept, folder.uploads / "cut.mp3", folder.uploads.parent / "export.flac"):
        path.write_bytes(b"x")
    folder.clean(["job"])
    assert sorted(path for path in folder.uploads.parent.rglob("*") if path.is_file()) == sorted(kept)


def test_exports_that_wait_are_few(client, song, monkeypatch):
    monkeypatch.setattr("launch.serve.downloads._waiting", threading.Semaphore(0))
    assert "writing other files" in error(client.get(f"/api/runs/{song['run']}/spectrogram"), 429)


def test_a_plan_of_an_excerpt_and_a_request_that_fails_leave_no_file(client, tmp_path):
    upload = client.uploaded(tone(tmp_path / "mine.wav", 2.0))
    before = sorted(client.folder.uploads.iterdir())
    asked = {"kind": "continue", "recording": upload["id"], "start": 0.5, "prompt_seconds": 0.5, "seconds": 1.0}
    assert client.post("/api/plan", json=asked).status_code == 200
    error(client.post("/api/jobs", json=asked | {"seconds": 0.4}), 400)
    assert sorted(client.folder.uploads.iterdir()) == before


def test_a_length_that_follows_from_a_run_is_limited_too(client, song):
    service = client.queue.begin.__self__
    with pytest.raises(UserError, match=r"0.5\d* s in all; expected up to 0.3"):
        check_length(0.5, from_json({"kind": "branch", "run": song["run"]}), replace(service.limits, max_seconds=0.3))
