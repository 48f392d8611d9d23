"""HTTP API that serves the results of a run as files, for the web page and for other programs.

The module has no `from __future__ import annotations`, because FastAPI must evaluate the annotations of nested functions.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from data_prep.errors import UserError
from data_prep.metadata.captions import FORMATS
from data_prep.metadata.exported import FORMS
from jukebox.exports import export_take, result_path, samples_of
from jukebox.model.folder import ModelFolder
from jukebox.report.lyric_files import lines_of
from jukebox.report.spectrograms import picture
from jukebox.runs.run import Run
from jukebox.runs.run_file import REQUEST, read_request
from jukebox.sampling.wav_writer import HEADER, header
from launch.serve.folder import TooMany, new_id
from launch.serve.jobs import JobQueue
from launch.serve.live import LONGEST
from launch.serve.routes import TICK
from launch.serve.work import ModelService

Take = Annotated[int, "number of the take, from 1"]
Form = Literal["", "wav16", "wav24", "wav32f", "flac", "mp3"]
_exporting, _waiting = threading.Lock(), threading.Semaphore(8)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for the turn to export: one export runs at a time, which bounds memory.

    Few requests may wait, so that threads are free for other requests. Raises TooMany if too many wait.
    """
    if not _waiting.acquire(blocking=False):
        raise TooMany("the server is writing other files; try again in a few seconds")
    try:
        with _exporting:
            yield
    finally:
        _waiting.release()


def download_routes(service: ModelService, queue: JobQueue) -> Any:
    """Return the routes for the results of a run: audio, pictures and words."""
    from fastapi import APIRouter
    from fastapi.responses import FileResponse, Response, StreamingResponse
    from starlette.background import BackgroundTask

    router, folder = APIRouter(prefix="/api/runs", tags=["downloads"]), service.folder
    codecs = ModelFolder(service.model.info)  # own weights: a job may be using those of `service.model`

    @router.get("/{name}/audio", response_class=FileResponse)
    def audio(name: str, take: Take = 1, form: Form = ""):
        """The audio of a take, unchanged or in a form for other programs; tags have the request, and a wav has cue markers."""
        opened = Run.open(folder.run(name))
        file = folder.inside(result_path(opened, take))
        if not form and queue.active(name):  # the file is still written
            return Response(file.read_bytes(), media_type="audio/wav")
        if not form:
            return FileResponse(file)
        path = folder.uploads.parent / f"{new_id()}{FORMS[form][0]}"
        with _turn():
            export_take(opened, path, form, take, codecs)
        return FileResponse(path, filename=f"{name}_take_{take}{path.suffix}", background=BackgroundTask(path.unlink))

    @router.get("/{name}/original", response_class=FileResponse)
    def original(name: str):
        """The recording that a run continues or edits."""
        if paths := Run.open(folder.run(name)).prompt_paths:
            return FileResponse(folder.inside(paths[0]))
        raise UserError("this run has no recording")

    @router.get("/{name}/spectrogram", response_class=Response)
    def spectrogram(name: str, take: Take = 1):
        """The mel spectrogram of a take (png): time to the right, frequency upwards."""
        opened = Run.open(folder.run(name))
        folder.inside(result_path(opened, take))
        with _turn():
            audio, rate = samples_of(opened, take)
            return Response(picture(audio, rate), media_type="image/png")

    @router.get("/{name}/lyrics", response_class=Response)
    def lyrics(name: str, take: Take = 1, form: Literal["lrc", "srt", "vtt", "labels.txt"] = "lrc"):
        """The words of a take with their times: .lrc, subtitles, or labels for Audacity."""
        path = folder.run(name)
        text = FORMATS[f".{form}"](_lines(path, take))
        return Response(
            text, media_type="text/plain", headers={"content-disposition": f'attachment; filename="{name}_take_{take}.{form}"'}
        )

    @router.get("/{name}/stream", response_class=StreamingResponse)
    async def stream(name: str, take: Take = 1):
        """The audio of a take while it is sampled: a wav that ends with the job."""
        opened = Run(folder.run(name), read_request(folder.run(name) / REQUEST), [])
        if opened.request.get("inpaints") or not 1 <= take <= opened.n_samples:
            raise UserError(f"there is no take {take} of a song to stream")
        folder.inside(opened.audio_path(opened.finest, take - 1))
        return StreamingResponse(_growing(opened, take, lambda: bool(queue.active(name))), media_type="audio/wav")

    return router


def _lines(folder: Path, take: int) -> list[Any]:
    request = read_request(folder / REQUEST)
    if not 1 <= take <= len(request["samples"]):
        raise UserError(f"there is no take {take}; there are 1 to {len(request['samples'])}")
    return lines_of(folder, request, take)


async def _growing(run: Run, take: int, active: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield a wav header, and then samples as they are written, until the job is over.

    If a job starts to write the file again, it writes the same samples, so that the stream continues at its position.
    """
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
