"""The HTTP API: jobs, runs, uploads and the model. `/api/openapi.json` describes it.

The module has no `from __future__ import annotations`, because FastAPI must evaluate the annotations of nested functions.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from data_prep.audio.audio import probe
from data_prep.errors import UserError
from jukebox.exports import result_path
from jukebox.report.lyric_files import read_alignment
from jukebox.report.run_page import settings, words_of
from jukebox.runs.run import Run
from jukebox.runs.run_file import REQUEST, read_request
from launch.serve.folder import Upload
from launch.serve.jobs import OVER, JobQueue, ServedJob
from launch.serve.requests import ControlsRequest, JobRequest
from launch.serve.work import ModelService

TICK, ALIVE = 0.2, 10.0  # seconds between two checks of a job, and between two keep-alive messages
FOLLOWED = 100  # number of newest jobs of which changes are sent


def job_routes(service: ModelService, queue: JobQueue) -> Any:
    """Return the routes to submit, plan, follow and cancel jobs."""
    from fastapi import APIRouter, Body
    from fastapi.responses import StreamingResponse

    router = APIRouter(prefix="/api", tags=["jobs"])

    @router.post("/jobs", status_code=201)
    def submit(asked: Annotated[JobRequest, Body(discriminator="kind")]) -> ServedJob:
        """Append a job to the queue; 429 if the queue is full."""
        return queue.submit(asked)

    @router.post("/plan")
    def plan(asked: Annotated[JobRequest, Body(discriminator="kind")]) -> dict[str, Any]:
        """Predicted memory (bytes) and time (seconds) of a job, before it is submitted."""
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
        """Cancel a job; its sampled part is kept, and its run can be resumed."""
        return queue.cancel(id)

    @router.get("/jobs/{id}/events", response_class=StreamingResponse)
    async def events(id: str):
        """Server-sent events: the job as json whenever it changes, until it is over."""
        queue.job(id)
        return StreamingResponse(_events(queue, id), media_type="text/event-stream")

    @router.get("/events", response_class=StreamingResponse)
    async def all_events():
        """Server-sent events: each of the newest jobs as json whenever it changes, without end."""
        return StreamingResponse(_events(queue), media_type="text/event-stream")

    return router


def live_routes(service: ModelService, queue: JobQueue) -> Any:
    """Return the routes for the sound and the controls of a live session, by the id of its job.

    `DELETE /api/jobs/ID` ends a session.
    """
    from fastapi import APIRouter
    from fastapi.responses import StreamingResponse

    router = APIRouter(prefix="/api/live", tags=["live"])

    @router.get("/{id}")
    def state(id: str) -> dict[str, Any]:
        """The values of the controls, the changes with the seconds at which they take effect, and the generated seconds."""
        return service.session(queue.job(id)).state()

    @router.post("/{id}/controls")
    def controls(id: str, asked: ControlsRequest) -> dict[str, Any]:
        """Change controls from the next patch on."""
        session = service.session(queue.job(id))
        session.controls.set({name: str(value).lower() for name, value in asked.values.items()})
        return session.state()

    @router.get("/{id}/sound", response_class=StreamingResponse)
    async def sound(id: str):
        """The music as an unbounded wav while it is generated; a new client replaces the previous one."""
        session = service.session(queue.job(id))
        return StreamingResponse(session.sound(lambda: queue.job(id).state not in OVER), media_type="audio/wav")

    return router


async def _events(queue: JobQueue, id: str = "") -> AsyncIterator[bytes]:
    """Yield the changes of a job until it is over; without `id`, of all jobs that are not over, and of new jobs."""
    known = {} if id else {job.id: job for job in queue.list(FOLLOWED) if job.state in OVER}
    waited = ALIVE  # the first keep-alive message is sent immediately
    while not queue.closing:
        jobs = [queue.job(id)] if id else queue.list(FOLLOWED)
        changed = [job for job in jobs if known.get(job.id) != job]
        for job in changed:
            yield f"data: {json.dumps(asdict(job))}\n\n".encode()
        if id and jobs[0].state in OVER:
            return
        if not changed and waited >= ALIVE:
            yield b": alive\n\n"
        known = {job.id: job for job in jobs}
        waited = 0.0 if changed or waited >= ALIVE else waited + TICK
        await asyncio.sleep(TICK)


def run_routes(service: ModelService, queue: JobQueue) -> Any:
    """Return the routes to list, show and delete runs."""
    from fastapi import APIRouter

    router, folder = APIRouter(prefix="/api/runs", tags=["runs"]), service.folder

    @router.get("")
    def runs() -> list[dict[str, Any]]:
        """The newest runs of the served folder."""
        return folder.runs()

    @router.get("/{name}")
    def run(name: str) -> dict[str, Any]:
        """A run: its request, its takes with the times of their words, and the defects of their audio."""
        return folder.summary(name) | _details(folder.run(name)) | {"jobs": [job.id for job in queue.active(name)]}

    @router.delete("/{name}", status_code=204)
    def delete(name: str) -> None:
        """Delete a run, and the output files of an edit."""
        with queue.submitting:  # no job that reads the run can be submitted during the check
            if queue.needs(name):
                raise UserError("a job writes or reads this run; cancel it first")
            folder.delete(name)

    return router


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


def other_routes(service: ModelService, queue: JobQueue) -> Any:
    """Return the routes for the model and for uploads."""
    from fastapi import APIRouter, Request
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect

    router, folder = APIRouter(prefix="/api", tags=["model and uploads"]), service.folder

    @router.get("/model")
    def model() -> dict[str, Any]:
        """The routes, parameters and names of the model, and the limits of the server."""
        return service.planner.describe() | {"limits": asdict(service.limits)}

    @router.post("/uploads", status_code=201)
    async def upload(name: str, request: Request) -> Upload:
        """Upload a recording: the body is the file, and the suffix of `name` is its format (.wav, .flac, .mp3, ..)."""
        try:
            path = await folder.receive(name, request.stream())
        except ClientDisconnect as error:
            raise UserError("the upload was cut off; send it again") from error
        made = await run_in_threadpool(folder.accept, path, name, 10 * service.limits.max_seconds)
        await run_in_threadpool(folder.make_room, queue.recordings())
        return made

    return router
