"""DepthHead: the codes of one frame, book by book, from the trunk's output (depth transformer of RQ-Transformer,
arXiv:2203.01941).

With four books no attention is needed: the vectors of the previous codes are summed. The logits are the sum of a linear layer
and of products with the codec's codebook vectors. So what the head learns about a code also applies to similar codes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.tokens.config import TokenConfig
from priors.transformer.linear import LayerNorm, Linear, layer_norm, quick_gelu

SMALL = 0.002  # initial scale of the products with the codebook vectors; with larger scales the first logits are not uniform


class FrameEmbedding(nn.Module):
    """Embeds the codes of a frame as one vector: the sum of one table per book, and of the projected codebook vectors."""

    def __init__(self, config: TokenConfig, std: float) -> None:
        super().__init__()
        self.bins = config.bins
        self.table = nn.Embedding(config.books * config.bins, config.width)
        nn.init.normal_(self.table.weight, std=std)
        self.proj = Linear(config.vector, config.width, std * config.vector**-0.5)

    def book(self, codes: Int[Tensor, "..."], book: int, vectors: Float[Tensor, "books k e"]) -> Float[Tensor, "... w"]:
        """Return the contribution of one book to the vector, without the bias.

        If there are more codes than rows in the codebook, the whole codebook is projected, which is less work.
        """
        given, w = vectors[book], self.proj.w.t()
        latents = F.linear(given, w)[codes] if codes.numel() > len(given) else F.linear(given[codes], w)
        return self.table(codes + book * self.bins) + latents

    def forward(self, codes: Int[Tensor, "... books"], vectors: Float[Tensor, "books k e"]) -> Float[Tensor, "... w"]:
        books = codes.shape[-1]
        latents = torch.stack([vectors[i][codes[..., i]] for i in range(books)]).sum(0)
        shift = torch.arange(books, device=codes.device) * self.bins
        return self.table(codes + shift).sum(-2) + self.proj(latents.to(self.table.weight.dtype))


class BookHead(nn.Module):
    """Logits of one book: u + MLP(norm(u)), then the sum of a linear layer and of products with the codebook vectors."""

    def __init__(self, config: TokenConfig) -> None:
        super().__init__()
        width, init = config.width, config.trunk.init
        self.ln = LayerNorm(width)
        self.c_fc = Linear(width, config.head_width, init.linear)
        self.c_proj = Linear(config.head_width, width, init.linear)
        self.out = Linear(width, config.bins, init.linear)
        self.key = Linear(width, config.vector, SMALL)

    def forward(self, u: Float[Tensor, "n w"], vectors: Float[Tensor, "k e"]) -> Float[Tensor, "n k"]:
        u = u + self.c_proj(self.c_fc.after(self.ln, u), quick_gelu)
        return self.out(u) + F.linear(self.key(u), vectors.to(u.dtype))


class SamplingBook(NamedTuple):
    """A book of a `DepthHead` for sampling.

    Products of fixed weights are precomputed, so that a frame needs three matrix products per book instead of six.
    """

    norm: tuple[Float[Tensor, " w"], Float[Tensor, " w"]]
    hidden: tuple[Float[Tensor, " h"], Float[Tensor, "w h"]]
    back: tuple[Float[Tensor, " w"], Float[Tensor, "h w"]]
    out: tuple[Float[Tensor, " k"], Float[Tensor, "w k"]]  # the linear layer and the codebook products, in one matrix
    embedding: Float[Tensor, "k w"]  # contribution of each code to the input of the next book

    def logits(self, u: Float[Tensor, "n w"]) -> Float[Tensor, "n k"]:
        bias, w = self.hidden
        h = torch.addmm(bias, layer_norm(u, *self.norm), w)
        bias, w = self.back
        u = torch.addmm(bias, (1.702 * h).sigmoid_().mul_(h), w).add_(u)
        bias, w = self.out
        return torch.addmm(bias, u, w)


class DepthHead(nn.Module):
    """Logits of all books, given the trunk's output and the codes of the previous books."""

    def __init__(self, config: TokenConfig) -> None:
        super().__init__()
        self.embedding = FrameEmbedding(config, config.trunk.init.embedding)
        self.books = nn.ModuleList(BookHead(config) for _ in range(config.books))

    def forward(
        self, hidden: Float[Tensor, "n w"], codes: Int[Tensor, "n books"], vectors: Float[Tensor, "books k e"]
    ) -> Float[Tensor, "n books k"]:
        """Return teacher-forced logits. `codes` are the codes of the same frame."""
        u, logits = hidden, []
        for i in range(len(self.books)):
            logits.append(self.logits(u, i, vectors))
            u = u + self.embedding.book(codes[:, i], i, vectors)
        return torch.stack(logits, dim=1)

    @torch.no_grad()
    def for_sampling(self, vectors: Float[Tensor, "books k e"]) -> list[SamplingBook]:
        """Return the books prepared for sampling with the current weights, in their dtype."""
        made: list[SamplingBook] = []
        for i, book in enumerate(self.books):
            head: Any = book
            v = vectors[i].to(head.key.w.dtype)
            out = head.out.b + v @ head.key.b, head.out.w + head.key.w @ v.t()
            (bias, w), (back_bias, back_w) = ((x.b.detach(), x.w.detach()) for x in (head.c_fc, head.c_proj))
            embedding = self.embedding.book(torch.arange(len(v), device=v.device), i, vectors)
            made.append(SamplingBook((head.ln.weight, head.ln.bias), (bias, w), (back_bias, back_w), out, embedding))
        return made

    def logits(self, u: Float[Tensor, "n w"], book: int, vectors: Float[Tensor, "books k e"]) -> Float[Tensor, "n k"]:
        head: Any = self.books[book]
        return head(u, vectors[book])
