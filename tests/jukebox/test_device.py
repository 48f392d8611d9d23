"""`--device` means the same for every verb."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from data_prep.errors import UserError
from jukebox.device import _exact_settings, choose_device, choose_own_device, computing_on, device_of_rank

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("gpu", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(gpu, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device("auto") == chosen and choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_one_clear_line(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"no GPU here for --device {name}; use --device cpu"):
        choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(name) == name
    for other in ("cuda:2", "cuda:x"):
        with pytest.raises(UserError, match=f"no GPU {other[5:]} for --device {other}; there are 2, from cuda:0 to cuda:1"):
            choose_device(other)


def test_a_name_that_is_no_device_is_one_clear_line():
    with pytest.raises(UserError, match="--device gpu: expected auto, cpu, cuda or cuda:N"):
        choose_device("gpu")


def test_ranks_share_the_gpus_of_their_machine_and_one_gpu_is_not_for_all_of_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_rank("cuda", rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of_rank(device, 1) for device in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
    assert [choose_own_device("cuda", rank, 3) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [choose_own_device(device, 0, 1) for device in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(
        UserError, match="--device cuda:0 is one GPU for 3 processes; use --device cuda, which gives each its own"
    ):
        choose_own_device("cuda:0", 1, 3)


def settings() -> list:
    return [getattr(owner, name) for owner, name, _ in _exact_settings()]


def test_arithmetic_is_exact_on_the_device_and_as_before_afterwards(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: current.append(device) or nullcontext())
    exact = [value for _, _, value in _exact_settings()]
    torch.set_float32_matmul_precision("medium")
    try:
        before = settings()
        assert before != exact
        with pytest.raises(KeyError), computing_on("cuda:1"):
            assert settings() == exact and current == ["cuda:1"]
            raise KeyError
        with computing_on("cpu"):
            assert settings() == exact
        assert settings() == before and current == ["cuda:1"]
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_products_and_convolutions_of_a_gpu_are_those_of_float32():
    x, w = (torch.randn(256, 256, generator=torch.Generator().manual_seed(i)) for i in range(2))
    with computing_on("cuda"):
        assert torch.cuda.current_device() == 0
        for function in (torch.mm, lambda a, b: F.conv1d(a[None], b[:, :, None])[0]):
            assert (function(x.cuda(), w.cuda()).cpu() - function(x.double(), w.double())).abs().max() < 1e-4


def test_the_cpu_is_chosen_without_torch():
    code = "import sys; from jukebox.device import choose_device; choose_device('cpu'); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"
