"""The plan of a run: its exact parts are the files' and buffers' own, the others hold what the code holds, and fitting fits."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.errors import UserError
from jukebox.importers.convert import write_prior
from jukebox.importers.streamed import Lazy
from jukebox.model.folder import build_prior, read_state
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find, read_info, shapes
from jukebox.planning.sampling import Speed, fit, plan_sampling, spell
from jukebox.planning.training import Training, memory
from jukebox.runs.windows import starts
from launch.verbs.plan import table
from priors.autoregressive.config import AutoregressiveParams
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import Conditions, Lyrics, SungFrames
from priors.noise import Generators
from priors.prior import HasTrunk, Known, Window
from priors.spec import DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec
from priors.tokens.config import FrameParams
from tests.peak import shrunk
from tests.runs import top_levels
from vqvae.spectral.config import TOKENS
from vqvae.streams import CodecConfig, CodecSpec, Stream, frame_count

GB = 10**9


def request(**changes) -> dict:
    asked = {"seconds": 60.0, "levels": [2, 1, 0], "samples": [{}] * 4, "hop_fractions": (0.5, 0.5, 0.5), "params": {}}
    return (
        asked
        | {"device": "cpu", "dtype": "bfloat16", "batch": 0, "parallel": False, "given": {}, "hops": (8, 32, 128)}
        | changes
    )


@pytest.fixture(scope="module")
def published() -> ModelInfo:
    return read_info("1b_lyrics")


# ---- memory


class Tally(TorchDispatchMode):
    """Bytes of the storages made inside that are alive `now`, and the most there were at once, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self.see(tensor.untyped_storage())
        return made

    def see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def forget(_: object) -> None:
            del self.alive[key]
            self.now -= size

        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, forget)
            self.now += size
            self.peak = max(self.peak, self.now)


SHAPES = {name: shrunk(name) for name in ("prior_1b_lyrics", "prior_5b_lyrics", "upsampler_level_0", "demo")}


@pytest.mark.parametrize(("primed", "dtype"), [(True, "float32"), (True, "bfloat16"), (False, "bfloat16")])
@pytest.mark.parametrize("name", SHAPES)
def test_a_window_holds_the_tensors_that_are_planned(name, primed, dtype):
    config, batch = SHAPES[name], 2
    n_ctx, prime = config.n_ctx, config.n_ctx // 2 if primed else 0
    prior = AutoregressivePrior(config).to(getattr(torch, dtype))
    for parameter in prior.parameters():
        parameter.requires_grad_(False)
    cond = Conditions(
        timing=torch.tensor([[10**7, 0, 10**5]] * batch) if config.labels and config.labels.timing_bins else None,
        lyrics=Lyrics(*(torch.zeros(batch, config.n_tokens, dtype=t) for t in (torch.long, torch.float32)))
        if config.lyrics
        else None,
        above=torch.zeros(batch, n_ctx // config.ratio).long() if config.above else None,
    )
    window, noise = Window(0, prime + 3, n_ctx), Generators([torch.Generator()] * batch)
    known = Known.prefix(config.stream, torch.zeros(batch, prime).long(), window.length)
    with Tally() as tally:
        state = prior.start(window, known, cond, noise, {config.stream: AutoregressiveParams()})
        held, started = tally.now, tally.peak
        for _ in prior.sample(state):
            pass
    info = ModelInfo.of_shapes(shapes("vqvae")[0], {"prior": config})
    index = info.spec.names.index(config.stream)
    seconds = n_ctx * info.hops[index] / info.sample_rate  # one window
    asked = request(
        levels=[index], samples=[{}] * batch, dtype=dtype, given={str(index): prime}, seconds=seconds, hops=info.hops
    )
    level = plan_sampling(info, asked).levels[0]
    kept = level.parts["cache"] + level.parts["conditions"]
    assert kept <= held < 1.02 * kept + 50_000  # beside them the start vector, the logits and the lyrics
    assert max(started, tally.peak) == pytest.approx(kept + level.parts["activations"], rel=0.06)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("prime", [0, 100])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["demo", "test_spectral"])
def test_a_window_of_frames_holds_the_tensors_that_are_planned(preset, dtype, prime, guidance):
    config: Any = find(preset).priors[TOKENS].for_corpus(3, 3)
    prime, batch, places = prime * config.n_ctx // 200, 2, config.n_ctx * config.lyrics.per_frame
    prior = build_prior(config).to(getattr(torch, dtype)).requires_grad_(False)
    cond = Conditions(
        *(torch.ones(batch, *shape).long() for shape in ((), (config.labels.max_genres,))),
        torch.tensor([[10**7, 0, 10**5]] * batch),
        sung=SungFrames(torch.ones(batch, places).long(), torch.zeros(batch, places)),
    )
    known = Known.prefix(TOKENS, torch.zeros(batch, prime, config.books).long(), prime + 3)
    window, noise = Window(0, prime + 3, config.n_ctx), Generators([torch.Generator()] * batch)
    params = {TOKENS: FrameParams(guidance=guidance)}
    prior.start(window, known, cond, noise, params)  # tables of positions are made once and kept
    with Tally() as tally:
        state = prior.start(window, known, cond, noise, params)
        held = tally.now
        for _ in prior.sample(state):
            pass
    cost = config.decoding_cost(
        DecodingJob(TOKENS, dtype, batch, 1, batch, 1, [(0, prime, config.n_ctx)], {"guidance": guidance})
    )
    kept = cost.parts["cache"] + cost.parts["conditions"]
    assert kept <= held < 1.02 * kept + 50_000
    assert tally.peak == pytest.approx(kept + cost.parts["activations"], rel=0.03)


def test_the_weights_of_a_prior_of_frames_are_those_that_are_planned():
    config = find("demo").priors[TOKENS].for_corpus(3, 3)
    for dtype in ("float32", "bfloat16", "int8"):
        prior = build_prior(config)
        prior = prior.to(torch.bfloat16) if dtype != "float32" else prior
        for module in prior.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.float()
        if dtype == "int8" and isinstance(prior, HasTrunk):
            prior.quantise()
        assert sum(x.nbytes for x in prior.state_dict().values()) == config.weight_bytes(dtype)  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_a_file_is_mapped_where_its_dtype_is_wanted_and_converted_where_not(tmp_path):
    path = tmp_path / "prior.safetensors"
    rng = torch.Generator().manual_seed(0)
    names = {"trunk.ln_0.weight": (8,), "x_emb.weight": (64, 8)}
    tensors = {name: torch.randn(shape, generator=rng) for name, shape in names.items()}
    write_prior(path, {n: Lazy(tuple(t.shape), lambda t=t: t) for n, t in tensors.items()}, torch.bfloat16)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("x_emb.weight").dtype == torch.bfloat16
    mapped, wide = read_state(path, torch.bfloat16), read_state(path, torch.float32)
    assert mapped["x_emb.weight"].dtype == torch.bfloat16 and mapped["trunk.ln_0.weight"].dtype == torch.float32
    assert torch.equal(wide["x_emb.weight"], tensors["x_emb.weight"].bfloat16().float())
    assert torch.equal(mapped["trunk.ln_0.weight"], tensors["trunk.ln_0.weight"])
    assert is_in(path, mapped["x_emb.weight"]) and is_in(path, mapped["trunk.ln_0.weight"])
    assert not is_in(path, wide["x_emb.weight"]) and is_in(path, wide["trunk.ln_0.weight"])


def is_in(path: Path, tensor: Tensor) -> bool:
    """Whether the tensor lies in the memory that the kernel maps from a file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        if line.endswith(str(path)) and first <= tensor.data_ptr() < last:
            return True
    return False


def test_building_a_prior_loads_no_compiler_and_planning_no_torch(tmp_path):
    code = """
import sys, json
from jukebox.planning.sampling import plan_sampling
from jukebox.model.presets import read_info
info, request = read_info("demo"), json.load(open(sys.argv[1]))
print(plan_sampling(info, request).peak, "torch" in sys.modules)
from jukebox.model.folder import hollow
prior = hollow(info.priors["prior_2"].config)
print(all(p.is_meta for p in prior.parameters()), "torch._dynamo" in sys.modules)
"""
    (tmp_path / "asked.json").write_text(json.dumps(request()))
    command = [sys.executable, "-c", code, tmp_path / "asked.json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(plan_sampling(read_info("demo"), request()).peak), "False", "True", "False"]


# ---- time


def test_steps_are_those_of_the_windows_and_time_follows_bandwidth(published):
    slow, fast = Speed(10e9, 1e15, 0.0), Speed(20e9, 1e15, 0.0)
    plans = [plan_sampling(published, request(), speeds=dict.fromkeys(range(3), s)) for s in (slow, fast)]
    for level, hop in enumerate((8, 32, 128)):
        planned = next(each for each in plans[0].levels if each.level == level)
        assert planned.steps == frame_count(60.0, 44100, hop, 128) and planned.codes == 4 * planned.steps
    assert plans[0].seconds == pytest.approx(2 * plans[1].seconds, rel=0.02)
    one = plan_sampling(published, request(batch=1), speeds=dict.fromkeys(range(3), slow))
    assert one.levels[0].steps == 4 * plans[0].levels[0].steps
    layers = plan_sampling(published, request(), speeds=dict.fromkeys(range(3), Speed(1e18, 1e18, 1e-3)))
    assert layers.levels[0].seconds == pytest.approx(74e-3 * layers.levels[0].steps, rel=0.01)


def test_what_is_there_already_is_not_planned_again(published):
    speeds = dict.fromkeys(range(3), Speed(10e9, 1e12, 1e-4))
    whole = plan_sampling(published, request(), speeds=speeds)
    half = plan_sampling(published, request(), speeds=speeds, done={2: 20671, 1: 40000})
    assert half.levels[0].parts["weights"] == 0 and half.levels[0].steps == 0
    assert half.levels[1].steps == whole.levels[1].steps - 40000
    assert half.levels[2] == whole.levels[2]
    given = plan_sampling(published, request(given={"2": 5000}), speeds=speeds)
    assert given.levels[0].codes == whole.levels[0].codes - 4 * 5000


def test_of_a_song_of_hours_a_part_of_the_windows_is_counted(tiny_model, monkeypatch):
    for given in ({}, {"0": 1_000_007}):
        asked = request(seconds=700.0, hops=tiny_model.hops, given=given, dtype="float32")
        few = plan_sampling(tiny_model.info, asked)
        with monkeypatch.context() as patched:
            patched.setattr("jukebox.planning.sampling.MOST_WINDOWS", 1 << 40)
            every = plan_sampling(tiny_model.info, asked)
        assert [level.parts for level in few.levels] == [level.parts for level in every.levels]
        assert [level.steps for level in few.levels] == pytest.approx([level.steps for level in every.levels], rel=1e-3)


def test_a_prompt_and_guidance_cost_memory(published):
    plain = plan_sampling(published, request(levels=[2], seconds=10.0))
    primed = plan_sampling(published, request(levels=[2], seconds=10.0, given={"2": 3000}))
    assert primed.peak > plain.peak
    guided = plan_sampling(published, request(levels=[2], seconds=10.0, params={"2": {"guidance": 2.0}}))
    assert guided.levels[0].parts["cache"] == 2 * plain.levels[0].parts["cache"]
    assert len(starts(frame_count(10.0, 44100, 128, 128), 6144, 3072)) == 1


def test_parallel_windows_cost_memory_and_save_steps(published):
    speeds = dict.fromkeys(range(3), Speed(10e9, 1e12, 1e-4))
    plain, beside = (plan_sampling(published, request(parallel=p, samples=[{}]), speeds=speeds) for p in (False, True))
    assert beside.levels[0] == plain.levels[0]  # the windows of the coarsest level are sequential
    for level in (1, 2):
        rows = beside.levels[level].rows
        assert rows > 10 and beside.levels[level].steps == 8192
        assert beside.levels[level].parts["cache"] == rows * plain.levels[level].parts["cache"]
    four = plan_sampling(published, request(parallel=True, samples=[{}], batch=4), speeds=speeds)
    assert four.levels[1].rows == 4 and four.levels[1].steps % 8192 == 0
    assert fit(published, request(parallel=True, dtype="bfloat16", samples=[{}]), four.peak)["batch"] >= 4


# ---- fitting


def test_what_was_asked_stays_if_it_fits_and_else_precision_is_reduced_before_batches(published):
    asked = request(dtype="")
    needs = {dtype: plan_sampling(published, request(dtype=dtype)).peak for dtype in ("float32", "bfloat16", "int8")}
    for limit, dtype, batches in (
        (needs["float32"], "float32", [[0, 1, 2, 3]]),
        (needs["float32"] - 1, "bfloat16", [[0, 1, 2, 3]]),
        (needs["bfloat16"] - 1, "bfloat16", [[0, 1], [2, 3]]),
    ):
        chosen = fit(published, asked, limit)
        assert (chosen["dtype"], chosen["batches"]) == (dtype, batches)
    least = plan_sampling(published, request(dtype="bfloat16", batch=1)).peak
    assert fit(published, asked, least - 1)["dtype"] == "int8"
    for limit in (3 * GB, 4 * GB, 6 * GB, 20 * GB):
        chosen = fit(published, asked, limit)
        assert plan_sampling(published, {**asked, **chosen}).peak <= limit


def test_a_dtype_that_was_asked_for_is_kept(published):
    limit = plan_sampling(published, request(dtype="float32", batch=1)).peak
    chosen = fit(published, request(dtype="float32"), limit)
    assert (chosen["dtype"], chosen["batch"]) == ("float32", 1)
    with pytest.raises(UserError, match=r"takes .* GB with float32 and one sample at a time, or with --dtype int8"):
        fit(published, request(dtype="float32"), limit - 1)


def test_what_would_fit_is_one_line():
    with pytest.raises(UserError) as error:
        fit(read_info("5b_lyrics"), request(dtype=""), 4 * GB)
    printed = str(error.value)
    assert "level 2 takes" in printed and "level 1, 0 alone would fit" in printed and "\n" not in printed


def test_times_are_printed_in_a_suitable_unit():
    assert [spell(t) for t in (0.5, 89, 600, 7200)] == ["less than 1 s", "89 s", "10 min", "2.0 h"]
    with pytest.raises(UserError, match="--dtype got 'float8'"):
        plan_sampling(read_info("demo"), request(dtype="float8"))


def test_a_model_folder_is_planned_as_the_request_that_follows(each_model):
    info, levels = ModelInfo.read(each_model.folder), list(top_levels(each_model, 3))
    assert info.sample_rate == 22050
    made = plan_sampling(info, request(seconds=0.4, dtype="float32", levels=levels, hops=info.hops))
    assert [level.level for level in made.levels] == levels and made.line() in table(made)
    assert all(level.parts["weights"] and level.codes for level in made.levels)


# ---- codecs and priors of other packages


@dataclass(frozen=True)
class ToyCodec(CodecConfig):
    """One stream of latents."""

    kind = "toy"

    @property
    def spec(self) -> CodecSpec:
        return CodecSpec(16000, 2, (Stream("toy", 300, width=8, dtype="float32"),))

    @classmethod
    def from_json(cls, data):
        return cls(**data)

    def parameter_count(self, stream: str) -> int:
        return 1000

    def receptive_field(self, stream: str) -> int:
        return 600

    def decoder_state(self, stream: str) -> int:
        return 40

    def decoder_products(self, stream: str) -> float:
        return 50.0


@dataclass(frozen=True)
class ToyPrior(PriorConfig):
    """A prior that has no cache and no transformer."""

    kind = "toy"
    hop, sample_rate, labels, lyrics = 300, 16000, None, None

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((), ("toy",), 100)

    @classmethod
    def from_json(cls, data):
        return cls(**data)

    def parameters(self) -> ParameterCount:
        return ParameterCount(0, 0, 0, 7, 0)

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        frames = sum(end - begin for _, begin, end in job.windows)
        return DecodingCost(job.rows, {"weights": 7}, 3 * len(job.windows), 0, 0, float(job.samples * frames))


def test_a_codec_and_a_prior_of_another_package_are_planned_from_their_costs():
    info = ModelInfo.of_shapes((ToyCodec(),), {"toy": ToyPrior()})
    asked = request(levels=[0], hops=(300,), hop_fractions=(0.5,), seconds=6.0, samples=[{}] * 2, dtype="float32")
    level = plan_sampling(info, asked, speeds={0: Speed(1e9, 1000.0, 1.0)}).levels[0]
    assert (level.rows, level.steps, level.codes) == (2, 3 * 6, 2 * 320)
    assert level.parts["weights"] == 7 and level.parts["cache"] == 0 and level.parts["sound"] > 2 * 14 * 320 * 300
    assert level.seconds == pytest.approx((2 * 320 + 2 * 50.0 * 320 * 300 * 2 / 0.3) / 1000)
    with pytest.raises(UserError, match="kind toy is not known"):
        memory(ToyPrior(), Training(1), 1)
