"""WaveNet: causal by gradient, its receptive field by perturbation, cached steps of all ways against full logits, conditions, resuming."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from priors.autoregressive.step import Captured, capture_stream
from priors.conditioning.conditions import Conditions
from priors.conditioning.config import LabelConfig
from priors.noise import Generators
from priors.prior import Known, Window, sample_window
from priors.wavenet.config import StackConfig, WaveNetConfig, WaveNetParams
from priors.wavenet.model import WaveNetPrior
from priors.wavenet.step import NativeSteps, Stepwise
from tests.cuda_graph import stub_cuda
from vqvae.mulaw.config import SILENCE

STACK = StackConfig(cycle=3, repeats=2, channels=10, gate=9, skip=11)
LABELS = LabelConfig(4, 3, max_genres=2, timing_bins=8, max_seconds=20.0, sample_rate=1000)
CONFIG = WaveNetConfig(
    "mulaw", 256, 1, 1000, 96, SILENCE, STACK, frame=8, labels=LABELS, reads="vq.2", read_bins=7, controls=("density",)
)
PLAIN = replace(CONFIG, labels=None, reads="", read_bins=0, controls=())


def prior(config: WaveNetConfig = CONFIG, seed: int = 0) -> WaveNetPrior:
    torch.manual_seed(seed)
    return WaveNetPrior(config).eval()


def codes(rows: int = 2, frames: int = 96, seed: int = 1) -> Tensor:
    return torch.randint(256, (rows, frames), generator=torch.Generator().manual_seed(seed))


def conditions(rows: int = 2, seed: int = 2) -> Conditions:
    rng = torch.Generator().manual_seed(seed)
    timing = torch.tensor([[9000, 1000, 96]]).expand(rows, -1)
    above = torch.randint(7, (rows, 12), generator=rng)
    controls = {"density": 1 + 8 * torch.rand(rows, 12, generator=rng), "of another prior": torch.rand(rows, 12)}
    return Conditions(torch.arange(rows) + 1, torch.tensor([[1, -1]]).expand(rows, -1), timing, above=above, controls=controls)


def noise(rows: int = 2, first: int = 0) -> Generators:
    return Generators([torch.Generator().manual_seed(first + row) for row in range(rows)])


def begun(model: WaveNetPrior, prompt: Tensor, cond: Conditions, length: int = 90, rows: Generators | None = None, **params):
    known = Known.prefix("mulaw", prompt, length)
    return model.start(Window(0, length, 96), known, cond, rows or noise(len(prompt)), {"mulaw": WaveNetParams(**params)})


def sampled(model: WaveNetPrior, prompt: Tensor, cond: Conditions, length: int = 90, **params) -> Tensor:
    known = Known.prefix("mulaw", prompt, length)
    window, rows = Window(0, length, 96), noise(len(prompt))
    return sample_window(model, window, known, cond, rows, {"mulaw": WaveNetParams(**params)})["mulaw"]


def all_logits(model: WaveNetPrior, known: Tensor, cond: Conditions) -> Tensor:
    """Those of every code of the window."""
    return model.logits(known[:, :-1], model.encode_conditions(cond, len(known)))


# -------------------- W1


FIELDS = [  # receptive fields multiplied out by hand
    (StackConfig(3, 1, 6, 6, 6), 1 + 7),
    (StackConfig(3, 2, 6, 6, 6), 1 + 2 * 7),
    (StackConfig(4, 1, 6, 6, 6, kernel=3), 1 + 2 * 15),
    (StackConfig(5, 2, 6, 6, 6), 1 + 2 * 31),
]


@pytest.mark.parametrize(("stack", "expected"), FIELDS)
def test_the_receptive_field_by_perturbation_is_that_of_the_formula(stack, expected):
    model, known = prior(replace(PLAIN, stack=stack)).double(), codes(1)
    assert stack.receptive_field == expected
    other, at = known.clone(), 10
    other[0, at] = (other[0, at] + 100) % 256
    changed = (all_logits(model, known, Conditions()) != all_logits(model, other, Conditions())).any(dim=-1)[0].nonzero()[:, 0]
    assert changed.min() == at + 1 and changed.max() == at + expected  # logits t are those of code t


def test_the_logits_of_a_code_depend_on_no_later_input_by_gradient():
    model = prior().double()
    conditioning = model.encode_conditions(conditions(1), 1)
    x = torch.randn(1, 60, 10, dtype=torch.float64, requires_grad=True)
    model.stack(x, conditioning.steps, 8)[0, 30].sum().backward()
    reached = x.grad.abs().sum(dim=-1)[0].nonzero()[:, 0]
    assert reached.max() == 30 and reached.min() == 30 - STACK.receptive_field + 1


def test_published_receptive_fields():
    thousand = StackConfig(10, 3)
    assert thousand.receptive_field == 3070 and replace(thousand, kernel=3).receptive_field == 6139
    assert StackConfig(10, 2).receptive_field == 2047
    with pytest.raises(ValueError, match="a window of 2048 samples; expected a multiple of 100"):
        replace(CONFIG, window=2048, frame=100)


# -------------------- W3


@pytest.mark.parametrize("given", [0, 1, 5, 40])
@pytest.mark.parametrize("kernel", [2, 3])
def test_cached_logits_are_those_of_the_whole_window(given, kernel):
    model, known, cond = prior(replace(CONFIG, stack=replace(STACK, kernel=kernel))).double(), codes(), conditions()
    whole, state = all_logits(model, known, cond), begun(model, known[:, :given], cond)
    made = [state.output]
    for at in range(given, 90):
        made.append(model.step(state.conditioning, state.caches, known[:, at], torch.tensor([at + 1])))
    assert (torch.stack(made, dim=1) - whole[:, given:91]).abs().max() < 1e-12


@pytest.mark.parametrize("stack", [STACK, StackConfig(4, 2, 64, 64, 80, kernel=3)])
def test_logits_of_the_cpp_step_are_those_of_the_whole_window(stack):
    model, known, cond = prior(replace(CONFIG, stack=stack)), codes(3), conditions(3)
    whole, state = all_logits(model, known, cond), begun(model, known[:, :4], cond)
    step = NativeSteps(model, state.conditioning, state.caches[0], state.position)
    made = torch.stack([step(known[:, at]) for at in range(4, 90)], dim=1)
    assert (made - whole[:, 5:91]).abs().max() < 1e-4


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 9}, {"top_p": 0.8}, {"top_k": 30, "top_p": 0.5}]
)
def test_codes_of_the_cpp_steps_are_those_of_plain_steps(params):
    model, cond = prior(), conditions()
    plain = sampled(model, codes()[:, :6], cond, **params)
    model.compiled = True
    assert torch.equal(sampled(model, codes()[:, :6], cond, **params), plain)
    assert plain[:, 6:].unique().numel() > 5 and torch.equal(plain[:, :6], codes()[:, :6])


def test_a_step_that_is_repeated_as_a_capture_does_has_one_effect():
    model, cond = prior(replace(CONFIG, stack=replace(STACK, kernel=3))).double(), conditions()
    state, known = begun(model, codes()[:, :50], cond), codes()
    first, again = (model.step(state.conditioning, state.caches, known[:, 50], torch.tensor([51])) for _ in range(2))
    assert torch.equal(first, again)


@pytest.fixture
def cuda(monkeypatch):
    """What is done on a device where CUDA graphs are those of `tests/cuda_graph.py`, on a CPU."""
    capture_stream.cache_clear()
    yield stub_cuda(monkeypatch)
    capture_stream.cache_clear()


def test_codes_of_captured_steps_are_those_of_plain_steps(cuda):
    model, cond = prior(), conditions()
    plain = sampled(model, codes()[:, :6], cond, length=10)
    state = begun(model, codes()[:, :6], cond, length=10)
    state.step = Stepwise(Captured(model, state.conditioning, state.caches, state.position))
    made = torch.cat([values for _, _, values in model.sample(state)], dim=1)
    assert torch.equal(made, plain[:, 6:]) and cuda.count("capture") == 1 and cuda.count("replay") == 3


# -------------------- sampling


def test_rows_do_not_depend_on_the_batch():
    for compiled in (False, True):
        model, cond = prior() if compiled else prior().double(), conditions()
        model.compiled = compiled
        together = sampled(model, codes()[:, :6], cond)
        known = Known.prefix("mulaw", codes()[1:, :6], 90)
        alone = sample_window(model, Window(0, 90, 96), known, cond.rows(slice(1, 2)), noise(1, 1), {"mulaw": WaveNetParams()})
        assert torch.equal(alone["mulaw"], together[1:])


def test_a_window_continues_from_the_ring_buffers_of_the_window_before():
    """Known samples as many as the receptive field restore the buffers: the same logits as of one long window."""
    model, known = prior(PLAIN).double(), codes()
    field = PLAIN.memory
    state = begun(model, known[:, :70], Conditions())
    later = begun(model, known[:, 70 - field : 70], Conditions(), length=80)
    assert torch.allclose(later.output, state.output, atol=1e-12, rtol=0)
    short = begun(model, known[:, 70 - field + 1 : 70], Conditions(), length=80)
    assert not torch.allclose(short.output, state.output, atol=1e-6, rtol=0)  # the control: one sample less
    a, b = (each.caches[0].taps(torch.tensor([each.position])) for each in (state, later))
    assert torch.allclose(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_saved_state_goes_on_in_the_middle_of_a_window_to_the_same_codes(compiled):
    model, cond = prior(replace(CONFIG, sample_rate=200)), conditions()  # updates of 10 samples
    model.compiled = compiled
    whole = sampled(model, codes()[:, :6], cond)
    state = begun(model, codes()[:, :6], cond)
    updates = model.sample(state)
    first = [next(updates) for _ in range(3)]
    assert [each.start for each in first] == [6, 16, 26] and first[0].values.shape == (2, 10)
    saved = {name: x.clone() for name, x in state.state_dict().items()}
    again = begun(model, codes()[:, :6], cond)
    again.load_state_dict(saved)
    rest = torch.cat([values for _, _, values in model.sample(again)], dim=1)
    assert torch.equal(rest, whole[:, 36:]) and again.nbytes == saved["values_0"].nbytes
    with pytest.raises(ValueError, match="values_0 of a saved state"):
        again.load_state_dict({**saved, "values_0": saved["values_0"][:-1]})


def test_an_update_is_50_ms_long_at_least():
    for rate in (1000, 16000, 22050, 44100):
        assert replace(CONFIG, sample_rate=rate).block >= 0.05 * rate - 1


# -------------------- conditions


def test_a_frame_of_conditions_is_that_of_its_own_samples_and_no_others():
    """Index t // frame: a change of frame 5 changes the logits of samples 40 on, which its layers remember, and none before."""
    model, known, cond = prior().double(), codes(1), conditions(1)
    other = cond.above.clone()
    other[0, 5] = (other[0, 5] + 1) % 7
    changed = all_logits(model, known, cond) != all_logits(model, known, replace(cond, above=other))
    reached = changed.any(dim=-1)[0].nonzero()[:, 0]
    assert reached.min() == 40 and reached.max() == 47 + STACK.receptive_field - 1 - 1  # they enter after the first taps


@pytest.mark.parametrize(
    "changes", [{"artist": torch.tensor([3, 3])}, {"genres": torch.tensor([[2, 0]] * 2)}, {"timing": torch.tensor([[9000, 8000, 96]] * 2)},
                {"controls": {"density": torch.ones(2, 12)}}]
)  # fmt: skip
def test_every_condition_changes_the_logits(changes):
    model, cond = prior(), conditions()
    assert not torch.allclose(all_logits(model, codes(), cond), all_logits(model, codes(), replace(cond, **changes)), atol=1e-5)


def test_controls_may_be_asked_for_and_one_that_it_was_not_trained_with_raises():
    model, known, cond = prior(), codes()[:, :9], replace(conditions(), controls={})
    unknown, asked = begun(model, known, cond), begun(model, known, cond, density=4.0)
    given = begun(model, known, replace(cond, controls={"density": torch.full((2, 12), 4.0)}))
    assert torch.equal(asked.conditioning.steps, given.conditioning.steps)
    assert not torch.equal(asked.conditioning.steps, unknown.conditioning.steps)
    with pytest.raises(ValueError, match="tempo 90: this WaveNet was trained with the controls density; leave it away"):
        begun(model, known, cond, tempo=90.0)


def test_latents_of_the_stream_above_are_read_as_they_are():
    model = prior(replace(CONFIG, read_bins=0, read_width=5))
    cond = replace(conditions(), above=torch.randn(2, 12, 5))
    assert not torch.allclose(all_logits(model, codes(), cond), all_logits(model, codes(), replace(cond, above=-cond.above)))


# -------------------- sizes, bits


def test_sizes_of_the_configuration_are_those_of_the_model():
    for config in (CONFIG, PLAIN, replace(CONFIG, read_bins=0, read_width=5), replace(CONFIG, stack=replace(STACK, kernel=3))):
        assert sum(p.numel() for p in prior(config).parameters()) == config.parameters().all
        assert len(begun(prior(config), codes()[:, :3], Conditions()).caches[0].values) == config.stack.slots
        assert WaveNetConfig.from_json(config.to_json()) == config


def test_bits_are_those_of_the_logits_and_known_samples_have_none():
    model, known, cond = prior(), codes(), conditions()
    shares = torch.softmax(all_logits(model, known, cond), dim=-1)
    expected = -shares.gather(2, known[..., None])[..., 0].log2()
    mask = {"mulaw": (torch.arange(96) < 9).expand(2, -1)}
    bits = model.nll({"mulaw": known}, cond, mask)["mulaw"]
    assert bits[:, :9].isnan().all() and torch.allclose(bits[:, 9:], expected[:, 9:], atol=1e-4)


def test_codes_of_nearly_the_same_sample_start_alike():
    model = prior()
    model.initialise_embeddings({"mulaw": torch.linspace(-1, 1, 256)[:, None]})
    table = model.x_emb.weight
    assert (table[100] - table[101]).norm() < 0.3 * (table[0] - table[255]).norm()
