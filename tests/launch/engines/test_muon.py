"""Muon: the update of torch's, in the precision that the processor multiplies."""

from __future__ import annotations

import pytest
import torch

from launch.engines import muon
from launch.engines.muon import Muon, orthogonalised

SHAPES = ((12, 30), (30, 12), (12, 12), (12, 30), (7, 40))


def matrices(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
@pytest.mark.parametrize(("bf16", "close"), [(True, 0.02), (False, 0.05)])  # torch's products are bf16
def test_steps_are_those_of_torch(monkeypatch, bf16, close):
    monkeypatch.setattr(muon, "has_bf16", lambda device: bf16)
    ours, theirs = ([torch.nn.Parameter(m) for m in matrices(0)] for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.3}
    pair = Muon(ours, **options), torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    for step in range(1, 4):
        for p, q, gradient in zip(ours, theirs, matrices(step), strict=True):
            p.grad, q.grad = gradient, gradient.clone()
        for optimiser in pair:
            optimiser.step()
    for p, q, start in zip(ours, theirs, matrices(0), strict=True):
        assert (p - q).norm() < close * (q - start).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_are_about_one_and_directions_are_kept(dtype):
    for made, matrix in zip(orthogonalised(matrices(0), dtype), matrices(0), strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert made.shape == matrix.shape and made.dtype == matrix.dtype
        assert (torch.linalg.svdvals(made) - 0.95).abs().max() < 0.35
        assert ((u.T @ made @ v.T).diagonal() > 0.6).all()


def test_a_vector_is_an_error():
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
