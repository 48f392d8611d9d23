"""Two real ranks are one rank with the same global batch: same codebook on both, same losses."""

from __future__ import annotations

import socket
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE

STEPS = 20


def run(config: VQVAEConfig, clips: torch.Tensor, rank: int, world: int, seed: int = 7) -> dict:
    """Train on this rank's half of every batch of eight clips, gradients averaged; losses are means over ranks."""
    torch.manual_seed(0)
    codec = VQVAE(config).train()
    optimiser = torch.optim.SGD(codec.parameters(), 0.02)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(STEPS):
        batch = clips.roll(-8 * step, 0)[:8].chunk(world)[rank]
        loss = codec.loss(batch, generator=generator)["loss"]
        optimiser.zero_grad()
        loss.backward()
        values = [loss.detach(), *(p.grad for p in codec.parameters())]
        if world > 1:
            for value in values:
                dist.all_reduce(value)
                value /= world
        optimiser.step()
        losses.append(values[0].item())
    return {"losses": losses, "state": codec.state_dict()}


def work(rank: int, world: int, port: int, config: dict, clips: torch.Tensor, out: str, seeds: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.save(run(VQVAEConfig(**config), clips, rank, world, seeds[rank]), Path(out) / f"rank_{rank}.pt")
    dist.destroy_process_group()


def on_two_ranks(config: VQVAEConfig, clips: torch.Tensor, out: Path, seeds: tuple[int, int]) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (2, port, asdict(config), clips, str(out), seeds), nprocs=2)
    return [torch.load(out / f"rank_{rank}.pt") for rank in (0, 1)]


@pytest.mark.long
@pytest.mark.parametrize("bins", [16, 200])  # 200: fewer rows than codes, so candidates are repeated with noise
def test_two_ranks_train_the_codebook_of_one(small, tones, tmp_path, bins):
    config = VQVAEConfig(**{**asdict(small), "bins": bins, "mu": 0.9, "linf": 0.0, "relative_spectral": True})
    alone = run(config, tones, 0, 1)
    first, second = on_two_ranks(config, tones, tmp_path, (7, 7))
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        if name.endswith(".codebook.k"):  # a token between two codes may fall to either, which moves a row by a little
            assert torch.allclose(value, alone["state"][name], atol=5e-3), name
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)


@pytest.mark.long
def test_with_differing_seeds_the_two_ranks_are_not_one(small, tones, tmp_path):
    """The control: it is the shared generator that makes the result independent of the number of ranks."""
    config = VQVAEConfig(**{**asdict(small), "mu": 0.9, "linf": 0.0, "relative_spectral": True})
    first, _ = on_two_ranks(config, tones, tmp_path, (7, 8))
    assert first["losses"] != pytest.approx(run(config, tones, 0, 1)["losses"], rel=1e-5)


def test_several_ranks_without_a_shared_generator_are_refused(small, tones, monkeypatch):
    monkeypatch.setattr("vqvae.jukebox.quantize.rank_and_world", lambda: (0, 2))
    with pytest.raises(ValueError, match="generator with the same seed"):
        VQVAE(small).train().loss(tones)
