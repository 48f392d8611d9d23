"""The server application: the API, the page, a reply of one sentence for each error, and the guard around everything."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from launch.cli.commands import explain
from launch.serve.downloads import download_routes
from launch.serve.folder import Missing, TooLarge, TooMany
from launch.serve.guard import LOCAL, Guard
from launch.serve.jobs import JobQueue
from launch.serve.routes import job_routes, live_routes, other_routes, run_routes
from launch.serve.work import ModelService

PAGE = Path(__file__).with_name("page")
STATUS: tuple[tuple[type[Exception], int], ...] = ((Missing, 404), (TooLarge, 413), (TooMany, 429), (UserError, 400))


def build_app(service: ModelService, queue: JobQueue, token: str = "", hosts: tuple[str, ...] = LOCAL) -> Guard:
    """Return the ASGI application of a server; the caller starts `queue`."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.staticfiles import StaticFiles

    app = FastAPI(title="Jukebox", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", redirect_slashes=False)

    def reply(status: int, sentence: str) -> Any:
        return JSONResponse(
            {"error": service.shown(sentence)}, status, headers={"retry-after": "10"} if status == 429 else None
        )

    async def invalid(_: Any, error: Any) -> Any:
        return reply(422, _sentence(error.errors()))

    async def known(_: Any, error: Any) -> Any:
        return reply(next(status for kind, status in STATUS if isinstance(error, kind)), " ".join(str(error).split()))

    async def http(_: Any, error: Any) -> Any:
        return reply(error.status_code, f"{error.detail}".lower())

    async def other(_: Any, error: Exception) -> Any:
        if line := explain(error):
            return reply(400, line)
        traceback.print_exception(error)
        return reply(500, "the server has made a mistake; its log has the details")

    app.exception_handler(RequestValidationError)(invalid)
    app.exception_handler(UserError)(known)
    app.exception_handler(HTTPException)(http)
    app.exception_handler(Exception)(other)
    for routes in (job_routes, live_routes, run_routes, download_routes, other_routes):
        app.include_router(routes(service, queue))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(app, token, hosts)


def _sentence(errors: Any) -> str:
    """Format the first error of an invalid request as one sentence."""
    first = errors[0] if errors else {"loc": (), "msg": "invalid"}
    place = ".".join(str(part)[:40] for part in first["loc"][1:] if part not in ("body",))
    return f"{place or 'the request'}: {str(first['msg'])[:200]}"
