"""The masked prior: what it may see, what it must leave alone, how many codes stand after which pass, and what it learns."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from priors.conditioning.conditions import Conditions, Lyrics
from priors.conditioning.config import LabelConfig, LyricConfig
from priors.logits import draw_surely
from priors.masked import heads
from priors.masked import model as masked
from priors.masked.columns import by_column, left_after
from priors.masked.config import PASSES, MaskedConfig, MaskedParams
from priors.masked.model import MaskedPrior, gumbel, least_sure
from priors.masked.state import ColumnConditioning, MaskedState
from priors.noise import Generators
from priors.prior import Batch, Known, Mask, Sequences, Window, sample_window
from priors.transformer.config import Init, TrunkConfig

INIT = Init(0.03, 0.3, 0.1, 0.3)
STREAMS = ("vq.0", "vq.1", "vq.2")


def config(bins: int = 16, n_ctx: int = 32, hops=(8, 32, 128), **more) -> MaskedConfig:
    trunk = TrunkConfig(n_ctx, 32, 2, 2, ("full", "cross"), m_attn=1.0, m_mlp=2.0, time_bias=True, init=INIT)
    encoder = TrunkConfig(6, 16, 1, 2, ("full",), m_attn=1.0, m_mlp=2.0, init=INIT)
    labels = LabelConfig(3, 3, timing_bins=4, max_seconds=10.0, sample_rate=22050)
    given = {"labels": labels, "lyrics": LyricConfig(12, 6, encoder), **more}
    return MaskedConfig(bins, hops, 22050, trunk, vector=8, head_width=16, local=2, **given)


@pytest.fixture(scope="module")
def prior() -> MaskedPrior:
    torch.manual_seed(0)
    made = MaskedPrior(config())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


def window(prior: MaskedPrior, rows: int = 5, columns: int = 24, seed: int = 0):
    """Codes, conditions, and another prompt in each row: nothing, scattered, a masked region, above only, nearly all."""
    torch.manual_seed(seed)
    ratios = prior.config.ratios
    codes = {stream: torch.randint(prior.config.bins, (rows, columns * ratios[stream])) for stream in STREAMS}
    keep = {stream: torch.zeros(rows, columns * ratios[stream], dtype=torch.bool) for stream in STREAMS}
    for stream in STREAMS:
        whole = by_column(keep[stream], ratios[stream])
        whole[1] = torch.rand(whole[1].shape) < 0.3
        whole[2] = True
        whole[2, 5:17] = False
        whole[3] = stream == "vq.2"
        whole[4] = True
    keep["vq.0"][4, 7] = False
    lyrics = Lyrics(torch.randint(1, 12, (rows, 6)), torch.rand(rows, 6) * 0.1)
    timing = torch.tensor([[30000, 128 * i, prior.config.n_ctx * 128] for i in range(rows)])
    cond = Conditions(torch.arange(rows) % 3, torch.tensor([[1, -1], [2, 1]] * rows)[:rows], timing, lyrics)
    return codes, keep, cond


def generators(rows: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(rows)]


def whole(codes: Sequences) -> Window:
    """The window of such codes."""
    return Window(0, codes["vq.2"].shape[1], codes["vq.2"].shape[1])


def begin(prior: MaskedPrior, codes: Sequences, keep: Mask, cond: Conditions, params, seed: int = 0) -> MaskedState:
    rngs = generators(seed + len(codes["vq.2"]))[seed:]
    return prior.start(whole(codes), Known(codes, keep), cond, Generators(rngs), params)


def fill(prior: MaskedPrior, codes: Sequences, keep: Mask, cond: Conditions, params, seed: int = 0) -> Sequences:
    """The streams that `params` names, sampled; row i has seed `seed` + i."""
    rngs = generators(seed + len(codes["vq.2"]))[seed:]
    return sample_window(prior, whole(codes), Known(codes, keep), cond, Generators(rngs), params)


# ---- V1, V2: what is kept, and how many codes are unknown after each pass


def test_kept_codes_come_out_bit_identical_and_the_others_from_the_model(prior):
    codes, keep, cond = window(prior)
    made = fill(prior, codes, keep, cond, {stream: MaskedParams(passes=3) for stream in STREAMS})
    for stream in STREAMS:
        assert torch.equal(made[stream][keep[stream]], codes[stream][keep[stream]])
        assert ((made[stream] >= 0) & (made[stream] < 16)).all()
    assert (made["vq.1"] != codes["vq.1"])[0].any()


def test_after_each_pass_each_row_lacks_the_floor_of_the_cosine_of_its_own_count(prior):
    """V2; a count over the whole batch would leave rows with little to fill unchanged for long."""
    codes, keep, cond = window(prior)
    seen = {}
    passes = {"vq.2": 5, "vq.1": 4, "vq.0": 7}
    state = begin(prior, codes, keep, cond, {stream: MaskedParams(passes=n) for stream, n in passes.items()})
    for stream, _, values in prior.sample(state):
        step = passes[stream] if values.shape[1] else state.step
        seen[stream, step] = (~state.known[stream]).sum(1).tolist()
    for (stream, step), counts in seen.items():
        at_first = (~keep[stream]).sum(1).tolist()
        assert counts == [math.floor(math.cos(math.pi * step / (2 * passes[stream])) * n) for n in at_first]
    assert sorted(seen) == sorted((stream, step) for stream, n in passes.items() for step in range(1, n + 1))


def test_rows_of_a_batch_with_different_prompts_are_what_they_are_alone(prior):
    """V2; in float64, for a sum of float32 rounds otherwise in other company."""
    exact = prior.double()
    try:
        codes, keep, cond = window(exact)
        params = {stream: MaskedParams(passes=4, top_p=0.95) for stream in STREAMS}
        together = fill(exact, codes, keep, cond, params)
        for i in range(5):
            one, known = ({stream: x[stream][i : i + 1] for stream in STREAMS} for x in (codes, keep))
            alone = fill(exact, one, known, cond.rows(slice(i, i + 1)), params, seed=i)
            assert all(torch.equal(alone[stream][0], together[stream][i]) for stream in STREAMS)
    finally:
        prior.float()


def test_the_same_generators_give_the_same_codes_and_others_give_others(prior):
    codes, keep, cond = window(prior)
    params = {stream: MaskedParams(passes=3) for stream in STREAMS}
    a, b = (fill(prior, codes, keep, cond, params) for _ in range(2))
    c = fill(prior, codes, keep, cond, params, seed=2)
    assert all(torch.equal(a[stream], b[stream]) for stream in STREAMS)
    assert any(not torch.equal(a[stream], c[stream]) for stream in STREAMS)


# ---- what may be seen


def test_what_is_not_kept_is_never_looked_at(prior):
    codes, keep, cond = window(prior)
    other = {stream: torch.where(keep[stream], codes[stream], torch.full_like(codes[stream], -7)) for stream in STREAMS}
    params = {stream: MaskedParams(passes=2) for stream in STREAMS}
    a, b = (fill(prior, x, keep, cond, params) for x in (codes, other))
    assert all(torch.equal(a[stream], b[stream]) for stream in STREAMS)


def test_a_hidden_code_hears_both_sides_and_every_level(prior):
    codes, keep, cond = window(prior, columns=24)
    asked = {stream: torch.zeros_like(keep[stream]) for stream in STREAMS}
    asked["vq.1"][2, 11 * 4 + 2] = True  # in the middle of row 2's masked region
    before = prior.costs(codes, cond, keep, asked)["vq.1"]
    for stream, at in (("vq.2", 0), ("vq.2", 23), ("vq.1", 3), ("vq.1", 95), ("vq.0", 0), ("vq.0", 383)):
        other = {each: x.clone() for each, x in codes.items()}
        other[stream][2, at] = (other[stream][2, at] + 1) % 16
        assert not torch.equal(prior.costs(other, cond, keep, asked)["vq.1"], before), (stream, at)
    assert not torch.equal(prior.costs(codes, cond.without("artist"), keep, asked)["vq.1"], before)
    assert not torch.equal(prior.costs(codes, cond.without("lyrics"), keep, asked)["vq.1"], before)
    assert not torch.equal(prior.costs(codes, cond.without("timing"), keep, asked)["vq.1"], before)


def test_codes_are_drawn_piece_by_piece_from_the_logits_of_the_whole_and_of_no_others(prior, monkeypatch):
    """Each block includes its receptive field; a block without unknown codes is not computed."""
    codes, keep, cond = window(prior)
    seen = prior.encode_columns(codes, keep, prior.encode_conditions(cond, 5, 24))
    monkeypatch.setattr(masked, "CODES_AT_ONCE", 7)
    for stream in STREAMS:
        head, asked = prior.head(stream), ~keep[stream]
        whole = prior.logits(seen, stream, asked)
        for columns in (1, 3, 10):
            monkeypatch.setattr(heads, "CHUNK", columns * head.out.w.shape[0] * head.ratio)
            made, rows = torch.full((*asked.shape, 16), torch.nan), []
            for places, x in head.around(seen, asked, int(asked.sum())):
                at = places % asked.shape[1]
                assert len(places) and at.max() - at.min() < columns * head.ratio
                made.flatten(0, 1)[places] = head.out(x)
            assert torch.allclose(made[asked], whole, atol=1e-5) and torch.equal(made.isnan().all(dim=2), ~asked)
            count = head.out.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(len(given[0])))
            chance = torch.rand(asked.shape, dtype=torch.float64)
            conditioning, count_asked = prior.encode_conditions(cond, 5, 24), int(asked.sum())
            new, _ = prior._draw(stream, codes, keep, conditioning, chance, MaskedParams(), count_asked)
            count.remove()
            assert max(rows) <= 7 and sum(rows) == int(asked.sum()) and not new[~asked].any()
            sure = [
                draw_surely(row[None], u[None], MaskedParams())[0].item() for row, u in zip(whole, chance[asked], strict=True)
            ]
            assert new[asked].tolist() == sure


def on_device(prior: MaskedPrior, state: MaskedState, device: str) -> tuple[MaskedPrior, MaskedState]:
    """Copies of a prior and of a window in progress on another device."""
    values, c = ({k: x.to(device) for k, x in each.items()} for each in (state.codes, state.known)), state.conditioning
    moved = ColumnConditioning(*(x if x is None else x.to(device) for x in (c.columns, c.encoded, c.distance)))
    return copy.deepcopy(prior).to(device), replace(state, conditioning=moved, **dict(zip(("codes", "known"), values)))


def test_passes_on_a_gpu_never_wait_for_a_value_of_its_memory(prior, monkeypatch):
    """A read, or an operation whose shape depends on values, raises on torch's meta device; so does a mixture of devices."""
    codes, keep, cond = window(prior)
    params = {stream: MaskedParams(passes=3, top_p=0.9, top_k=5) for stream in STREAMS}
    other, state = on_device(prior, begin(prior, codes, keep, cond, params), "meta")
    monkeypatch.setattr(masked, "CODES_AT_ONCE", 0)  # raises: the blocks are those of a GPU
    assert [update.values.device.type for update in other.sample(state)] == ["meta"] * 9


def test_the_places_that_a_count_finds_are_those_of_the_codes_that_are_asked_for():
    asked = torch.rand(5, 77, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(heads.first_places(asked, int(asked.sum())), asked.flatten().nonzero()[:, 0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_samples_the_codes_of_a_cpu_in_float64(prior):
    exact, (codes, keep, cond) = copy.deepcopy(prior).double(), window(prior)
    params = {stream: MaskedParams(passes=4, top_p=0.95) for stream in STREAMS}
    expected = fill(exact, codes, keep, cond, params)
    other, state = on_device(exact, begin(exact, codes, keep, cond, params), "cuda")
    made = {update.stream: update.values for update in other.sample(state) if update.values.shape[1]}
    assert all(torch.equal(made[stream].cpu(), expected[stream]) for stream in STREAMS)


def test_bits_stand_where_they_belong(prior):
    codes, keep, cond = window(prior)
    bits = prior.nll(codes, cond, keep)
    one = {stream: torch.zeros_like(keep[stream]) for stream in STREAMS}
    one["vq.0"][2, 8 * 16 + 5] = True
    costs = prior.costs(codes, cond, keep, one)
    assert list(costs) == ["vq.0"] and costs["vq.0"].shape == (1,)
    assert bits["vq.0"][2, 8 * 16 + 5].item() == pytest.approx(costs["vq.0"].item(), abs=1e-5)
    assert all(torch.equal(bits[stream].isnan(), keep[stream]) for stream in STREAMS)


# ---- pitfalls of ranking


def test_least_sure_hides_as_many_as_asked_in_each_row_and_those():
    confidence = torch.tensor([[0.3, -1.0, torch.inf, 0.2], [5.0, 5.0, 5.0, 5.0], [-1.0, -2.0, -3.0, -4.0]])
    hidden = least_sure(confidence, torch.tensor([2, 1, 0]))
    assert hidden.tolist() == [[False, True, False, True], [True, False, False, False], [False] * 4]


def test_gumbel_noise_is_finite_at_the_ends_and_has_its_mean():
    assert gumbel(torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)).isfinite().all()
    many = gumbel(torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert many.mean().item() == pytest.approx(0.5772, abs=0.02)


def test_codes_of_probability_zero_and_one_are_drawn_without_nan(prior):
    codes, keep, cond = window(prior)
    for params in (
        MaskedParams(passes=3, temperature=0.0),
        MaskedParams(passes=3, top_k=1),
        MaskedParams(passes=3, temperature=1e-6, noise=0.0),
    ):
        made = fill(prior, codes, keep, cond, dict.fromkeys(STREAMS, params))
        assert all(((made[stream] >= 0) & (made[stream] < 16)).all() for stream in STREAMS)


def test_a_filter_changes_what_can_be_drawn(prior):
    """The reference throws the result of its filter away."""
    codes, keep, cond = window(prior)
    likeliest = fill(prior, codes, keep, cond, dict.fromkeys(STREAMS, MaskedParams(passes=1, temperature=0.0)))
    filtered = fill(prior, codes, keep, cond, dict.fromkeys(STREAMS, MaskedParams(passes=1, top_k=1)))
    free = fill(prior, codes, keep, cond, dict.fromkeys(STREAMS, MaskedParams(passes=1)))
    assert torch.equal(likeliest["vq.2"], filtered["vq.2"]) and not torch.equal(likeliest["vq.2"], free["vq.2"])


def test_a_code_competes_with_those_of_its_own_level_only(prior):
    """Coarse levels are finished before finer ones begin, however many passes each has."""
    codes, keep, cond = window(prior)
    passes = {"vq.0": 4, "vq.1": 3, "vq.2": 2}
    params = {stream: MaskedParams(passes=n) for stream, n in passes.items()}
    updates = list(prior.sample(begin(prior, codes, keep, cond, params)))
    assert [update.stream for update in updates] == [stream for stream in reversed(STREAMS) for _ in range(passes[stream])]
    columns = [update.values.shape[1] for update in updates]
    assert columns == [0, 24, 0, 0, 96, 0, 0, 0, 384] and not any(update.start for update in updates)
    assert left_after(4, 4, 10**6) == 0


# ---- the interface of every prior


def test_only_streams_with_parameters_are_sampled_and_a_known_one_takes_no_random_numbers(prior):
    codes, keep, cond = window(prior)
    keep["vq.2"] = torch.ones_like(keep["vq.2"])
    both = fill(prior, codes, keep, cond, {stream: MaskedParams(passes=2) for stream in ("vq.1", "vq.2")})
    one = fill(prior, codes, keep, cond, {"vq.1": MaskedParams(passes=2)})
    assert torch.equal(both["vq.2"], codes["vq.2"]) and torch.equal(both["vq.1"], one["vq.1"]) and set(one) == {"vq.1"}
    updates = list(prior.sample(begin(prior, codes, keep, cond, {"vq.2": MaskedParams(), "vq.1": MaskedParams()})))
    assert [update.stream for update in updates] == ["vq.2"] + ["vq.1"] * PASSES and updates[0].values.shape == (5, 24)


def test_a_window_goes_on_exactly_from_a_state_saved_after_any_pass(prior):
    codes, keep, cond = window(prior)
    params = {"vq.2": MaskedParams(passes=2), "vq.1": MaskedParams(passes=3), "vq.0": MaskedParams(passes=4)}
    expected, state, made = fill(prior, codes, keep, cond, params), begin(prior, codes, keep, cond, params), {}
    for update in prior.sample(state):
        made[update.stream] = update.values
        saved = {name: tensor.clone() for name, tensor in state.state_dict().items()}
        assert sum(tensor.nbytes for tensor in saved.values()) == state.nbytes
        again = begin(prior, codes, keep, cond, params, seed=7)
        again.load_state_dict(saved)
        result = made | {stream: values for stream, _, values in prior.sample(again)}
        assert all(torch.equal(result[stream], expected[stream]) for stream in STREAMS)


def test_a_state_of_another_shape_is_not_loaded(prior):
    codes, keep, cond = window(prior)
    params = dict.fromkeys(STREAMS, MaskedParams(passes=2))
    state, other = begin(prior, codes, keep, cond, params), begin(prior, *window(prior, rows=6), params)
    next(prior.sample(other))
    before = {name: tensor.clone() for name, tensor in state.state_dict().items()}
    with pytest.raises(ValueError, match="of a saved state is not"):
        state.load_state_dict(other.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.state_dict().items())


def test_wrong_shapes_and_a_window_that_is_too_long_are_refused(prior):
    codes, keep, cond = window(prior)
    with pytest.raises(ValueError, match="expected"):
        fill(prior, {**codes, "vq.1": codes["vq.1"][:, :-1]}, keep, cond, {})
    with pytest.raises(ValueError, match=r"codes of \['vq.2'\].* expected those of vq.0, vq.1, vq.2"):
        fill(prior, {"vq.2": codes["vq.2"]}, keep, cond, {})
    long = {stream: torch.zeros(1, 33 * n, dtype=torch.long) for stream, n in prior.config.ratios.items()}
    with pytest.raises(ValueError, match="1 to 32 columns"):
        fill(prior, long, {stream: x.bool() for stream, x in long.items()}, Conditions(), {})


def test_a_configuration_comes_back_from_json(prior):
    assert MaskedConfig.from_json(json.loads(json.dumps(prior.config.to_json()))) == prior.config


def test_all_parameters_get_a_gradient_and_the_first_loss_is_that_of_a_guess(prior):
    torch.manual_seed(0)
    fresh = MaskedPrior(config(bins=64))
    codes = {stream: torch.randint(64, (8, 24 * n)) for stream, n in fresh.config.ratios.items()}
    _, _, cond = window(prior, rows=8)
    keep = {stream: torch.rand(x.shape) < 0.5 for stream, x in codes.items()}
    losses = fresh.loss(Batch(codes, cond, keep))
    losses["loss"].backward()
    assert losses["bits"].item() == pytest.approx(6.0, abs=0.1)
    missing = [n for n, p in fresh.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
