"""M3: what the diffusion prior learns of latents whose law is known, beside the best possible loss."""

from __future__ import annotations

import pytest
import torch

from priors.conditioning.conditions import Conditions
from priors.diffusion.config import DiffusionConfig
from priors.diffusion.model import ALONE, ANGLES, NOISE, DiffusionPrior
from priors.diffusion.schedule import FULL, frame_angles
from priors.prior import Batch

FRAMES, STEPS, ROWS = 32, 700, 16
CONFIG = DiffusionConfig(
    "latent", 2, 64, 8000, "tokens", 4, 4, read_vector=2, window=FRAMES, segment=8, width=32, layers=2, heads=2, angle_width=16
)
# numbers of a frame are correlated, and so are neighbouring frames
COVARIANCE = torch.kron(
    0.95 ** (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).abs().double(),
    torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double(),
)
OFFSETS = 0.8 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # of each token


def latents(rows: int, tokens: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Of a Gaussian with the covariance, about a mean that depends on the token of a frame."""
    root = torch.linalg.cholesky(COVARIANCE).float()
    normal = torch.randn(rows, 2 * FRAMES, generator=rng) @ root.T
    return 0.2 * (0.6 * normal.view(rows, FRAMES, 2) + OFFSETS[tokens.repeat_interleave(4, dim=1)])


def best_loss(angles: torch.Tensor) -> float:
    """Mean squared error of the best velocity, which is linear, given the tokens; of each row's angles by frame."""
    total = 0.0
    for angle in angles.double():
        c, s = (each.repeat_interleave(2) for each in (angle.cos(), angle.sin()))
        prior = 0.36 * COVARIANCE  # of normalised latents: the tokens explain 0.64 of 1
        z = c[:, None] * prior * c + (s * s).diag()
        cross = (c * s).diag() - s[:, None] * prior * c  # of velocity and z
        v = (c * c).diag() + s[:, None] * prior * s
        total += (v - cross @ torch.linalg.solve(z, cross.T)).diagonal().mean().item()
    return total / len(angles)


@pytest.fixture(scope="module")
def trained() -> DiffusionPrior:
    torch.manual_seed(0)
    prior, rng = DiffusionPrior(CONFIG), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(prior.parameters(), 4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, STEPS)
    for step in range(STEPS):
        tokens = torch.randint(4, (ROWS, FRAMES // 4), generator=rng)
        true = latents(ROWS, tokens, rng)
        if not step:
            prior.fit(latents(256, torch.randint(4, (256, FRAMES // 4), generator=rng), rng))
        optimiser.zero_grad()
        prior.loss(Batch({"latent": true}, Conditions(above=tokens)))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return prior.eval()


@pytest.mark.long
def test_the_loss_on_gaussian_latents_is_near_the_best_possible_and_an_untrained_prior_is_not(trained):
    rng = torch.Generator().manual_seed(9)
    tokens = torch.randint(4, (64, FRAMES // 4), generator=rng)
    angles, true = FULL * torch.rand(64, 4, generator=rng), latents(64, tokens, rng)
    drawn = {ANGLES: angles, NOISE: torch.randn(true.shape, generator=rng), ALONE: torch.zeros(64, dtype=torch.bool)}
    known = {"latent": torch.zeros(64, FRAMES, dtype=torch.bool)}
    batch = Batch({"latent": true, **drawn}, Conditions(above=tokens), known)
    best = best_loss(frame_angles(angles, FRAMES))
    untrained = DiffusionPrior(CONFIG)
    untrained.load_state_dict({**untrained.state_dict(), **{n: b for n, b in trained.named_buffers()}})
    with torch.no_grad():
        found, before = (model.loss(batch)["loss"].item() for model in (trained, untrained))
    assert best * 0.9 < found <= 1.15 * best < 0.6 * before, (best, found, before)
