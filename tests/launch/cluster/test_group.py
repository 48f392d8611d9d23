"""How ranks choose their device when they join their group, and what DeepSpeed then reads in the environment; GPUs are stand-ins."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
import torch

from data_prep.errors import UserError
from launch.cluster import group

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
LOCAL = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


@pytest.mark.parametrize("environment, asked, visible, used", [
    (OPEN_MPI, "cuda", 4, 1),
    (OPEN_MPI, "cuda", 1, 0),  # each rank sees one GPU, its own
    (SLURM, "cuda", 1, 0),
    ({"LOCAL_RANK": "2"}, "cuda:1", 4, 1),  # one process, beside what an earlier starter has left
    ({}, "cuda", 4, 0),
])  # fmt: skip
def test_the_local_rank_in_the_environment_is_the_index_of_the_gpu_in_use(monkeypatch, environment, asked, visible, used):
    chosen, backends = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: backends.append(backend))
    monkeypatch.setattr(group, "open_store", lambda *_: None)
    with patch.dict(os.environ, environment | {"MASTER_ADDR": "localhost"}):
        device = torch.device(group.join(asked))
        assert (device.index or 0, chosen) == (used, [used])
        assert {os.environ[name] for name in LOCAL if name in os.environ} == {str(used)}
        assert backends == ["cuda:nccl,cpu:gloo"] * ("RANK" in os.environ)


def test_one_gpu_for_several_ranks_is_an_error_before_they_meet(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with patch.dict(os.environ, SLURM), pytest.raises(UserError, match="--device cuda:3 is one GPU for 8 processes"):
        group.join("cuda:3")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_that_is_named_is_the_current_one():
    last = torch.cuda.device_count() - 1
    assert group.join(f"cuda:{last}") == f"cuda:{last}" and torch.cuda.current_device() == last
