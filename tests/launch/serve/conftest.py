"""One server of a small model for the tests of the API, and one run that it has made. Without fastapi, modules skip themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.jukebox.editing.edits import with_masked

if TYPE_CHECKING:
    from tests.launch.serve.server import Client


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spectral model that can edit."""
    return with_masked(tmp_path_factory.mktemp("served"), preset="test_spectral").folder


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    from tests.launch.serve.server import serving

    with serving(model, tmp_path_factory.mktemp("runs")) as client:
        yield client


@pytest.fixture(scope="module")
def song(client: Client) -> dict[str, Any]:
    """A job that has sampled two takes with lyrics."""
    return client.made(kind="sample", seconds=0.5, artist="ann", genre="rock", lyrics="la la\nso la", takes=2, seed=3)
