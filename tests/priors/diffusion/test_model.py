"""The diffusion prior: sampling by an exact velocity, known frames, states, guidance, training batches, and sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jukebox.runs.windows import plan_windows
from priors.conditioning.conditions import Conditions
from priors.diffusion.config import DiffusionConfig, DiffusionParams
from priors.diffusion.model import ALONE, ANGLES, NOISE, DiffusionPrior
from priors.diffusion.schedule import frame_angles, velocity
from priors.noise import Generators
from priors.prior import Batch, Known, Window, sample_window
from priors.registry import PRIOR_CONFIGS, PRIORS
from priors.spec import DecodingJob
from tests.priors.conftest import randomise
from tests.priors.diffusion.test_network import CONFIG

ROWS = 2


def prior(config: DiffusionConfig = CONFIG) -> DiffusionPrior:
    torch.manual_seed(0)
    made: Any = randomise(DiffusionPrior(config), scale=0.2)
    made.fit(0.3 * torch.rand(4, 16, 3) - 0.2)
    return made.eval()


def conditions(rows: int = ROWS, tokens: int = 8) -> Conditions:
    rng = torch.Generator().manual_seed(2)
    return Conditions(torch.arange(rows) % 3, torch.zeros(rows, 1, dtype=torch.long),
                      above=torch.randint(8, (rows, tokens, 2), generator=rng))  # fmt: skip


def noise(rows: int = ROWS) -> Generators:
    return Generators([torch.Generator().manual_seed(i) for i in range(rows)])


def known(mask: torch.Tensor) -> Known:
    values = 0.2 * torch.randn(*mask.shape, 3, generator=torch.Generator().manual_seed(3))
    return Known({"latent": values}, {"latent": mask})


def sampled(model: DiffusionPrior, given: Known, params: DiffusionParams | None = None, start: int = 0) -> torch.Tensor:
    rows, length = given.mask["latent"].shape
    window = Window(start, length, start + length)
    return sample_window(model, window, given, conditions(rows), noise(rows), {"latent": params or DiffusionParams(3)})[
        "latent"
    ]


NONE = torch.zeros(ROWS, 32, dtype=torch.bool)


def test_the_registries_know_the_prior_and_its_configuration_comes_back_from_json():
    assert PRIORS.load("diffusion") is DiffusionPrior
    assert PRIOR_CONFIGS.load("diffusion").from_json(CONFIG.to_json()) == CONFIG
    for changes in ({"window": 30}, {"context": 4}, {"segment": 6}, {"width": 10}):
        with pytest.raises(ValueError, match="expected"):
            replace(CONFIG, **changes)


class Exact(nn.Module):
    """The velocity of known clean values and noise, where it is asked for at the right angle of each frame."""

    def __init__(self, clean: torch.Tensor, start: torch.Tensor) -> None:
        super().__init__()
        self.clean, self.start = clean, start

    def forward(self, z, angle, *rest):
        return velocity(self.clean, self.start, angle[..., None])


@pytest.mark.parametrize("schedule", ["linear", "uniform"])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_an_exact_velocity_is_sampled_to_the_clean_latents(schedule, steps):
    model = prior()
    clean = 0.1 * torch.randn(ROWS, 32, 3)
    model.network = Exact(model.normalised(clean), noise().at("latent", 0, 32, 3))  # type: ignore[assignment]
    assert torch.allclose(sampled(model, known(NONE), DiffusionParams(steps, 1.0, schedule)), clean, atol=1e-5)


def test_known_frames_are_bit_exact_in_any_place_and_the_others_are_in_the_range():
    mask = NONE.clone()
    mask[0, :11] = mask[1, 5:9] = mask[1, 30:] = True
    given = known(mask)
    made = sampled(prior(), given, DiffusionParams(4, 2.5))
    assert torch.equal(made[mask], given.sequences["latent"][mask])
    assert made.abs().max() <= 1 and not torch.equal(made[~mask], given.sequences["latent"][~mask])


def test_unknown_frames_depend_on_known_ones_at_both_sides_and_values_of_unknown_ones_do_not_matter():
    mask = NONE.clone()
    mask[:, :8] = mask[:, 24:] = True
    given, model = known(mask), prior()
    first = sampled(model, given)
    for place, matters in ((3, True), (28, True), (15, False)):
        values = given.sequences["latent"].clone()
        values[:, place] += 0.3
        other = sampled(model, Known({"latent": values}, given.mask))
        assert bool((other[:, 8:24] != first[:, 8:24]).any()) == matters, place


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_state_saved_after_any_step_goes_on_to_equal_bytes(guidance):
    model, given, window = prior(), known(NONE), Window(0, 32, 32)
    params = {"latent": DiffusionParams(4, guidance)}
    whole = sample_window(model, window, given, conditions(), noise(), params)["latent"]
    for done in range(1, 5):
        state = model.start(window, given, conditions(), noise(), params)
        steps = model.sample(state)
        for _ in range(done):
            last = next(steps)
        saved = {name: tensor.clone() for name, tensor in state.state_dict().items()}
        again = model.start(window, given, conditions(), noise(), params)
        again.load_state_dict(saved)
        rest = list(model.sample(again))
        assert torch.equal((rest[-1] if done < 4 else last).values, whole) and len(rest) == 4 - done
        assert again.nbytes == whole.nbytes
        with pytest.raises(ValueError, match="saved state"):
            again.load_state_dict({**saved, "z": saved["z"][:, :3]})


def test_there_is_a_pass_for_each_step_and_guidance_widens_it():
    calls: list[int] = []
    model = prior()
    model.network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    sampled(model, known(NONE), DiffusionParams(5, 1.0))
    sampled(model, known(NONE), DiffusionParams(3, 2.0))
    assert calls == [ROWS] * 5 + [2 * ROWS] * 3


def test_guidance_goes_further_from_what_is_sampled_without_tokens():
    model = prior()
    with torch.no_grad():
        state = model.start(Window(0, 32, 32), known(NONE), conditions(), noise(), {"latent": DiffusionParams()})
        angle = torch.full((ROWS, 32), 1.0)
        v = {scale: model._velocity(replace(state, params=DiffusionParams(1, scale)), angle) for scale in (0.0, 1.0, 3.0)}
    assert torch.allclose(v[3.0], v[0.0] + 3 * (v[1.0] - v[0.0]), atol=1e-4) and not torch.allclose(v[0.0], v[1.0], atol=1e-3)


def test_a_window_inside_a_token_has_the_noise_and_the_tokens_of_its_place():
    model = prior()
    state = model.start(Window(6, 20, 40), known(NONE[:, :20]), conditions(), noise(), {"latent": DiffusionParams()})
    assert torch.equal(state.z, noise().at("latent", 6, 20, 3)) and state.offset == 2 and state.tokens.shape == (ROWS, 6, 2)


def test_wrong_windows_and_parameters_are_one_line():
    model = prior()
    with pytest.raises(ValueError, match="expected as many, 1 to 32"):
        sampled(model, known(torch.zeros(ROWS, 33, dtype=torch.bool)))
    with pytest.raises(ValueError, match="0 steps"):
        sampled(model, known(NONE), DiffusionParams(0))
    with pytest.raises(ValueError, match="without tokens"):
        model.start(Window(0, 32, 32), known(NONE), Conditions(), noise(), {"latent": DiffusionParams()})


def test_latents_are_normalised_to_a_deviation_of_1_and_back():
    model, latents = prior(), 0.1 + 0.05 * torch.randn(8, 32, 3)
    model.fit(latents)
    normal = model.normalised(latents)
    assert torch.allclose(normal.flatten(0, 1).std(0), torch.ones(3), atol=1e-4) and model.fitted
    assert torch.allclose(model.latents(normal), latents, atol=1e-6) and model.latents(100 * normal).abs().max() == 1


def test_the_loss_counts_unknown_frames_alone_and_each_chunk_has_its_angle():
    model, true = prior(), 0.2 * torch.randn(ROWS, 32, 3)
    mask = NONE.clone()
    mask[:, :8] = True
    drawn = {ANGLES: torch.rand(ROWS, 4), NOISE: torch.randn(ROWS, 32, 3), ALONE: torch.zeros(ROWS, dtype=torch.bool)}
    batch = Batch({"latent": true, **drawn}, conditions(), {"latent": mask})
    angle = frame_angles(drawn[ANGLES], 32).masked_fill(mask, 0.0)
    target = velocity(model.normalised(true), drawn[NOISE], angle[..., None])

    class Zero(nn.Module):
        def forward(self, z, given, *rest, alone=None):
            assert torch.equal(given, angle) and alone is None
            return torch.zeros_like(z)

    model.network = Zero()  # type: ignore[assignment]
    assert torch.allclose(model.loss(batch)["loss"], target[:, 8:].square().mean(), rtol=1e-5)


def test_a_share_of_training_windows_has_a_clean_beginning_and_some_a_clean_end():
    rngs = [np.random.default_rng(i) for i in range(600)]
    found, asked = prior().draw_masks(rngs)
    mask = found["latent"]
    assert torch.equal(asked["latent"], ~mask) and not mask.all(1).any()
    assert 0.3 <= mask[:, 0].float().mean() <= 0.5 and 0.05 < mask[:, -1].float().mean() < 0.25
    assert {8, 16, 24} <= {int(row.sum()) for row in mask if row[0] and not row[-1]}
    without = DiffusionPrior(replace(CONFIG, multi_chunk=False))
    assert not without.draw_masks(rngs)[0]["latent"].any()


def test_a_batch_without_random_numbers_gets_them_and_has_gradients():
    model = prior().train()
    model.loss(Batch({"latent": torch.rand(ROWS, 32, 3)}, conditions()))["loss"].backward()
    assert model.nll({}, conditions()) is None
    assert any(p.grad is not None and p.grad.any() for p in model.muon_parameters())


def test_the_vectors_of_the_codec_are_kept_for_the_tokens():
    model, vectors = prior(), torch.randn(2, 8, 5)
    model.initialise_embeddings({"tokens": vectors, "latent": torch.zeros(3)})
    assert torch.equal(model.network.tokens.vectors, vectors)


def test_the_memory_is_the_context_and_windows_overlap_by_it():
    assert CONFIG.memory == 16
    planner = plan_windows({"parallel": False, "hop_fractions": [0.5]}, 0, CONFIG, "latent")
    assert list(planner.segments(64, 0)) == [(0, 0, 32), (16, 32, 48), (32, 48, 64)]


def test_the_cost_of_decoding_is_a_pass_per_step_and_window():
    def cost(windows: list[tuple[int, int, int]], **params: float) -> Any:
        job = DecodingJob("latent", "float32", 3, 1, 3, 1, windows, {"token_guidance": 1.0} | params)
        return CONFIG.decoding_cost(job)

    three = [(0, 0, 32), (16, 32, 48), (32, 48, 64)]
    assert cost(three, steps=5).steps == 15 and cost(three[:1], steps=10).steps == 10 and cost([], steps=10).steps == 0
    guided = cost(three, steps=5, token_guidance=2.5)
    assert guided.steps == 15 and math.isclose(guided.products, 2 * cost(three, steps=5).products)


def test_sizes_of_the_configuration_are_those_of_the_model():
    for config in (CONFIG, replace(CONFIG, labels=None, layers=3, width=32, read_books=1)):
        state = DiffusionPrior(config).state_dict()
        assert config.parameters().all == sum(tensor.numel() for tensor in state.values())


def test_in_bfloat16_latents_are_nearly_those_of_float32_and_known_frames_stay():
    mask = NONE.clone()
    mask[:, :8] = True
    given = known(mask)
    whole, half = (sampled(model, given) for model in (prior(), prior().bfloat16()))
    assert half.dtype == torch.float32 and torch.equal(half[mask], given.sequences["latent"][mask])
    assert (whole - half).abs().mean() < 0.1 * whole.std()
