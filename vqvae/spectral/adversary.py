"""AdversarialDecoder: the second training phase of a spectral codec, as in Musika (arXiv:2208.08706, section 3.1).

The encoder, the features and the codebooks are frozen, so the codes do not change. The decoder is trained against
discriminators of spectrograms at several resolutions. With an L1 loss alone the decoder would return the median of all
magnitudes that fit a latent, which blurs partials and loses energy. The discriminators get audio with the decoded magnitudes
and the phases of the original, because the phase propagation is not differentiable. The other losses are feature matching, the
losses of the first training phase, and the multi-scale spectral distance. They keep the decoded audio close to the song.
`Balancer` gives each loss its share of the gradient of the magnitudes. The second autoencoder is trained in the same way: its
output passes the first decoder, and the first autoencoder is frozen (section 3.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.adversarial import Balancer, discriminator_terms, feature_matching, hinge_generator
from vqvae.spectral.discriminator import MultiResolutionDiscriminator
from vqvae.spectral.losses import SpectralLoss, multi_scale_distance
from vqvae.spectral.model import Drawn, SpectralCodec

WEIGHTS = {"reconstruction": 1.0, "scales": 1.0, "matching": 1.0, "adversary": 0.5}  # shares of the gradient


class DecodedBatch(NamedTuple):
    """A batch of audio and the audio decoded from its codes, for the losses of decoder and discriminators."""

    true: Float[Tensor, "b c t"]
    made: Float[Tensor, "b c t"]
    output: Float[Tensor, "b n cf"]  # features that the decoder returns, from which the magnitudes are computed
    reconstruction: Float[Tensor, ""]
    others: dict[str, Float[Tensor, ""]]  # losses that do not depend on `output`


class AdversarialDecoder(nn.Module):
    """A trained spectral codec with its discriminators. With `adversary` False the discriminators are not used in the loss."""

    def __init__(self, codec: SpectralCodec, adversary: bool = True) -> None:
        super().__init__()
        self.codec, self.discriminator = codec, MultiResolutionDiscriminator()
        kept = WEIGHTS if adversary else {name: WEIGHTS[name] for name in ("reconstruction", "scales")}
        self.balancer = Balancer(kept)

    def forward(self, audio: Float[Tensor, "b c t"], drawn: Drawn | None = None) -> DecodedBatch:
        """Decode audio from its codes, with the phases of the original; `drawn` as in `SpectralCodec.loss`."""
        codec, config = self.codec, self.codec.config
        drawn = drawn or codec.draw(len(audio), audio.shape[-1])
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            spectra = codec.spectra(codec.check_audio(audio))
            true = spectra.abs()
        latents, others = self.latents(true, drawn)
        hidden = codec.decoder.hidden(latents)
        some = slice(drawn.first, drawn.first + config.phase_frames)
        output, slopes = codec.decoder.features(hidden), codec.decoder.slopes(hidden[:, some])
        with torch.autocast(audio.device.type, enabled=False):
            measure = SpectralLoss(config, audio.device)
            terms = measure.magnitudes((true + config.floor).log(), codec.features.logs(output), true)
            others["phase"] = config.phase * measure.phase(spectra[:, some].sum(2), slopes)
            phasors = spectra / true.clamp(min=1e-9)
            made = codec.audio_of(codec.features.magnitudes(output) * phasors)
            return DecodedBatch(audio, made, output, measure.total(terms), others)

    def latents(self, true: Float[Tensor, "b n c f"], drawn: Drawn) -> tuple[Float[Tensor, "b t e"], dict[str, Tensor]]:
        """Return the input of the decoder for audio with magnitudes `true`, and additional losses by name."""
        codec = self.codec
        with torch.no_grad():
            latents = codec.encoder(codec.features(true))
            return codec.quantiser.some_books(latents, drawn.books.to(latents.device)), {}

    def decoder_loss(self, decoded: DecodedBatch) -> dict[str, Tensor]:
        """Return the total loss of the decoder as "loss", and detached terms by name."""
        terms = {"reconstruction": decoded.reconstruction, "scales": multi_scale_distance(decoded.true, decoded.made)}
        if "adversary" in self.balancer.weights:
            with torch.no_grad():
                _, true = self.discriminator(decoded.true)
            scores, made = self.discriminator(decoded.made)
            terms |= {"matching": feature_matching(true, made), "adversary": hinge_generator(scores)}
        loss = self.balancer(terms, decoded.output) + torch.stack(list(decoded.others.values())).sum()
        logs = terms | decoded.others
        return {"loss": loss} | {f"{name}_loss": value.detach() for name, value in logs.items()}

    def discriminator_loss(self, decoded: DecodedBatch) -> dict[str, Tensor]:
        """Return the hinge loss and the accuracies of the discriminators (`discriminator_terms`)."""
        return discriminator_terms(self.discriminator, decoded.true, decoded.made)


class AdversarialStack(AdversarialDecoder):
    """A trained spectral codec with its discriminators, for the training of the second autoencoder."""

    def latents(self, true: Float[Tensor, "b n c f"], drawn: Drawn) -> tuple[Float[Tensor, "b t e"], dict[str, Tensor]]:
        with torch.no_grad():
            latents = self.codec.encoder(self.codec.features(true))
        made = self.codec.second.decoder(self.codec.second.encoder(latents))
        return made, {"latent": (made - latents).abs().mean()}
