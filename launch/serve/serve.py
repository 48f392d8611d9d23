"""`jukebox serve`: the page and the HTTP API of one model, over one folder of runs."""

from __future__ import annotations

import os
import secrets
from types import FrameType

from data_prep.errors import UserError
from data_prep.files import held
from jukebox.params import MachineOptions
from launch.cli.usage import shared_flags
from launch.serve.guard import LOCAL
from launch.serve.requests import Limits


@shared_flags
def serve(
    model: str = "", *, runs: str = "runs", host: str = "127.0.0.1", port: int = 8765, token: str = "", limits: Limits,
    machine: MachineOptions,
) -> None:  # fmt: skip
    """Serve a model: a page to sample, continue and edit in a browser, and the HTTP API that the page uses.

    model: folder of a trained model (empty, or the word shipped: the model that comes with the package)
    runs: folder of the runs; nothing outside of it is served
    host: address of the server; all but this machine's need a token
    port: port of the server (0: a free one)
    token: word that every client must send (empty: $JUKEBOX_TOKEN; none on 127.0.0.1; elsewhere a random one, which is printed)
    """
    import uvicorn

    from jukebox.api import Jukebox
    from launch.serve.app import build_app
    from launch.serve.folder import ServedFolder
    from launch.serve.jobs import JobQueue
    from launch.serve.work import ModelService

    if not min(limits.max_seconds, limits.max_takes, limits.max_jobs, limits.max_upload, limits.max_live) > 0:
        raise UserError(f"{limits}: expected numbers above 0")
    token = token or os.environ.get("JUKEBOX_TOKEN", "") or ("" if host in LOCAL else secrets.token_urlsafe(24))
    folder = ServedFolder(runs, limits.max_upload)
    with held(folder.root, True, f"{folder.root} is served by another process; stop it, or give another --runs"):
        service = ModelService(Jukebox.from_pretrained(model), folder, limits, machine)
        queue = JobQueue(folder.jobs, limits.max_jobs, service.begin, service.work, service.shown)
        folder.clean(queue.jobs)
        service.planner.measure()
        config = uvicorn.Config(
            build_app(service, queue, token), host=host, port=port, log_level="warning", timeout_graceful_shutdown=3, limit_concurrency=512,
            server_header=False,
        )  # fmt: skip
        socket = config.bind_socket()
        socket.listen(config.backlog)  # clients that connect before the application is ready wait
        address = f"http://{'[' + host + ']' if ':' in host else host}:{socket.getsockname()[1]}/"
        print(f"serving {service.model.folder} with the runs in {folder.root}", flush=True)
        print(f"open {address}{'?token=' + token if token else ''} in a browser; Ctrl-C stops", flush=True)
        if waiting := len(queue.waiting):
            print(f"{waiting} unfinished jobs continue", flush=True)
        queue.start()
        server = uvicorn.Server(config)
        exits = server.handle_exit

        def end(number: int, frame: FrameType | None) -> None:
            queue.closing = True  # ends the streams of events, because the server waits for open connections
            exits(number, frame)

        server.handle_exit = end  # type: ignore[method-assign]
        try:
            server.run(sockets=[socket])
        finally:
            queue.close()
