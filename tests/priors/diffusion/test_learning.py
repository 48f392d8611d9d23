"""M3: what the diffusion prior learns of latents whose law is known, beside the best possible loss, and that it follows its tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from priors.conditioning.conditions import Conditions
from priors.diffusion.config import DiffusionConfig, DiffusionParams
from priors.diffusion.model import ALONE, ANGLES, NOISE, DiffusionPrior
from priors.diffusion.schedule import FULL, frame_angles
from priors.noise import Generators
from priors.prior import Batch, Known, Window, sample_window

FRAMES, STEPS, ROWS = 32, 350, 16
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
    assert best * 0.9 < found <= 1.3 * best < 0.6 * before, (best, found, before)


def sampled(
    prior: DiffusionPrior, tokens: torch.Tensor, params: DiffusionParams, known: torch.Tensor | None = None
) -> torch.Tensor:
    given = torch.zeros(len(tokens), 0, 2) if known is None else known
    noise = Generators([torch.Generator().manual_seed(i) for i in range(len(tokens))])
    window = Window(0, FRAMES, FRAMES)
    return sample_window(
        prior, window, Known.prefix("latent", given, FRAMES), Conditions(above=tokens), noise, {"latent": params}
    )["latent"]


def recognised(made: torch.Tensor, tokens: torch.Tensor) -> float:
    """The share of tokens that the mean of their frames is nearest to."""
    means = made.unflatten(1, (-1, 4)).mean(2) / 0.2
    return (torch.cdist(means, OFFSETS).argmin(-1) == tokens).float().mean().item()


@pytest.mark.long
def test_five_steps_follow_the_tokens_and_not_others_and_guidance_follows_no_less(trained):
    rng = torch.Generator().manual_seed(5)
    tokens, others = torch.randint(4, (2, 64, FRAMES // 4), generator=rng)
    truth = recognised(latents(64, tokens, rng), tokens)
    made = sampled(trained, tokens, DiffusionParams(5))
    assert recognised(made, tokens) >= 0.9 * truth and recognised(made, others) <= 0.35
    assert recognised(sampled(trained, tokens, DiffusionParams(5, 2.5)), tokens) >= recognised(made, tokens)


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["linear", "uniform"])
def test_samples_have_the_deviation_of_the_latents_and_their_correlation_in_time(trained, schedule):
    rng = torch.Generator().manual_seed(6)
    tokens = torch.zeros(256, FRAMES // 4, dtype=torch.long)
    true, made = latents(256, tokens, rng), sampled(trained, tokens, DiffusionParams(10, schedule=schedule))
    assert 0.8 <= made.std(0).mean() / true.std(0).mean() <= 1.2

    def correlation(x: torch.Tensor) -> float:
        centred = x - x.mean(0)
        return float((centred[:, 1:] * centred[:, :-1]).mean() / centred.square().mean())

    assert math.isclose(correlation(made), correlation(true), abs_tol=0.15)


@pytest.mark.long
def test_a_continuation_begins_where_its_context_ends(trained):
    """Control: the same frames after the context of another row."""
    rng = torch.Generator().manual_seed(7)
    tokens = torch.zeros(64, FRAMES // 4, dtype=torch.long)
    context = latents(64, tokens, rng)[:, :16]
    made = sampled(trained, tokens, DiffusionParams(10), context)
    assert torch.equal(made[:, :16], context)
    jumps = [np.sqrt(float((made[:, 16] - each[:, 15]).square().mean())) for each in (context, context.roll(1, 0))]
    inside = np.sqrt(float((context[:, 1:] - context[:, :-1]).square().mean()))
    assert 0.7 <= jumps[0] / inside <= 1.6 and jumps[1] > 1.5 * jumps[0]
