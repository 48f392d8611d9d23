"""A nested VQ-VAE, the baseline for separate autoencoders: the encoder of level l encodes the latents of level l-1.

The model follows VQ-VAE-2 (arXiv:1906.00446). A chain of encoders runs from fine to coarse, with a codebook per level. A chain
of decoders runs from coarse to fine. Each decoder adds the code vectors of its level to the output of the coarser level. There
is one reconstruction loss for all levels together. The Jukebox paper (section 3) reports that the top level becomes nearly
silent: the bottom level can carry the information alone. Only `jukebox ablate codec` uses this model.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.codec import Sequences
from vqvae.jukebox.blocks import DecoderStage, EncoderStage
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.losses import Bandwidth, ReconstructionLoss
from vqvae.jukebox.quantize import Codebook


class NestedVQVAE(nn.Module):
    """The levels of `config` in one hierarchy. Level s is as wide as the last stage of the separate autoencoder of level s."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        c, stack = (config, {"growth": config.dilation_growth_rate, "cycle": config.dilation_cycle, "m_conv": config.m_conv})
        shapes = [(c.level_widths(s)[s], c.downs_t[s], c.strides_t[s], c.level_depth(s)) for s in range(config.levels)]
        self.encoders = nn.ModuleList(
            EncoderStage(c.emb_width if s else c.channels, c.emb_width, *shape, **stack) for s, shape in enumerate(shapes)
        )
        self.decoders = nn.ModuleList(
            DecoderStage(c.emb_width, c.emb_width, *shape, **stack, reverse=c.reverse_decoder_dilation) for shape in shapes
        )
        self.codebooks = nn.ModuleList(
            Codebook(c.bins, c.emb_width, mu=c.mu, threshold=c.threshold, reset_restarted=c.reset_restarted) for _ in shapes
        )
        self.out = nn.Conv1d(c.emb_width, c.channels, 3, padding=1)

    def latents(self, audio: Float[Tensor, "b c t"]) -> list[Float[Tensor, "b e s"]]:
        """Encode audio to the latents of each level, starting with level 0."""
        made = [audio]
        for encoder in self.encoders:
            made.append(encoder(made[-1]))
        return made[1:]

    def sound(self, quantised: list[Tensor]) -> Float[Tensor, "b c t"]:
        """Decode the quantised latents of all levels together, starting with the top level."""
        below = torch.zeros((), device=quantised[0].device)
        for latents, decoder in zip(reversed(quantised), reversed(self.decoders), strict=True):
            below = decoder(latents + below)
        return self.out(below)

    @torch.no_grad()
    def encode(self, audio: Float[Tensor, "b c t"]) -> Sequences:
        """Encode audio to the codes of all streams."""
        books = [book for book in self.codebooks if isinstance(book, Codebook)]
        return {name: book.encode(x) for name, book, x in zip(self.config.spec.names, books, self.latents(audio))}

    @torch.no_grad()
    def decode(self, codes: Sequences, streams: Collection[str]) -> Float[Tensor, "b c t"]:
        """Decode `streams` together. The latents of the other streams are set to zero."""
        quantised = []
        for name, book in zip(self.config.spec.names, self.codebooks):
            assert isinstance(book, Codebook)
            x = book.decode(codes[name])
            quantised.append(x if name in streams else torch.zeros_like(x))
        return self.sound(quantised)

    def loss(
        self,
        audio: Float[Tensor, "b c t"],
        *,
        generator: torch.Generator | None = None,
        quantise: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> dict[str, Tensor]:
        """Return one reconstruction loss plus a commitment loss per level, in the format of `VQVAE.loss`."""
        with torch.autocast(audio.device.type, enabled=False):
            reconstruction = ReconstructionLoss(self.config, audio, bandwidth or Bandwidth())
        latents, commits, logs = self.latents(audio), [], {}
        if quantise:
            found = [book(x, generator) for book, x in zip(self.codebooks, latents)]
            latents, commits = [each.latents for each in found], [each.commit for each in found]
            logs = {f"entropy_{level}": each.metrics["entropy"] for level, each in enumerate(found)}
        with torch.autocast(audio.device.type, enabled=False):
            terms, _ = reconstruction.measure(self.sound(latents).float())
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        loss = loss + self.config.commit * torch.stack(commits).sum() if commits else loss
        return {"loss": loss, **{name: value.detach() for name, (_, value) in terms.items()}, **logs}
