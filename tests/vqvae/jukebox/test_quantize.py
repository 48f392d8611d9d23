"""The codebook: nearest codes, straight-through gradients, moving averages, restarts."""

from __future__ import annotations

import pytest
import torch

from vqvae.jukebox import quantize
from vqvae.jukebox.quantize import Codebook, draw_rows, nearest


def latents_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.T[None]  # (N, E) -> (1, E, N)


def clusters(n: int = 512, centres: int = 16, seed: int = 0) -> torch.Tensor:
    """`n` rows of width 4 around well separated centres."""
    generator = torch.Generator().manual_seed(seed)
    centre = 4 * torch.randn(centres, 4, generator=torch.Generator().manual_seed(99))
    return centre[torch.arange(n) % centres] + 0.1 * torch.randn(n, 4, generator=generator)


def test_nearest_is_the_nearest_in_any_block_size(monkeypatch):
    x, k = torch.randn(1000, 8), torch.randn(37, 8)
    codes, distances = nearest(x, k)
    exact = torch.cdist(x.double(), k.double()).square()
    assert torch.equal(codes, exact.argmin(1))
    assert torch.allclose(distances.double(), exact.min(1).values, atol=1e-5)
    sizes = []
    real = torch.addmm
    monkeypatch.setattr(quantize.torch, "addmm", lambda a, b, c, **k: sizes.append(len(b)) or real(a, b, c, **k))
    big = torch.randn(2**21 // 37 + 5, 8)
    nearest(big, k)
    assert max(sizes) * 37 <= 2**21 and sum(sizes) == len(big)


def test_the_decoders_gradient_passes_straight_through_and_commitment_pulls_the_encoder_only():
    book = Codebook(8, 4).eval()
    x = torch.randn(1, 4, 20, requires_grad=True)
    quantised = book(x)
    assert torch.allclose(quantised.latents, book.decode(quantised.codes), atol=1e-6)
    (quantised.latents * torch.arange(20.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(20.0).expand(1, 4, 20))
    x.grad = None
    book(x).commit.backward()
    assert torch.allclose(x.grad, 2 * (x - quantised.latents).detach() / x.numel(), atol=1e-6)
    assert not list(book.parameters())


def test_candidates_are_distinct_rows_and_repeat_with_noise_when_there_are_too_few():
    index, noise = draw_rows(100, 64, 4, torch.Generator().manual_seed(0))
    assert noise is None and len(set(index.tolist())) == 64
    index, noise = draw_rows(10, 64, 4, torch.Generator().manual_seed(0))
    again, same = draw_rows(10, 64, 4, torch.Generator().manual_seed(0))
    assert set(index.tolist()) == set(range(10)) and torch.equal(index, again) and torch.equal(noise, same)
    assert noise.std().item() == pytest.approx(0.01 / 2, rel=0.2)


@pytest.mark.parametrize(("rows", "bins"), [(10, 64), (64, 64), (129, 64), (130, 64), (1000, 37), (5000, 64), (100_000, 2048)])
def test_candidates_are_the_first_of_a_permutation_of_all_rows_and_leave_its_generator(rows, bins):
    ours, whole = (torch.Generator().manual_seed(7) for _ in range(2))
    index, _ = draw_rows(rows, bins, 4, ours)
    repeats = -(-bins // rows)
    assert torch.equal(index, torch.randperm(rows * repeats, generator=whole)[:bins] % rows)
    if repeats == 1:
        assert torch.equal(ours.get_state(), whole.get_state())


def test_on_a_gpu_candidates_cost_as_many_random_numbers_as_there_are_codes():
    asked, generator, counted = [], torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    index, _ = draw_rows(200_000_000, 64, 4, generator, False)
    torch.empty(32, dtype=torch.int64).random_(-(2**63), None, generator=counted)
    assert len(set(index.tolist())) == 64 and index.max() > 1e8 and torch.equal(generator.get_state(), counted.get_state())

    class OnGpu(torch.Tensor):
        is_cuda = True

    book = Codebook(16, 4)
    book.draw = lambda *given: asked.append(given[-1]) or draw_rows(*given)
    for rows in (clusters(), clusters().as_subclass(OnGpu)):
        book._candidates(rows, generator)
    assert asked == [True, False]


def train(book: Codebook, steps: int, seed: int = 0) -> list[float]:
    """Number of codes in use in each of `steps` batches."""
    generator = torch.Generator().manual_seed(seed)
    book.train()
    logs = [book(latents_of(clusters(seed=step)), generator).metrics for step in range(steps)]
    return [log["used_curr"].item() for log in logs]


def collapsed(threshold: float, **kind) -> Codebook:
    """A codebook of which a single code is ever nearest: the others lie far away."""
    book = Codebook(16, 4, mu=0.9, threshold=threshold, **kind)
    book.k.fill_(100.0)
    book.k[0] = 0.0
    book.restore(expected=1.0)
    return book


def test_restarts_revive_dead_codes_and_without_them_they_stay_dead():
    assert train(collapsed(threshold=1.0), 30)[-1] >= 12
    assert set(train(collapsed(threshold=0.0), 30)) == {1.0}


def test_resetting_a_restarted_code_spares_it_the_next_restarts():
    """As published, stale sums throw a restarted code away again and again; the count starts at the mean use instead."""
    moves = {}
    for reset in (True, False):
        book, generator = collapsed(1.0, reset_restarted=reset).train(), torch.Generator().manual_seed(0)
        moves[reset] = 0
        for step in range(30):
            kept = book.k.clone()
            book(latents_of(clusters(seed=step)), generator)
            moves[reset] += int(((book.k - kept).norm(dim=1) > 1.0).sum())
    assert moves[True] < moves[False] / 2


def test_the_first_batch_initialises_the_codebook_from_its_rows():
    book = Codebook(16, 4).train()
    rows = clusters()
    assert not book.initialised
    book(latents_of(rows), torch.Generator().manual_seed(0))
    assert book.initialised and book.k_elem.sum() > 0
    assert torch.cdist(book.k, rows).min(1).values.max() < 0.5


def test_a_code_unused_for_thousands_of_steps_keeps_its_place():
    book = collapsed(threshold=0.0).train()
    book.k_elem[1:], book.k_sum[1:] = 0.0, 0.0
    train(book, 2)
    assert (book.k[1:] == 100.0).all()


def test_moving_averages_follow_the_equations():
    book = Codebook(2, 1, mu=0.75, threshold=0.0).train()
    book.k.copy_(torch.tensor([[0.0], [10.0]]))
    book.restore(expected=2.0)
    book(latents_of(torch.tensor([[1.0], [2.0], [12.0]])), torch.Generator())
    assert torch.allclose(book.k_elem, torch.tensor([0.75 * 2 + 0.25 * 2, 0.75 * 2 + 0.25 * 1]))
    assert torch.allclose(book.k_sum, torch.tensor([[0.25 * 3.0], [0.75 * 20 + 0.25 * 12.0]]))
    assert torch.allclose(book.k, book.k_sum / book.k_elem[:, None])


def test_evaluation_leaves_the_codebook_alone():
    book = Codebook(16, 4).eval()
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book(latents_of(clusters()))
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_batch_that_is_not_finite_stops_before_it_spoils_the_codebook(bad):
    book = Codebook(16, 4).train()
    train(book, 2)
    before = {name: value.clone() for name, value in book.state_dict().items()}
    rows = clusters()
    rows[3, 1] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        book(latents_of(rows), torch.Generator())
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())
    with pytest.raises(ValueError, match="not finite"):
        book.encode(latents_of(rows))


def test_metrics_describe_the_use_of_codes():
    book = Codebook(4, 1).eval()
    book.k.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    metrics = book(latents_of(torch.tensor([[0.0], [1.0], [1.1], [0.1]]))).metrics
    assert metrics["entropy"].item() == pytest.approx(0.6931, abs=1e-3)  # two codes, equally often: ln 2
    assert metrics["used_curr"].item() == 2
    assert metrics["fit"].item() == pytest.approx((0.1**2 + 0.1**2) / 4, abs=1e-6)
    assert metrics["pn"].item() == pytest.approx(torch.tensor([0.0, 1.0, 1.1, 0.1]).std(correction=0).item(), abs=1e-6)
