"""The prior of frames of several codes: sizes, causality, cached steps, conditions, and what it learns beside controls."""

from dataclasses import replace

import pytest
import torch

from priors.conditioning.conditions import Conditions, SungFrames
from priors.conditioning.config import FrameLyricConfig, LabelConfig
from priors.noise import Generators
from priors.prior import Batch, Known, Window, sample_window
from priors.tokens.config import FrameParams, TokenConfig
from priors.tokens.model import TokenPrior
from priors.transformer.config import Init, TrunkConfig

TRUNK = TrunkConfig(24, 32, 2, 4, m_attn=1.0, m_mlp=2.0, rope=100.0, init=Init(0.1, 0.3, 0.1, 0.3))
LABELS = LabelConfig(4, 3, max_genres=2, timing_bins=8, max_seconds=20.0, sample_rate=1000)
CONFIG = TokenConfig(
    "tokens", 3, 11, 100, 1000, TRUNK, vector=5, noise=0.0, labels=LABELS, lyrics=FrameLyricConfig(9, width=6, hidden=8)
)


def prior(seed: int = 0, **changes) -> TokenPrior:
    torch.manual_seed(seed)
    made = TokenPrior(replace(CONFIG, **changes))
    made.initialise_embeddings({"tokens": torch.randn(3, 11, 5)})
    return made.double().eval()


def codes(rows: int = 2, frames: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randint(11, (rows, frames, 3), generator=torch.Generator().manual_seed(seed))


def conditions(rows: int = 2, seed: int = 2) -> Conditions:
    rng = torch.Generator().manual_seed(seed)
    sung = SungFrames(torch.randint(9, (rows, 48), generator=rng), torch.rand(rows, 48, generator=rng).double())
    timing = torch.tensor([[9000, 1000, 2400]]).expand(rows, -1)
    return Conditions(torch.arange(rows) + 1, torch.tensor([[1, -1]]).expand(rows, -1), timing, sung=sung)


def noise(rows: int = 2, first: int = 0) -> Generators:
    return Generators([torch.Generator().manual_seed(first + row) for row in range(rows)])


def sampled(model: TokenPrior, prompt: torch.Tensor, cond: Conditions, length: int = 20, **params) -> torch.Tensor:
    known = Known.prefix("tokens", prompt, length)
    rows = noise(len(prompt))
    return sample_window(model, Window(0, length, 24), known, cond, rows, {"tokens": FrameParams(**params)})["tokens"]


def test_sizes_of_the_configuration_are_those_of_the_model():
    for changes in ({}, {"labels": None}, {"lyrics": None}, {"books": 2}):
        model = TokenPrior(replace(CONFIG, **changes))
        assert sum(x.numel() for x in model.state_dict().values()) == model.config.parameters().all
    assert TokenConfig.from_json(CONFIG.to_json()) == CONFIG


def test_books_for_sampling_have_the_logits_of_the_depth_head():
    model = prior()
    hidden, given = torch.randn(5, 32, dtype=torch.float64), codes(5, 1)[:, 0]
    expected, u = model.head(hidden, given, model.vectors), hidden
    for i, book in enumerate(model.head.for_sampling(model.vectors)):
        assert torch.allclose(book.logits(u), expected[:, i], rtol=0, atol=1e-12)
        u = u + book.embedding[given[:, i]]


def test_a_code_depends_on_earlier_frames_and_on_earlier_books_of_its_own_alone():
    model, cond = prior(), conditions(1)
    for frame, book in ((5, 0), (5, 2), (10, 1)):
        a, b = codes(1), codes(1)
        b[0, frame, book] = (b[0, frame, book] + 1) % 11
        bits = [model.bits(x, model.hidden(x, model.encode_conditions(cond, 1)))[0].detach() for x in (a, b)]
        same = (bits[0] == bits[1]).flatten()
        at = 3 * frame + book
        assert same[:at].all() and not same[at] and not same[at + 1 :].all()


def test_every_condition_changes_the_bits_and_lyrics_reach_ahead():
    model, x, cond = prior(), codes(), conditions()
    bits = model.nll({"tokens": x}, cond)["tokens"]
    for name in ("artist", "genres", "timing", "sung"):
        assert not torch.allclose(model.nll({"tokens": x}, cond.without(name))["tokens"], bits), name
    assert cond.sung is not None
    later = cond.sung.ids.clone()
    later[:, 24] = (later[:, 24] + 1) % 9  # of frame 12
    changed = model.nll({"tokens": x}, replace(cond, sung=cond.sung._replace(ids=later)))["tokens"]
    assert not torch.equal(changed[:, 11], bits[:, 11]) and torch.equal(changed[:, :8], bits[:, :8])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_cached_sampling_equals_sampling_from_the_whole_window(compiled, guidance):
    model, cond, prompt = prior().float(), conditions(), codes(frames=4)
    cond = cond.map(lambda x: x.float() if x.is_floating_point() else x)
    model.compiled = compiled
    made = sampled(model, prompt, cond, temperature=0.0, guidance=guidance)
    assert torch.equal(made[:, :4], prompt)

    def logits(x: torch.Tensor, given: Conditions) -> torch.Tensor:
        padded = torch.cat([x, codes(frames=24 - x.shape[1])], dim=1)
        hidden = model.hidden(padded, model.encode_conditions(given, 2))
        return model.head(hidden.flatten(0, 1), padded.flatten(0, 1), model.vectors).unflatten(0, (2, -1))[:, : x.shape[1]]

    true = logits(made, cond)
    if guidance != 1.0:
        bare = logits(made, Conditions())
        true = bare + guidance * (true - bare)
    assert torch.equal(true.argmax(-1)[:, 4:], made[:, 4:])


def test_a_row_does_not_depend_on_its_batch_and_a_seed_decides_it():
    model, cond, prompt = prior(), conditions(), codes(frames=3)
    both = sampled(model, prompt, cond)
    alone = sample_window(
        model,
        Window(0, 20, 24),
        Known.prefix("tokens", prompt[1:], 20),
        cond.rows(slice(1, 2)),
        noise(1, 1),
        {"tokens": FrameParams()},
    )["tokens"]
    assert torch.equal(both[1:], alone)
    assert torch.equal(both, sampled(model, prompt, cond)) and not torch.equal(both[0], both[1])


def test_a_state_saved_in_the_middle_of_a_window_leads_to_the_same_codes():
    model, cond, prompt = prior(), conditions(), codes(frames=3)
    model.block = 4
    args = (Window(0, 20, 24), Known.prefix("tokens", prompt, 20), cond)
    whole = sampled(model, prompt, cond)
    state = model.start(*args, noise(), {"tokens": FrameParams()})
    updates = model.sample(state)
    next(updates), next(updates)
    saved = state.state_dict()
    fresh = model.start(*args, noise(), {"tokens": FrameParams()})
    fresh.load_state_dict(saved)
    rest = torch.cat([update.values for update in model.sample(fresh)], dim=1)
    assert torch.equal(rest, whole[:, 3 + 8 :])
    with pytest.raises(ValueError, match="saved state"):
        model.start(*args, noise(), {"tokens": FrameParams()}).load_state_dict(saved | {"code": saved["code"][:, :2]})


def test_input_codes_are_replaced_in_training_only():
    model = prior(noise=0.25)
    x = codes(200)
    assert torch.equal(model._disturbed(x), x)
    model.train()
    share = (model._disturbed(x) != x).double().mean().item()
    assert 0.18 < share < 0.28  # a replaced code is the old one in one of eleven cases


def test_a_song_is_learned_and_belongs_to_its_conditions():
    """After some steps a row's own codes under its own label and lyrics are likelier than under another row's."""
    model = prior().float()
    model.train()
    x, cond = codes(4), conditions(4)
    cond = cond.map(lambda t: t.float() if t.is_floating_point() else t)
    cond = replace(cond, artist=torch.tensor([1, 2, 3, 1]))
    untrained = model.nll({"tokens": x}, cond)["tokens"].mean()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = model.loss(Batch({"tokens": x}, cond))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    own = model.nll({"tokens": x}, cond)["tokens"].mean()
    other = model.nll({"tokens": x}, cond.map(lambda t: t.roll(1, dims=0)))["tokens"].mean()
    assert own < 0.5 * untrained and own < 0.5 * other
