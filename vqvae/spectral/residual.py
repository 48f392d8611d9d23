"""Residual vector quantisation: each codebook quantises the residual of the previous codebooks (SoundStream, arXiv:2107.03312).

In training, a random number of the last books is dropped, so the first books also decode well without the other books. If all
books are dropped, a latent passes unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.jukebox.quantize import Codebook
from vqvae.ranks import world


class ResidualQuantised(NamedTuple):
    """Latents with a straight-through gradient, codes, commitment loss, and metrics of each book."""

    latents: Float[Tensor, "b t e"]
    codes: Int[Tensor, "b t books"]
    commit: Float[Tensor, ""]
    metrics: dict[str, Tensor]


class ResidualQuantiser(nn.Module):
    """A sequence of codebooks. A code is dead if its use is below the share `threshold` of the mean use."""

    def __init__(self, books: int, bins: int, width: int, mu: float, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.books = nn.ModuleList(Codebook(bins, width, mu=mu) for _ in range(books))

    def codebook(self, book: int) -> Codebook:
        found = self.books[book]
        assert isinstance(found, Codebook)
        return found

    @property
    def vectors(self) -> Float[Tensor, "books k e"]:
        return torch.stack([self.codebook(i).k for i in range(len(self.books))])

    def encode(self, latents: Float[Tensor, "b t e"]) -> Int[Tensor, "b t books"]:
        rest, codes = latents.transpose(1, 2), []
        for i in range(len(self.books)):
            book = self.codebook(i)
            codes.append(book.encode(rest))
            rest = rest - book.decode(codes[-1])
        return torch.stack(codes, dim=-1)

    def decode(self, codes: Int[Tensor, "b t books"]) -> Float[Tensor, "b t e"]:
        """Return the sum of the codebook vectors of `codes`. With codes of fewer books, the latents are coarser."""
        return torch.stack([self.codebook(i).k[codes[..., i]] for i in range(codes.shape[-1])]).sum(0)

    def some_books(self, latents: Float[Tensor, "b t e"], used: Int[Tensor, " b"]) -> Float[Tensor, "b t e"]:
        """Quantise each batch row with its first `used` books (0: unchanged), without an update of the codebooks."""
        codes, made = self.encode(latents), torch.zeros_like(latents)
        for i in range(len(self.books)):
            made = made + torch.where((used > i)[:, None, None], self.codebook(i).k[codes[..., i]], 0.0)
        return torch.where((used > 0)[:, None, None], made, latents)

    def forward(
        self, latents: Float[Tensor, "b t e"], used: Int[Tensor, " b"], generator: torch.Generator | None = None
    ) -> ResidualQuantised:
        """Quantise each batch row with its first `used` books (0: unchanged). In training mode all codebooks are updated."""
        rest, total = latents.transpose(1, 2), torch.zeros_like(latents)
        codes, commits, metrics = [], [], {}
        mean_use = latents.shape[0] * latents.shape[1] * world() / self.codebook(0).bins
        for i in range(len(self.books)):
            self.codebook(i).threshold = self.threshold * mean_use
            made = self.codebook(i)(rest, generator)
            chosen = made.latents.detach()
            rest = rest - chosen
            total = total + torch.where((used > i)[:, None, None], chosen.transpose(1, 2), 0.0)
            codes.append(made.codes)
            commits.append(made.commit)
            metrics |= {f"{name}_book{i}": value for name, value in made.metrics.items()}
        through = torch.where((used > 0)[:, None, None], latents + (total - latents).detach(), latents)
        return ResidualQuantised(through, torch.stack(codes, -1), torch.stack(commits).mean(), metrics)
