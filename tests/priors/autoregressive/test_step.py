"""Steps of decoding: compiled, captured and plain are one function; a sample's codes do not depend on its neighbours."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from priors.autoregressive import native
from priors.autoregressive.model import AutoregressivePrior
from priors.autoregressive.state import ConditioningInputs
from priors.autoregressive.step import Captured, Plain, capture_stream, stepper
from priors.transformer.config import LOCAL, TrunkConfig
from priors.transformer.trunk import Transformer
from tests.cuda_graph import stub_cuda
from tests.priors.conftest import KINDS, randomise, started

compiler = pytest.mark.skipif(native.why_not() is not None, reason="no C++ compiler here")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
DTYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 0.02), "int8": (torch.bfloat16, 0.02)}


def stepped(prior, codes, cond, primed, compiled: bool) -> torch.Tensor:
    """Logits of the codes from `primed` on, fed step by step."""
    prior.compiled = compiled
    state = started(prior, codes[:, :primed], cond)
    made = []
    for code in codes[:, primed:].unbind(1):
        prior.advance(state, code + prior.vocabulary - prior.config.bins)
        made.append(state.output)
    return torch.stack(made, dim=1)


def in_dtype(prior, dtype: str):
    prior = copy.deepcopy(prior).to(DTYPES[dtype][0])
    if dtype == "int8":
        prior.quantise()
    return prior


@compiler
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_steps_equal_plain_steps_of_every_kind(make, batch, kind, dtype, size):
    prior, (codes, cond) = in_dtype(make(kind), dtype), batch(kind, size)
    for primed in (0, 7, 12):
        codes = codes[:, : prior.config.n_ctx - 1]
        plain, ours = (stepped(prior, codes, cond, primed, compiled) for compiled in (False, True))
        assert ours.dtype == torch.float32
        assert (ours - plain).abs().max() < DTYPES[dtype][1] * plain.float().std() * 5, primed


def tokens_heard(prior, codes, cond) -> torch.Tensor:
    """Logits of native steps from an empty cache: nothing of them is torch's."""
    conditioning = prior.encode_conditions(cond, len(codes))
    caches = prior.trunk.caches(conditioning.start.to(prior.x_emb.weight.dtype), conditioning.encoded, conditioning.distance)
    step = native.Native(prior, conditioning, caches, 0)
    return torch.stack([step(code) for code in codes.unbind(1)], dim=1)


@compiler
@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_logits_depend_neither_on_the_batch_nor_on_the_threads(make, batch, dtype):
    prior, (codes, cond) = in_dtype(make("unlabelled"), dtype), batch("unlabelled", 7)
    together = tokens_heard(prior, codes, cond)
    for size in (1, 2, 3, 6):
        assert torch.equal(tokens_heard(prior, codes[:size], cond), together[:size])
    torch.set_num_threads(2)
    assert torch.equal(tokens_heard(prior, codes, cond), together)
    torch.set_num_threads(1)


@compiler
def test_plain_and_native_steps_take_turns_on_the_same_caches(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    whole = stepped(prior, codes[:, :-1], cond, 4, False)
    state, shift = started(prior, codes[:, :4], cond), prior.vocabulary - prior.config.bins
    for i, code in enumerate(codes[:, 4:-1].unbind(1)):
        prior.compiled, state.step = i % 3 == 1, None
        prior.advance(state, code + shift)
        assert (state.output - whole[:, i]).abs().max() < 1e-4


@compiler
def test_a_step_that_goes_wrong_is_seen(make, batch, kind):
    """The control: a change of one weight of one layer after the start changes the output."""
    prior, (codes, cond) = make(kind), batch(kind)
    before = stepped(prior, codes[:, :9], cond, 8, True)
    for block in prior.trunk.blocks:
        kept = block.mlp.c_fc.w[3, 3].clone()
        block.mlp.c_fc.w.data[3, 3] += 1
        assert (stepped(prior, codes[:, :9], cond, 8, True) - before).abs().max() > 1e-3
        block.mlp.c_fc.w.data[3, 3] = kept


@compiler
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["top", "letters in front", "unlabelled"])
def test_native_steps_with_rotation_equal_plain_steps(batch, name, dtype, size):
    config = KINDS[name]
    prior = randomise(AutoregressivePrior(replace(config, trunk=replace(config.trunk, rope=100.0)))).eval()
    prior, (codes, cond) = in_dtype(prior, dtype), batch(name, size)
    plain, ours = (stepped(prior, codes[:, :-1], cond, 7, compiled) for compiled in (False, True))
    assert (ours - plain).abs().max() < DTYPES[dtype][1] * plain.float().std() * 5


class FramePrior(nn.Module):
    """A prior of frames of books without a table of its own: a step answers with the trunk's output."""

    def __init__(self, config: TrunkConfig, books: int):
        super().__init__()
        self.config, self.trunk, self.table = replace(KINDS["unlabelled"], trunk=config), Transformer(config), None
        self.compiled = True
        self.x_emb = nn.ModuleList(nn.Embedding(11, config.width) for _ in range(books))

    def inputs(self, conditioning: ConditioningInputs, code: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.stack([table(book) for table, book in zip(self.x_emb, code.unbind(1), strict=True)]).sum(0)
        again = conditioning.at(position)
        assert again is not None
        return x[:, None], again

    def step(self, conditioning: ConditioningInputs, caches, code: Tensor, position: Tensor) -> Tensor:
        x, again = self.inputs(conditioning, code, position)
        return (self.trunk.step(x, caches, position) + again)[:, 0]


@torch.no_grad()
def frame_outputs(dtype: torch.dtype, size: int, compiled: bool, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Outputs of steps from an empty cache, and of the whole pass."""
    config = TrunkConfig(24, 16, 5, heads=2, order=("dense", *LOCAL, "dense"), blocks=4, m_attn=0.5, rope=100.0)
    prior = randomise(FramePrior(config, 3)).to(device, dtype)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(11, (size, 24, 3), generator=generator).to(device)
    steps = torch.randn(size, 24, 16, generator=generator).to(device, dtype)
    conditioning = ConditioningInputs(steps[:, :1], steps, None, None, None)
    step = stepper(prior, conditioning, prior.trunk.caches(steps), 0, compiled)
    embedded = sum(table(frames[:, :, i]) for i, table in enumerate(prior.x_emb))
    return torch.stack([step(frame) for frame in frames.unbind(1)], 1), prior.trunk(embedded) + steps


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=compiler)])
def test_steps_of_a_prior_without_a_table_return_the_output_of_the_trunk(dtype, size, compiled):
    ours, whole = frame_outputs(dtype, size, compiled)
    assert ours.shape == (size, 24, 16)
    assert (ours - whole).abs().max() < DTYPES[str(dtype).removeprefix("torch.")][1] * whole.float().std() * 5


@gpu
def test_captured_steps_of_a_prior_without_a_table_return_the_output_of_the_trunk():
    ours, whole = frame_outputs(torch.float32, 3, True, "cuda")
    assert (ours - whole).abs().max() < 1e-4


@pytest.fixture
def cuda(monkeypatch):
    """What is done on a device where CUDA graphs are those of `tests/cuda_graph.py`."""
    capture_stream.cache_clear()
    yield stub_cuda(monkeypatch)
    capture_stream.cache_clear()


def captured_logits(prior, codes, cond) -> Tensor:
    """Logits of captured steps from code 7 on; before each of them all that only this function holds is freed."""
    state, made = started(prior, codes[:, :7], cond), []
    step = Captured(prior, state.conditioning, state.caches, state.position)
    del state
    for code in (codes[:, 7:] + prior.vocabulary - prior.config.bins).unbind(1):
        gc.collect()
        made.append(step(code.clone()))
    return torch.stack(made, dim=1)


@torch.no_grad()
def test_captured_steps_hold_all_memory_that_they_use_and_equal_plain_steps(make, batch, kind, cuda):
    prior, (codes, cond) = make(kind), batch(kind)
    plain = stepped(prior, codes[:, :-1], cond, 7, False)
    assert torch.equal(captured_logits(prior, codes[:, :-1], cond), plain)
    assert cuda.count("replay") == plain.shape[1] and cuda.count("capture") == 1


@torch.no_grad()
def test_a_graph_whose_position_is_freed_is_seen(make, batch, cuda, monkeypatch):
    """The control: the memory of the position is used by nobody else."""
    plain = Plain.__call__

    def copies_its_position(self, code):
        self.position = self.position.clone()
        return plain(self, code)

    monkeypatch.setattr(Plain, "__call__", copies_its_position)
    prior, (codes, cond) = make("top"), batch("top")
    with pytest.raises(AssertionError, match="memory that was freed"):
        captured_logits(prior, codes[:, :-1], cond)


@torch.no_grad()
def test_steps_are_captured_and_replayed_on_the_device_of_their_codes(make, batch, cuda):
    prior, (codes, cond) = make("top"), batch("top")
    captured_logits(prior, codes[:, :9], cond)
    assert cuda == ["enter cpu", "capture", "replay", "leave cpu", "enter cpu", "replay", "leave cpu"]


@torch.no_grad()
def test_where_a_capture_runs_out_of_memory_steps_are_plain_with_one_line(make, batch, cuda, capsys, monkeypatch):
    prior, (codes, cond) = make("top"), batch("top")
    plain = stepped(prior, codes[:, :-1], cond, 7, False)
    step = prior.step

    def fails_in_a_capture(*given):
        made = step(*given)
        if "capture" in cuda and not prior.failed:
            prior.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GB\nand more")
        return made

    prior.compiled, prior.failed = True, False
    monkeypatch.setattr(prior, "step", fails_in_a_capture)
    assert torch.equal(captured_logits(prior, codes[:, :-1], cond), plain) and not prior.compiled
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "could not be captured (CUDA out of memory. Tried to allocate 2 GB)" in error


@compiler
def test_the_compiled_library_is_given_no_memory_of_another_device(make):
    prior = make("unlabelled")
    caches = prior.trunk.caches(torch.zeros(1, 1, 16))
    caches[1].k = caches[1].k.to("meta")
    start = ConditioningInputs(torch.zeros(1, 1, 16), *[None] * 4)
    with pytest.raises(ValueError, match="a tensor on meta; expected the prior and its caches on the CPU"):
        native.Native(prior, start, caches, 0)
    assert native.why_not("float32", "mps") == "steps are compiled on a CPU and captured on an NVIDIA GPU, not on mps"


def test_compiled_steps_on_a_device_without_a_compiler_are_plain():
    steps = torch.zeros(1, 4, 16, device="meta")
    assert isinstance(
        stepper(FramePrior(KINDS["top"].trunk, 1), ConditioningInputs(steps, steps, *[None] * 3), [], 0, True), Plain
    )


@gpu
@torch.no_grad()
def test_captured_steps_equal_plain_steps(make, batch, kind, monkeypatch):
    if "check_input_liveness" in inspect.signature(torch.cuda.graph).parameters:
        monkeypatch.setattr(torch.cuda, "graph", functools.partial(torch.cuda.graph, check_input_liveness=True))
    prior, (codes, cond) = make(kind).cuda(), batch(kind)
    codes, cond = codes[:, :-1].cuda(), cond.to("cuda")
    plain = stepped(prior, codes, cond, 7, False)
    assert (captured_logits(prior, codes, cond) - plain).abs().max() < 1e-4
    assert (stepped(prior, codes, cond, 0, True) - stepped(prior, codes, cond, 0, False)).abs().max() < 1e-4


def test_int8_weights_are_within_half_a_step_of_theirs(make, kind):
    prior = make(kind)
    linear = prior.trunk.blocks[0].mlp.c_fc
    w = linear.w.t().clone()
    x = torch.randn(3, w.shape[1])
    y = linear(x)
    prior.quantise()
    ours = prior.trunk.blocks[0].mlp.c_fc
    assert ours.w.dtype == torch.int8 and ours.w.abs().max() == 127
    assert ((ours.w * ours.scale[:, None] - w).abs() <= 0.5001 * ours.scale[:, None]).all()
    assert (ours(x) - y).abs().max() < 0.03 * y.abs().max()
