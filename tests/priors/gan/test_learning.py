"""A latent GAN learns latents whose law is known, beside its untrained generator."""

import pytest
import torch

from launch.ablate.musika import latent_figures
from priors.conditioning.conditions import Conditions
from priors.gan.config import GanConfig
from priors.gan.model import CRITIC, GENERATOR, NUMBERS, STARTS, GanPrior
from priors.prior import Batch

CONFIG = GanConfig(
    "spectral.2", 8, 2048, 22050, patch=16, spacing=32, coordinates=16, style=8, widths=(48, 32, 24), critic_widths=(24, 32, 48),
    controls=(),
)  # fmt: skip
STEPS, ROWS = 450, 16


def windows(rows: int, rng: torch.Generator) -> torch.Tensor:
    """Smooth walks, and a style that is constant in each window."""
    mixing, styles = (
        torch.randn(6, 8, generator=torch.Generator().manual_seed(1)),
        torch.randn(3, 8, generator=torch.Generator().manual_seed(2)),
    )
    walk = torch.randn(rows, 44, 6, generator=rng).cumsum(1)
    smooth = (walk[:, 12:] - walk[:, :-12]) / 12**0.5
    return torch.tanh(0.35 * smooth @ mixing + 0.5 * torch.randn(rows, 1, 3, generator=rng) @ styles + 0.3)


@pytest.mark.long
def test_a_generator_comes_near_the_true_windows_and_keeps_their_deviation():
    torch.manual_seed(0)
    model, rng = GanPrior(CONFIG).train(), torch.Generator().manual_seed(0)
    average = GanPrior(CONFIG).eval()
    average.load_state_dict(model.state_dict())
    optimisers = {name: torch.optim.Adam(part.parameters(), lr=2e-3, betas=(0.5, 0.9)) for name, part in parts(model).items()}
    for step in range(STEPS):
        drawn = {
            NUMBERS: torch.randn(ROWS, model.numbers, generator=rng),
            STARTS: torch.randint(CONFIG.starts, (ROWS,), generator=rng),
        }
        batch = Batch({"spectral.2": windows(ROWS, rng), **drawn}, Conditions())
        made = model.generated(batch)
        for name, optimiser in optimisers.items():
            for other, part in parts(model).items():
                part.requires_grad_(other == name)
            optimiser.zero_grad()
            model.loss(batch, name, made)["loss"].backward()
            optimiser.step()
        for p in model.parameters():
            p.requires_grad_(True)
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - min(0.995, (1 + step) / (10 + step)))
    figures = latent_figures(average, windows(256, torch.Generator().manual_seed(5)))
    assert figures["latents"]["ratio"] < 0.4, figures["latents"]  # the control is the untrained generator
    assert 0.6 < figures["deviation"]["ratio"] < 1.4, figures["deviation"]


def parts(model: GanPrior) -> dict[str, torch.nn.Module]:
    return {GENERATOR: model.generator, CRITIC: model.critic}
