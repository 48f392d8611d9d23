"""The autoregressive prior: one distribution, however it is computed, of every kind and with conditions given or absent."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from priors.autoregressive.config import AutoregressiveConfig, AutoregressiveParams
from priors.conditioning.conditions import Conditions
from priors.noise import Generators
from priors.prior import Batch, Known, Window
from tests.priors.conftest import started

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.15)]  # logits reach 12


def cached_logits(prior, codes, cond, primed, params=None) -> torch.Tensor:
    """Logits of the codes from `primed` on, with the codes fed step by step after a prime."""
    state = started(prior, codes[:, :primed], cond, params or AutoregressiveParams(published=True))
    logits = [prior.next_logits(state)]
    for code in codes[:, primed:-1].unbind(1):
        prior.advance(state, code + prior.vocabulary - prior.config.bins)
        logits.append(prior.next_logits(state))
    return torch.stack(logits, dim=1)


def bits(prior, codes, cond) -> torch.Tensor:
    return prior.nll({prior.stream: codes}, cond)[prior.stream]


@pytest.mark.parametrize(("dtype", "limit"), PRECISIONS)
@torch.no_grad()
def test_cached_logits_equal_full_logits_after_every_prime(make, batch, kind, dtype, limit):
    prior, (codes, cond) = make(kind, dtype), batch(kind)
    whole = prior(codes, cond)[:, prior.lyric_prefix :]
    for primed in range(prior.config.n_ctx) if dtype == torch.float64 else (0, 1, 5, 6, 7, 16, 23):
        assert (cached_logits(prior, codes, cond, primed) - whole[:, primed:]).abs().max() < limit, primed


@torch.no_grad()
def test_half_precision_follows_full_precision(make, batch, kind):
    codes, cond = batch(kind)
    whole, half = make(kind)(codes, cond), make(kind, torch.bfloat16)
    assert half(codes, cond).dtype == torch.bfloat16
    assert (half(codes, cond) - whole).abs().mean() < 0.03 * whole.std()
    cached = cached_logits(half, codes, cond, 5)
    assert (cached - whole[:, half.lyric_prefix + 5 :]).abs().mean() < 0.03 * whole.std()


def test_no_code_hears_itself_or_a_later_one(make, batch, kind):
    prior, (codes, cond) = make(kind, torch.float64), batch(kind)
    for t in (0, 5, 6, 23):
        other = codes.clone()
        other[:, t] = (other[:, t] + 1) % prior.config.bins
        same = (prior(codes, cond) - prior(other, cond)).abs().amax((0, 2)) < 1e-12
        assert same[: prior.lyric_prefix + t + 1].all() and (t == 23 or not same.all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_go_back_in_time_only(make, batch, kind, dtype):
    prior, (codes, cond) = make(kind, dtype), batch(kind)
    conditioning = prior.encode_conditions(cond, len(codes))
    x = prior.embed(prior.tokens(codes, conditioning)[:, :-1], conditioning).detach().requires_grad_()
    y = prior.trunk(x, conditioning.encoded, conditioning.distance)
    for t in (0, 7, 12, 22):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert (gradient[:, t + 1 :] == 0).all() and (gradient[:, t] != 0).any()


def drawn(prior, cond, prompt, seeds, params=None, length=0) -> torch.Tensor:
    """The codes after a prompt, up to `length` codes of the window."""
    updates = list(prior.sample(started(prior, prompt, cond, params, seeds, length)))
    starts = range(prompt.shape[1], length or prior.config.n_ctx, prior.block)
    assert [(update.stream, update.start) for update in updates] == [(prior.stream, start) for start in starts]
    return torch.cat([update.values for update in updates], dim=1)


def test_a_batch_of_5_is_5_batches_of_1_and_a_seed_is_its_codes(make, batch, kind):
    prior, (codes, cond) = make(kind, torch.float64), batch(kind, size=5)
    together = drawn(prior, cond, codes[:, :3], range(5))
    assert torch.equal(together, drawn(prior, cond, codes[:, :3], range(5)))
    assert not torch.equal(together, drawn(prior, cond, codes[:, :3], range(1, 6)))
    for i in range(5):
        alone = drawn(prior, cond.rows(slice(i, i + 1)), codes[i : i + 1, :3], [i])
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_window_goes_on_exactly_from_a_state_saved_after_any_block(make, batch, kind, guidance):
    prior, (codes, cond) = make(kind), batch(kind)
    params = AutoregressiveParams(guidance=guidance)
    whole, prior.block = drawn(prior, cond, codes[:, :4], (0, 1), params), 6
    state = started(prior, codes[:, :4], cond, params)
    for update in prior.sample(state):
        again = started(prior, codes[:, :4], cond, params)
        saved = {name: tensor.clone() for name, tensor in state.state_dict().items()}
        again.load_state_dict(saved)
        rest = [later.values for later in prior.sample(again)]
        assert torch.equal(torch.cat([whole[:, : state.done], *rest], dim=1), whole)
        assert torch.equal(update.values, whole[:, update.start - 4 : state.done])
        assert sum(tensor.nbytes for tensor in saved.values()) == state.nbytes + 8 * 4  # codes, position, done


def test_a_state_of_another_shape_is_not_loaded(make, batch):
    prior, (codes, cond) = make("top"), batch("top")
    state, other = started(prior, codes[:, :4], cond), started(prior, codes[:1, :4], cond.rows(slice(0, 1)))
    next(prior.sample(state))
    before = {name: tensor.clone() for name, tensor in state.state_dict().items()}
    next(prior.sample(other))
    for wrong in (other.state_dict(), {name: x for name, x in before.items() if name != "done"}):
        with pytest.raises(ValueError, match="of a saved state is not"):
            state.load_state_dict(wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.state_dict().items())


def test_conditions_are_optional_one_by_one(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    whole = bits(prior, codes, cond)
    for absent in ("artist", "genres", "timing", "lyrics"):
        if getattr(cond, absent) is None:
            continue
        without = cond.without(absent)
        loss = prior.loss(Batch({prior.stream: codes}, without))["loss"]
        loss.backward()
        assert torch.isfinite(loss) and drawn(prior, without, codes[:, :2], (0, 1), length=6).shape == (2, 4), absent
        unheard = absent == "timing" and not prior.config.labels.timing_bins
        assert torch.equal(bits(prior, codes, without), whole) == unheard, absent


def test_with_no_condition_at_all_a_prior_still_writes(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    assert drawn(prior, Conditions(above=cond.above), codes[:, :0], (0, 1)).shape == (2, 24)


def test_an_upsampler_without_codes_above_says_so(make, batch):
    codes, cond = batch("upsampler")
    with pytest.raises(ValueError, match=r"vq.1 is conditioned on the codes of vq.2"):
        make("upsampler")(codes, cond.without("above"))


def test_a_prime_that_fills_the_window_is_refused(make, batch):
    codes, cond = batch("unlabelled")
    for length in (24, 9):
        with pytest.raises(ValueError, match=f"fills the window of {length}"):
            started(make("unlabelled"), codes[:, :length], cond, length=length)
    with pytest.raises(ValueError, match="30 codes in a window of 30; expected as many, and at most 24"):
        started(make("unlabelled"), codes, cond, length=30)


def test_known_codes_that_are_no_prefix_of_all_rows_are_refused(make, batch):
    prior, (codes, cond) = make("unlabelled"), batch("unlabelled")
    apart, uneven = torch.zeros(2, 24, dtype=torch.bool), torch.zeros(2, 24, dtype=torch.bool)
    apart[:, 3], uneven[0, :3] = True, True
    noise = Generators([torch.Generator(), torch.Generator()])
    for mask in (apart, uneven, uneven.flip(0)):
        known = Known({"vq.2": codes}, {"vq.2": mask})
        with pytest.raises(ValueError, match="must be the first ones, as many in every row"):
            prior.start(Window(0, 24, 24), known, cond, noise, {"vq.2": AutoregressiveParams()})


@torch.no_grad()
def test_guidance_moves_away_from_what_is_said_without_conditions(make, batch, kind):
    prior, (codes, cond) = make(kind, torch.float64), batch(kind)
    bare = cond.without("artist", "genres", "timing", "lyrics")
    given, plain = (cached_logits(prior, codes[:, :4], c, 3) for c in (cond, bare))
    guided = cached_logits(prior, codes[:, :4], cond, 3, AutoregressiveParams(guidance=2.5, published=True))
    assert torch.allclose(guided, plain + 2.5 * (given - plain))
    assert drawn(prior, cond, codes[:, :3], (0, 1), AutoregressiveParams(guidance=2.5)).shape == (2, 21)


def test_letters_are_never_drawn_unless_as_published(make, batch):
    prior, (codes, cond) = make("letters in front"), batch("letters in front")
    with torch.no_grad():
        prior.x_emb.weight[:9] *= 20  # characters become likely
    published = drawn(prior, cond, codes[:, :1], (0, 1), AutoregressiveParams(published=True))
    assert (published == 0).float().mean() > 0.5  # the published code replaces a character with code 0
    assert (drawn(prior, cond, codes[:, :1], (0, 1)) == 0).float().mean() < 0.3


@torch.no_grad()
def test_alignment_is_attention_to_the_letters(make, batch):
    for kind, layer in (("top", 3), ("letters in front", 3)):
        prior, (codes, cond) = make(kind), batch(kind)
        weights = prior.lyric_attention(codes, cond, layer)
        assert weights.shape == (2, 2, 24, 8) and (weights >= 0).all() and (weights.sum(-1) < 1 + 1e-5).all()
        other = prior.lyric_attention(codes, replace(cond, lyrics=cond.rows(torch.tensor([1, 0])).lyrics), layer)
        assert not torch.allclose(weights, other)
    with pytest.raises(ValueError, match="does not attend to lyrics"):
        prior.lyric_attention(codes, cond, 0)


def test_loss_is_the_mean_of_the_bits(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    logs = prior.loss(Batch({prior.stream: codes}, cond))
    assert bits(prior, codes, cond).shape == codes.shape
    assert logs["bits"].item() == pytest.approx(bits(prior, codes, cond).mean().item(), rel=1e-5)
    assert ("lyric_bits" in logs) == bool(prior.config.lyrics and prior.config.lyrics.loss_weight)
    if "lyric_bits" in logs:  # weighed by length, as published: .4 of the 8 characters', and the 24 codes'
        expected = (0.4 * 8 * logs["lyric_bits"] + 24 * logs["bits"]) / 32
        assert logs["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_known_codes_have_no_bits_and_the_others_keep_theirs(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    known = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    some = prior.nll({prior.stream: codes}, cond, {prior.stream: known})[prior.stream]
    assert torch.equal(some.isnan(), known) and torch.equal(some[~known], bits(prior, codes, cond)[~known])


@torch.no_grad()
def test_bits_at_the_distances_of_the_lyrics_are_the_bits(make, batch):
    prior, (codes, cond) = make("top"), batch("top")
    there = prior.distance(cond.lyrics)
    assert torch.equal(prior.nll_at_distance(codes, cond, there), bits(prior, codes, cond))
    assert not torch.allclose(prior.nll_at_distance(codes, cond, there + 1.0), bits(prior, codes, cond))


@torch.no_grad()
def test_the_last_hidden_states_give_the_logits(make, batch, kind):
    prior, (codes, cond) = make(kind), batch(kind)
    steps, first = prior.encode_conditions(cond, len(codes)).steps, prior.lyric_prefix
    states = [prior.hidden_states({prior.stream: codes}, cond, layer) for layer in (0, prior.config.depth)]
    logits = [prior.head(x, None if steps is None else steps[:, first:]) for x in states]
    assert torch.allclose(logits[1], prior(codes, cond)[:, first:], atol=1e-5)
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


def test_configuration_survives_json(make, kind):
    config = make(kind).config
    assert AutoregressiveConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("kind", ["top as published", "letters in front", "upsampler"])
def test_overfits_one_batch(make, batch, kind):
    """And learns nothing else by it: codes it was not shown cost more than they did before."""
    prior, (codes, cond) = make(kind, fresh=True), batch(kind, size=4)
    shown, others = (Batch({prior.stream: x}, cond) for x in (codes, batch(kind, size=4, seed=9)[0]))
    first = prior.loss(others)["bits"].item()
    optimiser = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for step in range(120):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 120)  # at the full rate a spike may come at any step, the last too
        loss = prior.loss(shown)["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
    assert first == pytest.approx(math.log2(prior.vocabulary), abs=0.2)  # a guess
    assert prior.loss(shown)["bits"].item() < 0.3
    assert prior.loss(others)["bits"].item() > first + 1


def test_embeddings_begin_with_what_the_codes_stand_for(make, kind):
    """Near vectors give near embeddings, of its own stream and of the one above; characters keep their own."""
    prior = make(kind, fresh=True)
    bins = prior.config.bins
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    vectors = {prior.stream: torch.randn(bins, 6), prior.config.reads or "vq.3": torch.randn(bins, 6)}
    for v in vectors.values():
        v[1] = v[0] + 0.01 * torch.randn(6)
    prior.initialise_embeddings(vectors)
    tables = [prior.x_emb.weight[-bins:]] + ([prior.upsampler.x_emb.weight] if prior.config.above else [])
    for table in tables:
        assert (table[0] - table[1]).norm() < 0.1 * (table[0] - table[2]).norm()
        assert table.std().item() == pytest.approx(prior.config.trunk.init.embedding, rel=0.5)
    changed = {name for name, value in prior.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"x_emb.weight"} | ({"upsampler.x_emb.weight"} if prior.config.above else set())
    if prior.lyric_prefix:
        assert torch.equal(prior.x_emb.weight[:-bins], before["x_emb.weight"][:-bins])
