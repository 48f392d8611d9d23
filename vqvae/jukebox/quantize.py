"""The codebook: nearest code, straight-through gradient, moving averages instead of gradients, restarts of dead codes.

VQ-VAE (arXiv:1711.00937) with the EMA codebook of its appendix and the random restarts of Jukebox (arXiv:2005.00341, section
3). If the moving average of a code's use falls below a threshold, the code is set to a random encoder output of the batch.
Notable:
- all computations are in float32, also under autocast, because distances are small differences of large numbers;
- the moving averages are buffers, so training resumes exactly from a saved codebook. Published checkpoints lack them;
- candidates for initialisation and restarts are sampled from the *global* batch by a generator that all ranks share. So the
  codebook does not depend on the number of ranks;
- in the published code a restart does not change the moving averages of the code, so the next step restarts the code again.
  With `reset_restarted` a restarted code gets the moving averages of a code of average use (about 70 times fewer restarts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.ranks import rank_and_world, sum_over_ranks, world

# (rows in the global batch, bins, width, generator, skip) -> (indices of the candidate rows, noise for these rows or None)
Draw = Callable[[int, int, int, torch.Generator | None, bool], tuple[Tensor, Tensor | None]]


def draw_rows(
    rows: int, bins: int, width: int, generator: torch.Generator | None, skip: bool = True
) -> tuple[Int[Tensor, "k"], Float[Tensor, "k e"] | None]:
    """Sample `bins` of `rows` row indices without replacement, and return the indices and the noise to add to the rows.

    If there are fewer rows than bins, indices repeat, and the noise (bins, width) makes the rows distinct. Otherwise the noise
    is None. The sample is the start of a random permutation, and for many rows only the start is computed. With `skip` the
    generator advances as far as the whole permutation would, so later random numbers on the CPU do not change.
    """
    if rows < 2 * bins + 2:
        repeats = -(-bins // rows)
        index = torch.randperm(rows * repeats, generator=generator, device="cpu")[:bins] % rows
        return index, None if repeats == 1 else torch.randn(bins, width, generator=generator, device="cpu") * (
            0.01 / width**0.5
        )
    index = first_of_permutation(rows, bins, generator)
    if skip:
        torch.empty(rows - 1 - bins - bins % 2, dtype=torch.uint8, device="cpu").random_(generator=generator)
    return index, None


def first_of_permutation(rows: int, count: int, generator: torch.Generator | None) -> Int[Tensor, " count"]:
    """The first `count` numbers of `torch.randperm(rows)`, for `rows` below 2^32 / 20.

    Time and memory depend only on `count`. For i = 0, 1, ..., torch swaps element i with a random element at position i or
    later. Later swaps do not change the first elements, so only swapped elements are stored. The function takes `count` 32-bit
    numbers from the generator, and one more if `count` is odd.
    """
    pairs = torch.empty((count + 1) // 2, dtype=torch.int64, device="cpu").random_(-(2**63), None, generator=generator)
    numbers = torch.stack([pairs >> 32, pairs], dim=1).flatten()[:count] & 0xFFFFFFFF
    place = torch.arange(count, device="cpu")
    index, moved = [], dict[int, int]()
    for i, other in enumerate((place + numbers % (rows - place)).tolist()):
        index.append(moved.get(other, other))
        moved[other] = moved.get(i, i)
    return torch.tensor(index, device="cpu")


def nearest(x: Float[Tensor, "n e"], k: Float[Tensor, "k e"]) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """Return the index of the row of `k` that is nearest to each row of `x`, and the squared distances.

    The distances are computed in blocks of rows to save memory.
    """
    block = max(1, (2**26 if x.is_cuda else 2**21) // len(k))
    k_squared = k.square().sum(1)
    codes, distances = [], []
    for part in x.split(block) if len(x) else [x]:
        # |x - k|^2 is expanded in the order of the published code, so that ties have the same result
        d = torch.addmm(part.square().sum(1, keepdim=True), part, k.T, alpha=-2).add_(k_squared)
        distance, code = d.min(1)
        codes.append(code)
        distances.append(distance)
    return torch.cat(codes), torch.cat(distances)


class Quantised(NamedTuple):
    """The result of quantising a batch of latents."""

    latents: Tensor  # (b, e, t), codebook rows; the gradient passes straight through to the encoder's output
    codes: Tensor  # (b, t)
    commit: Tensor  # commitment loss: mean squared distance of encoder output and code, with gradients for the encoder only
    metrics: dict[str, Tensor]  # entropy (nats), used_curr, usage, dk, fit, pn


class Codebook(nn.Module):
    """A codebook of `bins` rows with `width` numbers. In training mode, each row moves towards the latents that it quantises.

    `mu` is the decay of the moving averages. A code is dead if its moving average of uses is below `threshold`.
    """

    k: Tensor
    k_sum: Tensor
    k_elem: Tensor
    initialised: Tensor

    def __init__(
        self, bins: int, width: int, *, mu: float = 0.99, threshold: float = 1.0, reset_restarted: bool = True
    ) -> None:
        super().__init__()
        self.bins, self.width = bins, width
        self.mu, self.threshold, self.reset_restarted = mu, threshold, reset_restarted
        self.draw: Draw = draw_rows
        self.register_buffer("k", torch.randn(bins, width) * 0.1)  # a random codebook, until a batch initialises it
        self.register_buffer("k_sum", torch.zeros(bins, width))
        self.register_buffer("k_elem", torch.zeros(bins))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def encode(self, latents: Float[Tensor, "b e t"]) -> Int[Tensor, "b t"]:
        """Return the code of each latent; ValueError if a distance is not finite."""
        b, _, t = latents.shape
        codes, distances = nearest(self._rows(latents), self.k.float())
        if not torch.isfinite(distances).all():
            raise ValueError(
                "the encoder's output is not finite: the audio holds nan, inf or huge samples; give samples in [-1, 1]"
            )
        return codes.view(b, t)

    def decode(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b e t"]:
        """Return the codebook rows of `codes`."""
        return self.k.float()[codes].transpose(1, 2)

    def forward(self, latents: Float[Tensor, "b e t"], generator: torch.Generator | None = None) -> Quantised:
        """Quantise latents. In training mode, update the codebook afterwards: codes and loss belong to the old codebook."""
        with torch.autocast(latents.device.type, enabled=False):
            b, _, t = latents.shape
            x = self._rows(latents)
            rows = x.detach()
            if self.training and not self.initialised:
                self._initialise(rows, generator)
            codes, distances = nearest(rows, self.k)
            chosen = self.k[codes]
            commit = (chosen - x).square().mean()
            # straight-through estimator: the gradient of the decoder reaches the encoder unchanged
            through = x + (chosen - x).detach()
            metrics = {"fit": distances.mean(), "pn": (rows - rows.mean()).norm() / rows.numel() ** 0.5}
            metrics |= self._update(rows, codes, distances, generator) if self.training else self._use(self._counts(codes))
            return Quantised(through.view(b, t, -1).transpose(1, 2), codes.view(b, t), commit, metrics)

    @torch.no_grad()
    def restore(self, expected: float = 1.0) -> None:
        """Set the moving averages as if each current code were used `expected` times per global batch."""
        self.k_elem.fill_(expected)
        self.k_sum.copy_(self.k * expected)
        self.initialised.fill_(True)

    def _rows(self, latents: Tensor) -> Float[Tensor, "n e"]:
        return latents.float().transpose(1, 2).reshape(-1, self.width)  # (B, E, T) -> (B * T, E)

    @torch.no_grad()
    def _initialise(self, rows: Float[Tensor, "n e"], generator: torch.Generator | None) -> None:
        own, noise = self._candidates(rows, generator)
        (candidates,) = sum_over_ranks(own)
        self.k.copy_(_finite(candidates) + noise)
        self.restore(self._fresh(len(rows)))

    @torch.no_grad()
    def _update(self, rows: Tensor, codes: Tensor, distances: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Update the moving averages, restart dead codes, and return the metrics of the global batch."""
        own, noise = self._candidates(rows, generator)
        sums = torch.zeros_like(self.k).index_add_(0, codes, rows)
        sums += 0 * distances.sum()  # if squares overflow on one rank, the sum is not finite, and all ranks stop
        sums, counts, candidates = sum_over_ranks(sums, self._counts(codes), own)
        self.k_sum.copy_(self.mu * self.k_sum + (1 - self.mu) * _finite(sums))
        self.k_elem.copy_(self.mu * self.k_elem + (1 - self.mu) * counts)
        dead = self.k_elem < self.threshold
        candidates += noise
        metrics = self._use(counts)
        # a code does not move if it is unused for thousands of steps, because its sums are too small to divide
        mean = torch.where(self.k_elem[:, None] > 1e-12, self.k_sum / self.k_elem[:, None], self.k)
        moved = torch.where(dead[:, None], candidates, mean)
        metrics["dk"] = (moved - self.k).norm() / self.k.numel() ** 0.5
        self.k.copy_(moved)
        if self.reset_restarted:
            fresh = self._fresh(len(rows))
            self.k_elem.masked_fill_(dead, fresh)
            self.k_sum.copy_(torch.where(dead[:, None], candidates * fresh, self.k_sum))
        return metrics

    def _candidates(self, rows: Float[Tensor, "n e"], generator: torch.Generator | None) -> tuple[Tensor, Tensor | float]:
        """Return candidate rows of this rank, and the noise to add to their sum over ranks.

        A row is zero if another rank has the candidate. The generators of all ranks must have the same state.
        """
        rank, ranks = rank_and_world()
        if ranks > 1 and generator is None:
            raise ValueError("training on several ranks needs a generator with the same seed on all ranks; pass generator=")
        index, noise = self.draw(len(rows) * ranks, self.bins, self.width, generator, not rows.is_cuda)
        index = index.to(rows.device) - rank * len(rows)  # the global batch is the concatenation of the ranks' batches
        mine = (index >= 0) & (index < len(rows))
        own = torch.where(mine[:, None], rows[index.clamp(0, len(rows) - 1)], 0.0)
        return own, 0.0 if noise is None else noise.to(rows.device)

    def _fresh(self, rows: int) -> float:
        """Initial moving average of the uses of a new code: the mean use of all codes, but at least the restart threshold.

        Without `reset_restarted` the value is 1, as published.
        """
        return max(rows * world() / self.bins, self.threshold) if self.reset_restarted else 1.0

    def _counts(self, codes: Int[Tensor, "n"]) -> Float[Tensor, "k"]:
        return torch.bincount(codes, minlength=self.bins).float()

    def _use(self, counts: Float[Tensor, "k"]) -> dict[str, Tensor]:
        p, in_use = counts / counts.sum(), max(self.threshold, 1e-3)  # a threshold of 0 disables restarts
        return {
            "entropy": -(p * (p + 1e-8).log()).sum(),
            "used_curr": (counts >= in_use).sum().float(),
            "usage": (self.k_elem >= in_use).sum().float(),
            "dk": torch.zeros_like(p[0]),
        }


def _finite(summed: Tensor) -> Tensor:
    """Return `summed`; FloatingPointError if a value is not finite.

    The check follows the reduction over ranks, so every rank raises. It precedes the update, so the codebook stays valid.
    """
    if not torch.isfinite(summed).all():
        raise FloatingPointError("the encoder's output is not finite: the training has diverged; lower the learning rate")
    return summed
