"""The HTTP API: jobs, runs, uploads and the model. `/api/openapi.json` describes it.

Annotations are evaluated here (no `from __future__ import annotations`), because FastAPI reads those of functions inside functions.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from data_prep.audio.audio import probe
from data_prep.errors import UserError
from data_prep.metadata.captions import FORMATS
from data_prep.metadata.exported import FORMS
from jukebox.exports import export_take, result_path, samples_of
from jukebox.model.folder import ModelFolder
from jukebox.report.lyric_files import lines_of, read_alignment
from jukebox.report.run_page import settings, words_of
from jukebox.report.spectrograms import picture
from jukebox.runs.run import REQUEST, Run, read_request
from jukebox.sampling.wav_writer import HEADER, header
from launch.serve.folder import Upload, new_id
from launch.serve.jobs import OVER, JobQueue, ServedJob
from launch.serve.requests import JobRequest
from launch.serve.work import ModelService

TICK, ALIVE = 0.2, 10.0  # seconds between two looks at a job, and between two signs of life
LONGEST = 0x7FFFFF00  # bytes of audio that the header of a stream promises; a player stops where it ends
Take = Annotated[int, "number of the take, from 1"]
Form = Literal["", "wav16", "wav24", "wav32f", "flac", "mp3"]
_exporting = threading.Lock()  # one export at a time, in bounded memory


def job_routes(service: ModelService, queue: JobQueue) -> Any:
    """Submit, plan, follow and cancel jobs."""
    from fastapi import APIRouter, Body
    from fastapi.responses import StreamingResponse

    router = APIRouter(prefix="/api", tags=["jobs"])

    @router.post("/jobs", status_code=201)
    def submit(asked: Annotated[JobRequest, Body(discriminator="kind")]) -> ServedJob:
        """Put a job into the queue; 429 where the queue is full."""
        return queue.submit(asked)

    @router.post("/plan")
    def plan(asked: Annotated[JobRequest, Body(discriminator="kind")]) -> dict[str, Any]:
        """Memory (bytes) and time (seconds) that a job is predicted to take, before it is submitted."""
        return service.plan(asked)

    @router.get("/jobs")
    def jobs() -> list[ServedJob]:
        """All jobs, the newest first."""
        return queue.list()

    @router.get("/jobs/{id}")
    def job(id: str) -> ServedJob:
        """One job."""
        return queue.job(id)

    @router.delete("/jobs/{id}")
    def cancel(id: str) -> ServedJob:
        """Cancel a job; what it has sampled stays, and its run can be resumed."""
        return queue.cancel(id)

    @router.get("/jobs/{id}/events", response_class=StreamingResponse)
    async def events(id: str):
        """Server-sent events: the job as json whenever it changes, until it is over."""
        queue.job(id)
        return StreamingResponse(_events(queue, id), media_type="text/event-stream")

    return router


async def _events(queue: JobQueue, id: str) -> AsyncIterator[bytes]:
    last, waited = None, 0.0
    while not queue.closing:
        job = queue.job(id)
        if job != last or waited >= ALIVE:
            yield b": alive\n\n" if job == last else f"data: {json.dumps(asdict(job))}\n\n".encode()
            last, waited = job, 0.0
        if job.state in OVER:
            return
        await asyncio.sleep(TICK)
        waited += TICK


def run_routes(service: ModelService, queue: JobQueue) -> Any:
    """List, show and delete runs."""
    from fastapi import APIRouter

    router, folder = APIRouter(prefix="/api/runs", tags=["runs"]), service.folder

    @router.get("")
    def runs() -> list[dict[str, Any]]:
        """The newest runs of the served folder."""
        return folder.runs()

    @router.get("/{name}")
    def run(name: str) -> dict[str, Any]:
        """A run: its request, its takes with their words in time, and what is wrong with their audio."""
        return folder.summary(name) | _details(folder.run(name)) | {"jobs": [job.id for job in queue.active(name)]}

    @router.delete("/{name}", status_code=204)
    def delete(name: str) -> None:
        """Delete a run, and of an edit its files."""
        if queue.active(name):
            raise UserError("a job writes this run; cancel it first")
        folder.delete(name)

    return router


def download_routes(service: ModelService, queue: JobQueue) -> Any:
    """What a run holds: audio, pictures and words."""
    from fastapi import APIRouter
    from fastapi.responses import FileResponse, Response, StreamingResponse
    from starlette.background import BackgroundTask

    router, folder = APIRouter(prefix="/api/runs", tags=["downloads"]), service.folder
    codecs = ModelFolder(service.model.info)  # weights of its own: a job may use those of the model meanwhile

    @router.get("/{name}/audio", response_class=FileResponse)
    def audio(name: str, take: Take = 1, form: Form = ""):
        """The audio of a take, as it is, or in a form for other programs: with its request in its tags, a wav with cue markers."""
        opened = Run.open(folder.run(name))
        file = folder.inside(result_path(opened, take))
        if not form and queue.active(name):  # the file grows
            return Response(file.read_bytes(), media_type="audio/wav")
        if not form:
            return FileResponse(file)
        path = folder.uploads.parent / f"{new_id()}{FORMS[form][0]}"
        with _exporting:  # one at a time, in bounded memory
            export_take(opened, path, form, take, codecs)
        return FileResponse(path, filename=f"{name}_take_{take}{path.suffix}", background=BackgroundTask(path.unlink))

    @router.get("/{name}/original", response_class=FileResponse)
    def original(name: str):
        """The recording that a run continues or changes."""
        if paths := Run.open(folder.run(name)).prompt_paths:
            return FileResponse(folder.inside(paths[0]))
        raise UserError("this run has no recording")

    @router.get("/{name}/spectrogram", response_class=Response)
    def spectrogram(name: str, take: Take = 1):
        """The picture of a take (png): time to the right, mel frequencies upwards."""
        with _exporting:
            audio, rate = samples_of(Run.open(folder.run(name)), take)
            return Response(picture(audio, rate), media_type="image/png")

    @router.get("/{name}/lyrics", response_class=Response)
    def lyrics(name: str, take: Take = 1, form: Literal["lrc", "srt", "vtt", "labels.txt"] = "lrc"):
        """The words of a take in time: .lrc, subtitles, or labels for Audacity."""
        path = folder.run(name)
        text = FORMATS[f".{form}"](_lines(path, take))
        return Response(
            text, media_type="text/plain", headers={"content-disposition": f'attachment; filename="{name}_take_{take}.{form}"'}
        )

    @router.get("/{name}/stream", response_class=StreamingResponse)
    async def stream(name: str, take: Take = 1):
        """The audio of a take while it is sampled: a wav that ends where the job ends."""
        opened = Run(folder.run(name), read_request(folder.run(name) / REQUEST), [])
        if opened.request.get("inpaints") or not 1 <= take <= opened.n_samples:
            raise UserError(f"there is no take {take} of a song to stream")
        return StreamingResponse(_growing(opened, take, lambda: bool(queue.active(name))), media_type="audio/wav")

    return router


def _lines(folder: Path, take: int) -> list[Any]:
    request = read_request(folder / REQUEST)
    if not 1 <= take <= len(request["samples"]):
        raise UserError(f"there is no take {take}; there are 1 to {len(request['samples'])}")
    return lines_of(folder, request, take)


def _details(folder: Path) -> dict[str, Any]:
    run = Run(folder, read_request(folder / REQUEST), [])
    found, takes = read_alignment(folder), []
    for sample, song in enumerate(run.request["samples"]):
        words, about = words_of(song, found[sample] if sample < len(found) else None)
        try:
            seconds: float | None = probe(result_path(run, sample + 1)).seconds
        except UserError:
            seconds = None
        wrong = [each["text"] for each in run.request.get("findings", ()) if each.get("sample", sample) == sample]
        lyrics = {
            "lyrics": song["lyrics"] or "",
            "words": words if song["lyrics"] else [],
            "about": about if song["lyrics"] else "",
        }
        takes.append(
            {
                "artist": song["artist"] or "",
                "genre": ", ".join(song["genres"]),
                **lyrics,
                "warnings": wrong,
                "seconds": seconds,
            }
        )
    spans = run.request.get("recording", {}).get("spans", ())
    rate, first = run.request.get("recording", {}).get("rate", 1), min(0, spans[0][0]) if spans else 0
    changed = [[(start - first) / rate, (end - first) / rate] for start, end in spans]
    return {"samples": takes, "original": bool(run.prompt_paths), "settings": settings(run.request), "changed": changed}


async def _growing(run: Run, take: int, active: Callable[[], bool]) -> AsyncIterator[bytes]:
    """A wav header, and samples as they are written; the file begins anew where a job decodes it again, to the same samples."""
    path, sent = run.audio_path(run.finest, take - 1), 0
    yield header(LONGEST // (2 * run.request["channels"]), run.request["channels"], run.request["sample_rate"])
    while True:
        over = not active()
        if path.is_file():
            with path.open("rb") as file:
                file.seek(HEADER + sent)
                block = file.read(1 << 18)
            sent += len(block)
            if block:
                yield block
                continue
        if over:
            return
        await asyncio.sleep(TICK)


def other_routes(service: ModelService, queue: JobQueue) -> Any:
    """The model, and recordings that are uploaded."""
    from fastapi import APIRouter, Request
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect

    router, folder = APIRouter(prefix="/api", tags=["model and uploads"]), service.folder

    @router.get("/model")
    def model() -> dict[str, Any]:
        """The model's routes, parameters and names, and the limits of the server."""
        return service.planner.describe() | {"limits": asdict(service.limits)}

    @router.post("/uploads", status_code=201)
    async def upload(name: str, request: Request) -> Upload:
        """Upload a recording: its bytes are the body, `name` gives its format (.wav, .flac, .mp3, ..)."""
        try:
            path = await folder.receive(name, request.stream())
        except ClientDisconnect as error:
            raise UserError("the upload was cut off; send it again") from error
        made = await run_in_threadpool(folder.accept, path, name, 10 * service.limits.max_seconds)
        await run_in_threadpool(folder.make_room, queue.recordings())
        return made

    return router
