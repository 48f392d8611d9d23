"""The Gradio app, where Gradio is installed: it makes what the API makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

pytest.importorskip("fastapi")
SOURCE = Path(__file__).parents[3] / "launch" / "serve" / "spaces.py"


def test_the_app_is_at_most_80_lines():
    assert len(SOURCE.read_text("utf-8").splitlines()) <= 80


@pytest.mark.long
def test_the_app_writes_and_continues_through_the_api(model, tmp_path, monkeypatch):
    gradio = pytest.importorskip("gradio")
    from launch.serve import spaces
    from tests.launch.serve.server import process

    with process(model, tmp_path / "runs", "--token", "secret") as (_, address):
        monkeypatch.setenv("JUKEBOX_TOKEN", "secret")
        monkeypatch.setattr(spaces, "SERVER", address.rstrip("/"))
        *_, (state, song) = spaces.write("ann", "rock", "la la", 0.5, 1.0)
        assert state == "done" and soundfile.info(song).duration == pytest.approx(0.5, abs=0.05)
        *_, (state, longer) = spaces.continue_(song, 0.3, 1.0, 0.0)
        assert state == "done" and soundfile.info(longer).duration == pytest.approx(1.0, abs=0.05)
        with pytest.raises(gradio.Error, match="seconds is"):
            list(spaces.write("", "", "", 1e9, 0.0))
        assert isinstance(spaces.app(), gradio.Blocks)
