"""The toy prior of another package inpaints: known latents stay, those on both sides matter, and it can be saved midway."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from priors.conditioning.conditions import Conditions
from priors.noise import WindowNoise
from priors.prior import Known, Window, sample_window

LENGTH, FIRST = 16, 40


@pytest.fixture
def toy(monkeypatch):
    """The module of the toy prior."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "toys")
    import toy_prior

    yield toy_prior
    sys.modules.pop("toy_prior", None)


def window(toy, rows: int = 2):
    torch.manual_seed(0)
    prior = toy.ToyPrior(toy.ToyPriorConfig())
    latents, mask = torch.randn(rows, LENGTH, toy.WIDTH), torch.ones(rows, LENGTH, dtype=torch.bool)
    mask[:, 5:9] = False
    noise = WindowNoise(3, toy.STREAM, {toy.STREAM: toy.STREAM}, [(row, FIRST + 5) for row in range(rows)])
    return prior, latents, mask, noise


def fill(toy, prior, latents, mask, noise, **params):
    known = Known({toy.STREAM: latents}, {toy.STREAM: mask})
    given = (Window(FIRST, LENGTH, 100), known, Conditions(), noise, {toy.STREAM: toy.ToyParams(**params)})
    return sample_window(prior, *given)[toy.STREAM], lambda: prior.start(*given)


def test_known_latents_come_out_unchanged_and_both_sides_matter(toy):
    prior, latents, mask, noise = window(toy)
    made, _ = fill(toy, prior, latents, mask, noise)
    assert torch.equal(made[mask], latents[mask]) and (made[~mask] != latents[~mask]).all()
    for at in (4, 9):
        other = latents.clone()
        other[:, at] += 1
        assert not torch.equal(fill(toy, prior, other, mask, noise)[0][:, 5:9], made[:, 5:9]), at
    hidden = latents.clone()
    hidden[:, 5:9] = 7.0
    assert torch.equal(fill(toy, prior, hidden, mask, noise)[0], made)


def test_a_row_has_its_own_noise_and_steps_change_the_result(toy):
    prior, latents, mask, noise = window(toy)
    made, _ = fill(toy, prior, latents[:1].expand(2, -1, -1), mask, noise)
    assert not torch.equal(made[0], made[1])
    still, _ = fill(toy, prior, latents[:1].expand(2, -1, -1), mask, noise, spread=0.0)
    assert torch.equal(still[0], still[1])
    assert not torch.equal(fill(toy, prior, latents, mask, noise, steps=1)[0], fill(toy, prior, latents, mask, noise)[0])


def test_a_window_goes_on_exactly_from_a_state_saved_anywhere(toy):
    prior, latents, mask, noise = window(toy)
    made, start = fill(toy, prior, latents, mask, noise)
    state, parts = start(), []
    for update in prior.sample(state):
        parts.append(update.values)
        again = start()
        again.load_state_dict(state.state_dict())
        assert torch.equal(torch.cat([*parts, *(later.values for later in prior.sample(again))], dim=1), made)
    assert [part.shape[1] for part in parts] == [0, 0, 0, 0, 8, 8]
    with pytest.raises(ValueError, match="of a saved state is not"):
        start().load_state_dict({"values": made[:1], "progress": torch.zeros(2, dtype=torch.long)})
