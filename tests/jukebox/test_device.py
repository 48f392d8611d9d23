"""`--device` means the same for every verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from jukebox.device import choose_device, device_of_rank

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
    assert choose_device(name) == name


def test_ranks_share_the_gpus_of_their_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_rank("cuda", rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of_rank(device, 1) for device in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]


def test_the_cpu_is_chosen_without_torch():
    code = "import sys; from jukebox.device import choose_device; choose_device('cpu'); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"
