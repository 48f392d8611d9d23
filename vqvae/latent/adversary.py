"""AdversarialAutoencoder: the training of a latent codec against its discriminators.

The losses of the decoded audio are the multi-scale spectral distance, the L1 distance of the waveforms, feature matching and
the adversarial hinge loss. `Balancer` gives each loss its share of the gradient of the audio. The KL divergence of the
posterior is added to these losses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.adversarial import Balancer, discriminator_terms, feature_matching, hinge_generator
from vqvae.codec import effective_dimension
from vqvae.latent.discriminators import WaveformDiscriminators
from vqvae.latent.model import LatentCodec, Posterior
from vqvae.spectral.losses import multi_scale_distance

WEIGHTS = {"scales": 1.0, "waveform": 0.5, "matching": 0.5, "adversary": 0.25}  # shares of the gradient


class DecodedAudio(NamedTuple):
    """A batch of audio, the audio decoded from its latents, and the posterior: the input of all losses."""

    true: Float[Tensor, "b c t"]
    made: Float[Tensor, "b c t"]
    posterior: Posterior


class AdversarialAutoencoder(nn.Module):
    """A latent codec with its discriminators. With `adversary` False the discriminators are not used in the loss."""

    def __init__(self, codec: LatentCodec, adversary: bool = True) -> None:
        super().__init__()
        self.codec, self.discriminator = codec, WaveformDiscriminators(codec.config)
        self.balancer = Balancer(WEIGHTS if adversary else {name: WEIGHTS[name] for name in ("scales", "waveform")})

    def forward(self, audio: Float[Tensor, "b c t"], noise: Float[Tensor, "b n e"] | None = None) -> DecodedAudio:
        """Encode audio, sample latents from the posterior, and decode them.

        `noise` is the standard normal noise of the sample. By default torch's global generator samples the noise.
        """
        audio = self.codec.check_audio(audio)
        posterior = self.codec.encoder(audio)
        noise = torch.randn_like(posterior.mean) if noise is None else noise.to(posterior.mean)
        latents = posterior.mean + (posterior.log_variance / 2).exp() * noise
        return DecodedAudio(audio, self.codec.decoder(latents), posterior)

    def autoencoder_loss(self, decoded: DecodedAudio) -> dict[str, Tensor]:
        """Return the total loss of the codec as "loss", and detached terms and metrics by name."""
        true, made, posterior = decoded
        with torch.autocast(true.device.type, enabled=False):
            terms = {"scales": multi_scale_distance(true, made), "waveform": (true - made).abs().mean()}
            if "adversary" in self.balancer.weights:
                with torch.no_grad():
                    _, hidden = self.discriminator(true)
                scores, found = self.discriminator(made)
                terms |= {"matching": feature_matching(hidden, found), "adversary": hinge_generator(scores)}
            kl = posterior.kl()
            loss = self.balancer(terms, made) + self.codec.config.kl * kl
        logs = {f"{name}_loss": value.detach() for name, value in (terms | {"kl": kl}).items()}
        return {"loss": loss, **logs, "effective_dimension": effective_dimension(posterior.mean.detach())}

    def discriminator_loss(self, decoded: DecodedAudio) -> dict[str, Tensor]:
        return discriminator_terms(self.discriminator, decoded.true, decoded.made)
