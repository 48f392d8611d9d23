"""A counter of passes through networks. Unlike seconds, counts have no noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from priors.autoregressive.native import Native
from priors.diffusion.network import DualPathNetwork
from priors.transformer.trunk import Transformer
from vqvae.jukebox.blocks import Decoder
from vqvae.jukebox.stream import AutoencoderDecoder
from vqvae.latent.model import LatentDecoder
from vqvae.spectral.autoencoder import SpectralDecoder

Method = tuple[type, str]
# a pass of a prior over a window, a prompt or one step; compiled steps do not call the trunk, so they are listed too
PRIORS: Sequence[Method] = (
    (Transformer, "forward"), (Transformer, "prefill"), (Transformer, "step"), (Native, "__call__"), (DualPathNetwork, "forward"),
)  # fmt: skip
# a pass over a block of frames; the three-level codec splits a block into pieces
DECODERS: Sequence[Method] = (
    (SpectralDecoder, "hidden"), (LatentDecoder, "forward"), (Decoder, "forward"), (AutoencoderDecoder, "push"),
)  # fmt: skip


class Passes:
    """Counts of the forward passes of priors and of codec decoders."""

    def __init__(self) -> None:
        self.priors = self.decoders = 0


@contextmanager
def counted() -> Iterator[Passes]:
    """Count every pass of any model in this process inside the context."""
    passes, kept = Passes(), [(kind, name, getattr(kind, name)) for kind, name in (*PRIORS, *DECODERS)]
    for kind, name, method in kept:
        setattr(kind, name, _counting(method, passes, "priors" if (kind, name) in PRIORS else "decoders"))
    try:
        yield passes
    finally:
        for kind, name, method in kept:
            setattr(kind, name, method)


def _counting(method: Any, passes: Passes, name: str) -> Any:
    def call(*given: Any, **named: Any) -> Any:
        setattr(passes, name, getattr(passes, name) + 1)
        return method(*given, **named)

    return call
