"""Variables of ranks that are not there, and places that are taken: one line within a minute, and never a wait for nobody."""

from __future__ import annotations

import socket
import time

import pytest

from data_prep.errors import UserError
from launch.cli import main
from launch.cluster import group
from launch.cluster.ranks import local_rank, meeting_point

STARTERS = [("RANK", "WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")]
CHANGED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port of this machine at which ranks would meet; what joining changes in the environment is undone."""
    for name in CHANGED:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("names", STARTERS, ids=lambda names: names[0])
def test_a_rank_that_no_other_joins_names_the_variables_to_unset(
    meeting: None, rank: int, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert group.MEETING < 55
    monkeypatch.setattr(group, "MEETING", 1.0)
    monkeypatch.setenv(names[0], str(rank))
    monkeypatch.setenv(names[1], "3")
    began = time.monotonic()
    with pytest.raises(UserError, match=f"{names[0]} and {names[1]}.*unset"):
        group.join("cpu")
    assert time.monotonic() - began < 30 and group.alone()


def test_a_taken_port_is_one_line_at_once(meeting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        with pytest.raises(UserError, match=r"did not meet the others at 127.0.0.1:\d+ .*is the port free"):
            group.join("cpu")


def test_a_port_of_a_silent_program_is_one_line_in_time(meeting: None, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(group, "MEETING", 1.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        began = time.monotonic()
        with pytest.raises(UserError, match="is not a rank of this training"):
            group.join("cpu")
        assert time.monotonic() - began < 20 and capfd.readouterr().err == ""


def test_a_variable_that_is_no_number_is_named() -> None:
    ranks = {"RANK": "0", "WORLD_SIZE": "2"}
    with pytest.raises(UserError, match="the variable LOCAL_RANK is 'x'"):
        local_rank({**ranks, "LOCAL_RANK": "x"})
    with pytest.raises(UserError, match="the variable MASTER_PORT is 'http'"):
        meeting_point({**ranks, "MASTER_PORT": "http"})


def test_prepare_names_the_variables_that_make_it_one_of_several(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["prepare", str(tmp_path), "--out", str(tmp_path / "data")]) == 2
    assert "RANK and WORLD_SIZE show that this is one of 4 ranks" in capsys.readouterr().err
