"""A thin Gradio app without state over the HTTP API, for hosts that show Gradio apps (extra `spaces`).
`python -m launch.serve.spaces MODEL [FLAGS]` starts a server with these arguments, or uses that of JUKEBOX_SERVER and _TOKEN."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVER = os.environ.get("JUKEBOX_SERVER", "http://127.0.0.1:8765")
States = Iterator[tuple[str, str | None]]


def call(path: str, body: bytes | None = None) -> bytes:
    """Call the API and return its answer; an error of the server becomes an error of Gradio with the same sentence."""
    import gradio

    headers = {"content-type": "application/json", "authorization": f"Bearer {os.environ.get('JUKEBOX_TOKEN', '')}"}
    try:
        return urllib.request.urlopen(urllib.request.Request(f"{SERVER}/api/{path}", body, headers), timeout=600).read()
    except urllib.error.HTTPError as error:
        raise gradio.Error(json.loads(error.read())["error"]) from None


def follow(asked: dict[str, Any]) -> States:
    """Submit a job; yield its state while it changes, and at the end the file of its audio."""
    job = json.loads(call("jobs", json.dumps(asked).encode()))
    while job["state"] in ("queued", "running"):
        yield f"{job['state']}, {job['share']:.0%}", None
        time.sleep(0.5)
        job = json.loads(call(f"jobs/{job['id']}"))
    if job["state"] != "done":
        return (yield f"{job['state']}: {job['error']}", None)
    with tempfile.NamedTemporaryFile(suffix=".wav", delete=False) as file:
        file.write(call(f"runs/{job['run']}/audio?form=wav16"))
    yield "; ".join(["done", *job["notes"]]), file.name


def write(artist: str, genre: str, lyrics: str, seconds: float, seed: float) -> States:
    """Sample a song from artist, genre and lyrics."""
    song = {"artist": artist or "", "genre": genre or "", "lyrics": lyrics or ""}
    yield from follow({"kind": "sample", **song, "seconds": seconds, "seed": int(seed)})


def continue_(recording: str, prompt: float, seconds: float, seed: float) -> States:
    """Continue a recording."""
    upload = json.loads(call(f"uploads?name=recording{Path(recording).suffix}", Path(recording).read_bytes()))
    kept = {"recording": upload["id"], "prompt_seconds": prompt}
    yield from follow({"kind": "continue", **kept, "seconds": seconds, "seed": int(seed)})


def app() -> Any:
    """Build the app with the tabs Write and Continue."""
    import gradio as gr

    model = json.loads(call("model"))
    most = model["limits"]["max_seconds"]
    names = [gr.Dropdown(model[each], label=each[:-1], allow_custom_value=True, value="") for each in ("artists", "genres")]
    length = [[gr.Slider(1, most, min(20, most), label="seconds in all"), gr.Number(0, label="seed")] for _ in range(2)]
    result = [[gr.Textbox(label="state"), gr.Audio(label="song", type="filepath")] for _ in range(2)]
    prompt = [gr.Audio(label="recording", type="filepath"), gr.Slider(0, most, 0, label="seconds kept of it (0: all)")]
    song = gr.Interface(write, [*names, gr.Textbox(label="lyrics", lines=5), *length[0]], result[0], flagging_mode="never")
    longer = gr.Interface(continue_, [*prompt, *length[1]], result[1], flagging_mode="never")
    return gr.TabbedInterface([song, longer], ["Write", "Continue"], title=f"Jukebox: {model['name']}")


if __name__ == "__main__":
    if "JUKEBOX_SERVER" not in os.environ:
        server = subprocess.Popen([sys.executable, "-m", "launch.cli", "serve", *sys.argv[1:]], stdout=subprocess.PIPE)
        next(line for line in server.stdout or () if b"open http" in line)  # the server is ready
    app().launch(server_name="0.0.0.0")
