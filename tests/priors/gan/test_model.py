"""The latent GAN: seams in any batching, loop, conditions by frame, what its losses are and whom they reach, sizes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from priors.conditioning.conditions import Conditions
from priors.conditioning.config import LabelConfig
from priors.gan.config import GanConfig, GanParams
from priors.gan.critic import Judged
from priors.gan.model import CRITIC, NUMBERS, PENALTY_STEP, STARTS, GanPrior
from priors.noise import Generators, WindowNoise
from priors.prior import Batch, Known, Window, sample_window

STREAM = "spectral.2"
CONFIG = GanConfig(
    STREAM, 6, 512, 22050, patch=8, spacing=16, coordinates=10, style=9, widths=(12, 8), critic_widths=(8, 10), embedding=4,
    labels=LabelConfig(3, 2),
)  # fmt: skip
UNLABELLED = replace(CONFIG, labels=None, controls=())


def prior(config: GanConfig = CONFIG) -> Any:
    torch.manual_seed(0)
    made = GanPrior(config)
    for name, p in made.named_parameters():
        if name.endswith(".noise"):
            torch.nn.init.constant_(p, 0.3)
    return made.eval()


def window(
    model, start: int, length: int, rows: int = 1, params=None, cond=None, prompt: int = 0, seed: int = 5
) -> torch.Tensor:
    """Frames [start, start + length) of samples 0 to `rows`; the first `prompt` are known, and ones."""
    noise = WindowNoise(seed, STREAM, {STREAM: STREAM}, [(i, start + prompt) for i in range(rows)])
    known = Known.prefix(STREAM, torch.ones(rows, prompt, 6), length)
    cond = Conditions() if cond is None else cond
    return sample_window(model, Window(start, length, 100), known, cond, noise, {STREAM: params or GanParams()})[STREAM]


def batch(config: GanConfig = CONFIG, rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(rows, GanPrior(config).numbers, generator=generator)
    sequences = {
        STREAM: torch.tanh(torch.randn(rows, 16, 6, generator=generator)),
        NUMBERS: numbers,
        STARTS: torch.arange(rows) % 2,
    }
    controls = {name: torch.rand(rows, 16, generator=generator) * 100 for name in config.controls}
    artist, genres = (torch.arange(rows) % 3, torch.ones(rows, 1, dtype=torch.long)) if config.labels else (None, None)
    return Batch(sequences, Conditions(artist, genres, controls=controls))


@pytest.mark.parametrize("size", [8, 16, 24])
def test_windows_of_any_length_agree_with_one_window(size):
    model = prior()
    whole = window(model, 0, 48)
    parts = torch.cat([window(model, at, min(size, 48 - at)) for at in range(0, 48, size)], dim=1)
    assert torch.allclose(parts, whole, atol=1e-6) and whole.std() > 0.05
    assert torch.allclose(window(model, 13, 20), whole[:, 13:33], atol=1e-6), "also where a window begins inside a patch"


def test_known_frames_come_first_and_the_rest_is_what_it_would_be_without_them():
    model = prior()
    made = window(model, 5, 14, prompt=6)
    assert torch.equal(made[:, :6], torch.ones(1, 6, 6)) and torch.allclose(made[:, 6:], window(model, 11, 8), atol=1e-6)


def test_a_row_does_not_depend_on_its_batch_and_differs_from_the_others():
    model = prior()
    together = window(model, 8, 16, rows=3)
    assert torch.allclose(together[:1], window(model, 8, 16), atol=1e-6)
    assert (together[0] - together[1]).abs().mean() > 0.01
    assert (window(model, 8, 16) - window(model, 8, 16, seed=6)).abs().mean() > 0.01


def test_a_loop_repeats_after_two_anchors_without_a_jump_and_other_music_does_not():
    model = prior()
    made = window(model, 0, 96, params=GanParams(loop=True))
    assert torch.allclose(made[:, :32], made[:, 32:64], atol=1e-6)
    jumps = (made[0, 1:] - made[0, :-1]).norm(dim=-1)
    borders = jumps[7::8]
    assert jumps[31] <= borders.max() + 1e-6, "the end of a period is a border of patches as any other"
    assert (window(model, 0, 32) - window(model, 32, 32)).abs().mean() > 0.01


def test_truncation_bounds_the_style_and_leaves_the_coordinates_at_their_own_bound():
    model = prior(replace(UNLABELLED, coordinates=200, style=200))
    noise = Generators([torch.Generator().manual_seed(0)])
    known = Known.prefix(STREAM, torch.zeros(1, 0, 6), 8)
    inputs = model.start(Window(0, 8, 8), known, Conditions(), noise, {STREAM: GanParams(truncation=0.1)}).inputs[0, 0]
    assert inputs[:, 200:].abs().max() <= 0.1 < 1 < inputs[:, :200].abs().max() <= 1.75
    for bound in (0.05, 4.0):
        with pytest.raises(ValueError, match=f"truncation {bound:g}; expected 0.1 to 3.9"):
            model.start(Window(0, 8, 8), known, Conditions(), noise, {STREAM: GanParams(truncation=bound)})


def test_conditions_that_are_a_function_of_time_take_effect_at_the_patch_at_which_they_change():
    model, asked = prior(), []

    def later(seconds: float) -> Conditions:
        asked.append(seconds)
        return Conditions(controls={"tempo": torch.tensor([[120.0 if seconds < 0.5 else 90.0]])})

    made, steady = window(model, 0, 32, cond=later), window(model, 0, 32, params=GanParams(tempo=120.0))
    assert asked == [pytest.approx(i * 8 * 512 / 22050) for i in range(4)]
    changed = (made - steady).abs().amax(dim=(0, 2))
    assert changed[:24].max() < 1e-6 < changed[24:].max(), "0.56 s is the first patch after 0.5 s"


def test_controls_by_frame_begin_with_their_window():
    model = prior()
    by_frame = Conditions(controls={"density": torch.linspace(1, 9, 16)[None]})
    made = window(model, 8, 16, cond=by_frame)
    other = window(model, 8, 16, cond=Conditions(controls={"density": torch.full((1, 16), 5.0)}))
    assert (made - other).abs().max() > 1e-4
    constant = window(model, 8, 16, params=GanParams(density=5.0))
    assert torch.allclose(other, constant, atol=1e-6), "a constant control is a parameter, too"


def test_an_unconditional_generator_has_the_inputs_of_coordinates_and_style_alone():
    """The released code of Musika has this inverted."""
    assert UNLABELLED.inputs == 19 and CONFIG.inputs == 19 + 4 + 4 == prior().generator.norm.scale.in_channels
    assert prior(UNLABELLED).critic.inlet.in_channels == 12 and prior().critic.inlet.in_channels == 12 + 8
    assert window(prior(UNLABELLED), 0, 8).shape == (1, 8, 6)


def test_numbers_that_a_batch_lacks_are_drawn():
    model, some = prior(), batch()
    bare = Batch({STREAM: some.sequences[STREAM]}, some.cond)
    torch.manual_seed(0)
    losses = model.loss(bare)
    assert torch.isfinite(losses["loss"]) and losses["loss"] != model.loss(bare)["loss"]


def test_each_half_of_a_training_window_is_generated_alone():
    model, some = prior(), batch()
    made = model.generated(some)
    changed = some.sequences[NUMBERS].clone()
    changed[:, -CONFIG.noise :] += 1
    other = model.generated(replace(some, sequences={**some.sequences, NUMBERS: changed}))
    assert torch.equal(made[:, :8], other[:, :8]) and (made[:, 8:] - other[:, 8:]).abs().max() > 1e-3


def test_training_windows_have_what_sampling_makes_of_the_same_numbers():
    """The window at start 0 of the anchors is the first two patches of a sequence."""
    model = prior(UNLABELLED)
    noise, width = WindowNoise(5, STREAM, {STREAM: STREAM}, [(0, 0)]), 10 + 9 + UNLABELLED.noise
    rows = [noise.at(STREAM, frame, 1, width)[0, 0] for frame in (0, 16, 32, 8)]
    numbers = torch.cat([*(row[:10] for row in rows[:3]), rows[0][10:19], rows[0][19:], rows[3][19:]])[None]
    made = model.generated(Batch({NUMBERS: numbers, STARTS: torch.tensor([0])}, Conditions()))
    assert torch.allclose(made, window(model, 0, 16, params=GanParams(truncation=3.9)), atol=0.02)


class LinearCritic(torch.nn.Module):
    """Scores of which the gradient is known; its features are the window itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(16, 6))

    def forward(self, x: torch.Tensor, cond: torch.Tensor) -> Judged:
        return Judged((x * self.weight).sum((1, 2)), x)

    def reconstruct(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_the_penalty_is_that_of_a_gradient_by_hand_and_of_true_windows_alone():
    model, some = prior().train(), batch()
    model.critic = LinearCritic()
    losses = [model.loss(some, CRITIC, made) for made in (torch.zeros(4, 16, 6), torch.full((4, 16, 6), torch.nan))]
    for each in losses:
        assert torch.allclose(each["gradient_penalty"], model.critic.weight.square().sum())
    model.critic.weight.grad, model.penalty[...] = None, 10.0
    true = some.sequences[STREAM]
    model.loss(some, CRITIC, torch.zeros(4, 16, 6))["loss"].backward()
    scores = (true * model.critic.weight).sum((1, 2))
    by_hand = 20 * model.critic.weight.detach() - (true * (scores < 1)[:, None, None]).mean(0) / 2
    found: Any = model.critic.weight.grad
    assert torch.allclose(found, by_hand, atol=1e-5)


def test_the_critic_learns_from_its_loss_and_the_generator_and_the_mixing_do_not():
    model, some = prior().train(), batch()
    losses = model.loss(some, CRITIC, model.generated(some))
    losses["loss"].backward()
    assert all(p.grad is None for p in (*model.generator.parameters(), *model.labels.parameters()))
    assert model.critic.inlet.weight.grad.abs().sum() > 0 and not model.critic.mixing.requires_grad
    assert "critic.mixing" in model.state_dict() and "critic.mixing" not in dict(model.named_parameters())


def test_the_operations_of_a_step_can_be_counted():
    from torch.utils.flop_counter import FlopCounterMode

    model, some = prior().train(), batch()
    with FlopCounterMode(display=False) as counter:
        model.loss(some, CRITIC, model.generated(some))["loss"].backward()
    assert counter.get_total_flops() > 1000


def test_the_reconstruction_head_counts_true_windows_only():
    model, some = prior().train(), batch()
    a, b = (model.loss(some, CRITIC, made)["reconstruction_error"] for made in (torch.zeros(4, 16, 6), torch.ones(4, 16, 6)))
    assert torch.equal(a, b)
    other = replace(some, sequences={**some.sequences, STREAM: -some.sequences[STREAM]})
    assert model.loss(other, CRITIC, torch.zeros(4, 16, 6))["reconstruction_error"] != a


def test_the_weight_of_the_penalty_follows_the_certainty_of_the_critic():
    model, some = prior().train(), batch()
    model.penalty.fill_(5.0)
    model.loss(some, CRITIC)
    assert model.penalty.item() == pytest.approx(5.0 - PENALTY_STEP), "an untrained critic is not certain"
    truth = some.sequences[STREAM]

    class Sure(LinearCritic):
        def forward(self, x: torch.Tensor, cond: torch.Tensor) -> Judged:
            return Judged((1.0 if torch.equal(x.detach(), truth) else -1.0) + 0 * x.sum((1, 2)), x)

    model.critic = Sure()
    model.loss(some, CRITIC)
    assert model.penalty.item() == pytest.approx(5.0)
    assert model.eval().loss(some, CRITIC)["penalty_weight"] == model.penalty


def test_a_channel_that_does_not_change_in_time_stays_finite_in_half_precision():
    model = prior().bfloat16()
    torch.nn.init.zeros_(model.generator.dense.weight)
    made = window(model, 0, 16)
    assert torch.isfinite(made).all() and made.dtype == torch.float32


def test_a_saved_window_goes_on_and_one_of_another_prior_raises():
    model = prior()
    noise = Generators([torch.Generator().manual_seed(0)])
    state = model.start(
        Window(0, 16, 16), Known.prefix(STREAM, torch.zeros(1, 0, 6), 16), Conditions(), noise, {STREAM: GanParams()}
    )
    (update,) = model.sample(state)
    assert update.start == 0 and update.values.shape == (1, 16, 6) and state.state_dict()["done"]
    with pytest.raises(ValueError, match="done of a saved state"):
        state.load_state_dict({})


def test_sizes_of_the_configuration_are_those_of_the_model():
    for config in (CONFIG, UNLABELLED, GanConfig("x", 64, 2048, 22050, labels=LabelConfig(5, 4))):
        model = GanPrior(config)
        assert config.parameters().all == sum(x.numel() for x in model.state_dict().values())
        assert GanConfig.from_json(config.to_json()) == config


def test_shapes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="patch 32 with 2 widths"):
        replace(CONFIG, patch=32)
    with pytest.raises(ValueError, match="spacing 12; expected a multiple of the patch of 8"):
        replace(CONFIG, spacing=12)
