"""A masked prior of one stream whose frames hold several codes: each book is a level of a column."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from jukebox.model.folder import is_norm
from priors.conditioning.conditions import Conditions
from priors.masked.columns import draw_masks, join_books, split_books
from priors.masked.config import MaskedConfig, MaskedParams
from priors.masked.heads import EncodedColumns
from priors.masked.model import MaskedPrior
from priors.masked.state import MaskedState
from priors.noise import Generators
from priors.prior import Batch, Known, Window, sample_window
from priors.spec import DecodingJob
from priors.transformer.config import Init, TrunkConfig

STREAM, BOOKS, BINS, FRAMES = "tokens", 4, 16, 24
INIT = Init(0.03, 0.3, 0.1, 0.3)
TRUNK = TrunkConfig(32, 32, 2, 2, ("full", "full"), m_attn=1.0, m_mlp=2.0, init=INIT)
CONFIG = MaskedConfig(BINS, (1024,), 22050, TRUNK, vector=8, head_width=16, local=2, streams=(STREAM,), books=BOOKS)
FINEST_FIRST = ["tokens/3", "tokens/2", "tokens/1", "tokens/0"]


@pytest.fixture(scope="module")
def prior() -> MaskedPrior:
    torch.manual_seed(0)
    made = MaskedPrior(CONFIG)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


def window(rows: int = 3) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Codes, and a prompt of another kind per row: none, a masked region, scattered frames."""
    torch.manual_seed(0)
    known = torch.zeros(rows, FRAMES, dtype=torch.bool)
    known[1], known[2] = True, torch.rand(FRAMES) < 0.5
    known[1, 8:15] = False
    return {STREAM: torch.randint(BINS, (rows, FRAMES, BOOKS))}, {STREAM: known}


def begin(prior: MaskedPrior, params: MaskedParams, seed: int = 0) -> MaskedState:
    codes, known = window()
    rngs = [torch.Generator().manual_seed(seed + i) for i in range(3)]
    return prior.start(Window(0, FRAMES, FRAMES), Known(codes, known), Conditions(), Generators(rngs), {STREAM: params})


# ---- configuration


def test_only_a_single_stream_has_frames_of_several_codes():
    for hops, books in (((8, 32), 2), ((8,), 0)):
        with pytest.raises(ValueError, match="expected 1 book, or several books of a single stream"):
            MaskedConfig(16, hops, 22050, TRUNK, books=books)


def test_a_configuration_comes_back_from_json_and_one_without_books_has_one():
    data = json.loads(json.dumps(CONFIG.to_json()))
    assert MaskedConfig.from_json(data) == CONFIG and CONFIG.spec.writes == (STREAM,)
    del data["books"]
    assert MaskedConfig.from_json(data).books == 1


def test_parameters_are_those_of_the_state_dict(prior):
    counted, state = CONFIG.parameters(), prior.state_dict()
    assert counted.all == sum(tensor.numel() for tensor in state.values())
    assert counted.norms == sum(tensor.numel() for name, tensor in state.items() if is_norm(name))


def test_the_first_book_has_the_passes_that_are_given_and_each_further_one_half_as_many():
    assert list(CONFIG.passes(STREAM, 12).items()) == [("tokens/0", 12), ("tokens/1", 6), ("tokens/2", 3), ("tokens/3", 2)]
    assert list(CONFIG.passes(STREAM, 1).values()) == [1] * BOOKS
    assert replace(CONFIG, books=1).passes(STREAM, 0) == {STREAM: 12}


# ---- frames as books


def test_split_books_and_join_books_are_inverses_and_flags_of_frames_hold_for_every_book():
    codes, known = window()
    split = split_books(codes, STREAM, BOOKS)
    assert list(split) == FINEST_FIRST and torch.equal(split["tokens/2"], codes[STREAM][..., 2])
    assert torch.equal(join_books(split, STREAM, BOOKS)[STREAM], codes[STREAM]) and split_books(split, STREAM, BOOKS) == split
    assert all(torch.equal(flags, known[STREAM]) for flags in split_books(known, STREAM, BOOKS).values())


def test_frames_with_another_number_of_codes_raise(prior):
    codes, known = window()
    for wrong in (codes[STREAM][..., :2], codes[STREAM][..., 0]):
        with pytest.raises(ValueError, match=r"expected \(rows, frames, 4\)"):
            prior.nll({STREAM: wrong}, Conditions(), known)


def test_training_masks_hide_no_book_before_one_that_is_known():
    rng, known = np.random.default_rng(0), set()
    for _ in range(300):
        keep, _ = draw_masks(16, CONFIG.ratios, rng)
        assert list(keep) == FINEST_FIRST
        first = next((book for book in range(BOOKS) if not keep[f"tokens/{book}"].all()), BOOKS)
        known.add(first)
    assert known >= set(range(BOOKS))


# ---- bits


def test_bits_of_a_frame_are_the_sum_over_its_books_and_nan_where_it_is_known(prior):
    codes, known = window()
    bits, costs = prior.nll(codes, Conditions(), known)[STREAM], prior.costs(codes, Conditions(), known)
    assert bits.shape == known[STREAM].shape and torch.equal(bits.isnan(), known[STREAM])
    assert list(costs) == FINEST_FIRST
    assert torch.allclose(bits[~known[STREAM]], torch.stack(list(costs.values())).sum(0), atol=1e-5)


def test_the_first_loss_is_that_of_a_guess_and_every_parameter_has_a_gradient():
    torch.manual_seed(0)
    fresh = MaskedPrior(CONFIG)
    losses = fresh.loss(Batch({STREAM: torch.randint(BINS, (16, FRAMES, BOOKS))}, Conditions()))
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(4.0, abs=0.1)  # of a code; "bits" are of a frame
    assert losses["bits"].item() == pytest.approx(BOOKS * losses["loss"].item())
    assert [name for name, p in fresh.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_head_of_a_book_takes_the_codes_of_the_books_before_it_in_the_frame(prior):
    vectors = {level: torch.randn(1, FRAMES, 8, requires_grad=True) for level in FINEST_FIRST}
    made = prior.head("tokens/2")(torch.randn(1, FRAMES, 32), vectors)[0, 10, 0]
    for gradient in torch.autograd.grad(made, [vectors["tokens/0"], vectors["tokens/1"]]):
        assert gradient[0, 10].abs().max() > 0


def test_a_masked_code_changes_no_bits_but_its_own(prior):
    codes, known = window()
    keep = {f"tokens/{book}": known[STREAM].clone() | (book < 2) for book in range(BOOKS)}
    other = codes[STREAM].clone()
    other[1, 10, 2] = (other[1, 10, 2] + 1) % BINS
    before, after = (prior.costs({STREAM: x}, Conditions(), keep) for x in (codes[STREAM], other))
    assert torch.equal(before["tokens/3"], after["tokens/3"]) and (before["tokens/2"] != after["tokens/2"]).sum() == 1


def test_pieces_of_a_window_have_the_vectors_of_the_whole(prior, monkeypatch):
    codes, known = window()
    seen = prior.encode_columns(prior.split(codes), prior.split(known), prior.encode_conditions(Conditions(), 3, FRAMES))
    head, asked = prior.head("tokens/1"), ~known[STREAM]
    monkeypatch.setattr("priors.masked.heads.CHUNK", 5 * head.out.w.shape[0])
    pieces = torch.zeros(3, FRAMES, 16)
    for places, x in head.around(EncodedColumns(seen.columns, seen.vectors), asked, int(asked.sum())):
        pieces.flatten(0, 1)[places] = x
    assert torch.allclose(pieces[asked], head(seen.columns, seen.vectors)[asked], atol=1e-5)


# ---- sampling


def test_known_frames_stay_and_the_others_are_sampled(prior):
    codes, known = window()
    noise = Generators([torch.Generator().manual_seed(i) for i in range(3)])
    given = (Window(0, FRAMES, FRAMES), Known(codes, known), Conditions(), noise, {STREAM: MaskedParams(passes=3)})
    made = sample_window(prior, *given)[STREAM]
    assert made.shape == codes[STREAM].shape and torch.equal(made[known[STREAM]], codes[STREAM][known[STREAM]])
    assert (made != codes[STREAM])[0].any(dim=0).all() and ((made >= 0) & (made < BINS)).all()


def test_what_is_not_known_is_never_read(prior):
    codes, known = window()
    other, made = torch.where(known[STREAM][..., None], codes[STREAM], -7), []
    for x in (codes[STREAM], other):
        noise = Generators([torch.Generator().manual_seed(i) for i in range(3)])
        given = (Window(0, FRAMES, FRAMES), Known({STREAM: x}, known), Conditions(), noise, {STREAM: MaskedParams(passes=2)})
        made.append(sample_window(prior, *given)[STREAM])
    assert torch.equal(*made)


def test_books_are_completed_in_their_order_and_only_the_last_update_has_frames(prior):
    state, unknown = begin(prior, MaskedParams(passes=4)), []
    updates = []
    for update in prior.sample(state):
        updates.append(update)
        unknown.append([int((~state.known[f"tokens/{book}"]).sum()) for book in range(BOOKS)])
    total = int((~window()[1][STREAM]).sum())
    for counts in unknown:  # before a book begins, those before it are complete
        assert all(counts[book] == 0 or counts[book + 1] == total for book in range(BOOKS - 1))
    assert [tuple(update.values.shape[1:]) for update in updates] == [(0, BOOKS)] * (4 + 2 + 1) + [(FRAMES, BOOKS)]
    assert {(update.stream, update.start) for update in updates} == {(STREAM, 0)}
    job = DecodingJob(STREAM, "float32", 3, 1, 3, 1, [(0, 0, FRAMES)], {"passes": 4})
    assert CONFIG.decoding_cost(job).steps == len(updates)


def test_a_window_goes_on_exactly_from_a_state_saved_after_any_pass(prior):
    params = MaskedParams(passes=3)
    *_, expected = prior.sample(begin(prior, params))
    state = begin(prior, params)
    for update in prior.sample(state):
        saved = {name: tensor.clone() for name, tensor in state.state_dict().items()}
        assert sum(tensor.nbytes for tensor in saved.values()) == state.nbytes
        again = begin(prior, params, seed=7)
        again.load_state_dict(saved)
        *_, last = [update, *prior.sample(again)]
        assert torch.equal(last.values, expected.values)


# ---- tables


@pytest.mark.parametrize("flat", [False, True])
def test_the_table_of_each_book_begins_with_the_vectors_of_that_book(prior, flat):
    vectors = torch.randn(BOOKS, BINS, 8) * torch.tensor([8.0, 4.0, 2.0, 1.0])[:, None, None]
    fresh = MaskedPrior(CONFIG)
    fresh.initialise_embeddings({STREAM: vectors.flatten(0, 1) if flat else vectors})
    for book in range(BOOKS):
        table = fresh.state_dict()[f"embedding.x_emb.{FINEST_FIRST.index(f'tokens/{book}')}.weight"]
        expected = (vectors[book] - vectors[book].mean(0)) / vectors[book].std(0) * INIT.embedding
        assert torch.allclose(table, expected, atol=1e-6)


def test_vectors_of_another_width_are_projected_to_that_of_the_tables(prior):
    torch.manual_seed(0)
    fresh = MaskedPrior(CONFIG)
    fresh.initialise_embeddings({STREAM: torch.randn(BOOKS, BINS, 40)})
    for level in range(BOOKS):
        table = fresh.state_dict()[f"embedding.x_emb.{level}.weight"]
        assert table.std().item() == pytest.approx(INIT.embedding, rel=0.3) and table.mean(0).abs().max() < 1e-5


# ---- what it learns


def periodic(seed: int) -> torch.Tensor:
    """A song (1, t, books) of its own: each book repeats a random pattern of 6 frames."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(BINS, (1, 6, BOOKS - 1), generator=rng).repeat(1, FRAMES // 6, 1)


def accuracy(prior: MaskedPrior, song: torch.Tensor, context: torch.Tensor) -> float:
    """Share of the codes of a masked middle of `song` that are sampled when the frames around it are those of `context`."""
    known = torch.ones(1, FRAMES, dtype=torch.bool)
    known[:, 8:16] = False
    noise, params = Generators([torch.Generator().manual_seed(0)]), {STREAM: MaskedParams(passes=4, temperature=0.5)}
    given = Known({STREAM: context}, {STREAM: known})
    made = sample_window(prior, Window(0, FRAMES, FRAMES), given, Conditions(), noise, params)[STREAM]
    return (made == song)[~known].float().mean().item()


def test_a_masked_middle_is_completed_from_the_frames_around_it():
    """The controls: the prior before it was trained, and the frames of another song around the region."""
    torch.manual_seed(0)
    trunk = replace(TRUNK, width=48, depth=1, order=("full",))
    prior = MaskedPrior(replace(CONFIG, books=BOOKS - 1, trunk=trunk, vector=16, head_width=32, local=1))
    songs, optimiser = torch.cat([periodic(seed) for seed in range(4)]), torch.optim.AdamW(prior.parameters(), 1e-2)
    untrained = np.mean([accuracy(prior, song[None], song[None]) for song in songs])
    for step in range(120):
        optimiser.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (1 - step / 120))
        optimiser.zero_grad()
        prior.loss(Batch({STREAM: songs.repeat(8, 1, 1)}, Conditions()))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
    own = np.mean([accuracy(prior, song[None], song[None]) for song in songs])
    other = np.mean([accuracy(prior, song[None], songs[i - 1][None]) for i, song in enumerate(songs)])
    assert own > 0.8 and untrained < 0.2 and other < 0.2, (own, untrained, other)
