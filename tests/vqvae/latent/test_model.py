"""The latent codec: its range, a song in pieces and as a whole, sizes, the distance of the posterior, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch

from vqvae.codec import Codec
from vqvae.latent.adversary import AdversarialAutoencoder
from vqvae.latent.config import LATENT, LatentConfig
from vqvae.latent.discriminators import PeriodDiscriminator, WaveformDiscriminators
from vqvae.latent.model import BLOCK, LatentCodec, Posterior
from vqvae.registry import CODEC_CONFIGS, CODECS
from vqvae.spectral.losses import multi_scale_distance

CONFIG = LatentConfig(
    strides=(4, 4, 4), widths=(8, 12, 16), depth=2, out_width=6, latent=5, periods=(2, 3), windows=(256,), discriminator_width=4
)


def codec(config: LatentConfig = CONFIG) -> LatentCodec:
    torch.manual_seed(0)
    return LatentCodec(config).eval()


def audio(frames: int = 3 * BLOCK + 17) -> torch.Tensor:
    return 0.3 * torch.randn(1, frames * 64 + 30, generator=torch.Generator().manual_seed(1))


def test_the_registries_know_the_codec_and_its_configuration_comes_back_from_json():
    assert CODEC_CONFIGS.load("latent") is LatentConfig and CODECS.load("latent") is LatentCodec
    assert LatentConfig.from_json(CONFIG.to_json()) == CONFIG
    with pytest.raises(ValueError, match="no setting width"):
        LatentConfig.from_json({"width": 3})
    with pytest.raises(ValueError, match="even strides"):
        LatentConfig(strides=(3, 4), widths=(8, 8))


def test_a_frame_is_a_vector_in_the_range_of_1_and_stands_for_hop_samples():
    made = codec()
    found = made.encode(1000 * audio()[None], [LATENT])[LATENT]
    assert found.shape == (1, 3 * BLOCK + 17, 5) and found.abs().max() <= 1
    assert made.decode({LATENT: found}, LATENT).shape == (1, 1, found.shape[1] * 64)


@pytest.mark.parametrize("size", [64, 5000, 10**6])
def test_a_song_in_pieces_has_the_frames_of_the_whole_and_those_of_one_pass(size):
    made, song = codec(), audio()
    whole = made.encode(song[None], [LATENT])[LATENT][0]
    pieces = [part[LATENT] for part in made.encoder_stream(song.split(size, dim=1), [LATENT])]
    assert torch.equal(torch.cat(pieces), whole)
    with torch.no_grad():
        once = made.encoder(song[None, :, : len(whole) * 64]).mean[0]
    assert torch.allclose(once, whole, atol=1e-5), "blocks of the grid contain the receptive field"


@pytest.mark.parametrize("size", [1, 100, 10**4])
def test_frames_in_pieces_decode_to_the_samples_of_the_whole_and_of_one_pass(size):
    made = codec()
    frames = made.encode(audio()[None], [LATENT])[LATENT][0]
    pieces = torch.cat(list(made.decode_blocks(frames.split(size), LATENT)), dim=1)
    assert torch.equal(pieces, made.decode({LATENT: frames[None]}, LATENT)[0])
    with torch.no_grad():
        assert torch.allclose(made.decoder(frames[None])[0], pieces, atol=1e-5)


def test_the_grid_is_as_far_as_the_receptive_field_and_hardly_further():
    made, frames = codec(), CONFIG.reach
    latents = torch.zeros(1, 8 * frames, 5, requires_grad=True)
    made.decoder(latents)[0, 0, 4 * frames * 64 + 7].backward()
    assert latents.grad is not None
    heard = torch.nonzero(latents.grad[0].abs().sum(-1))[:, 0] - 4 * frames
    assert -frames <= int(heard.min()) < -frames // 3 and frames // 3 < int(heard.max()) <= frames


def test_sizes_of_the_configuration_are_those_of_the_model():
    for config in (CONFIG, LatentConfig(), LatentConfig(channels=2, strides=(6, 4, 4), widths=(8, 12, 20))):
        state = LatentCodec(config).state_dict()
        assert config.parameter_count(LATENT) == sum(tensor.numel() for tensor in state.values())
        assert 0 < len(config.codes_tensors(LATENT, state)) < len(state)


def test_the_decoder_alone_does_not_change_what_latents_mean():
    made = codec()
    before = made.codes_hash(LATENT)
    with torch.no_grad():
        made.decoder.inlet.weight.add_(1)
    assert made.codes_hash(LATENT) == before
    with torch.no_grad():
        made.encoder.out.weight.add_(1)
    assert made.codes_hash(LATENT) != before


def test_the_distance_of_the_posterior_is_that_of_torch_and_0_for_the_prior_itself():
    mean, log_variance = torch.randn(2, 7, 3).tanh(), torch.randn(2, 7, 3) - 3
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1 / 3)).mean()
    assert torch.allclose(Posterior(mean, log_variance).kl(), expected, rtol=1e-5)
    assert Posterior(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2 * math.log(1 / 3))).kl().abs() < 1e-6


def test_a_fold_by_a_period_keeps_samples_that_are_a_period_apart_together():
    torch.manual_seed(0)
    discriminator = PeriodDiscriminator(5, 4)
    x = torch.randn(1, 1, 400, requires_grad=True)
    scores, hidden = discriminator(x)
    scores[0, 0, 1, 3].backward()
    assert x.grad is not None
    assert set((torch.nonzero(x.grad[0, 0])[:, 0] % 5).tolist()) == {3} and len(hidden) == 3


def test_there_is_a_discriminator_for_each_period_and_each_window():
    scores, hidden = WaveformDiscriminators(CONFIG)(torch.randn(2, 1, 2048))
    assert len(scores) == len(hidden) == 3 and all(each.shape[0] == 2 for each in scores)


def test_the_codec_learns_to_reconstruct_and_the_latents_of_another_clip_do_not(tones):
    """Control: the latents of the next clip."""
    torch.manual_seed(0)
    clips = tones[:4].repeat(1, 1, 9)[..., :2112]  # longer than the longest window
    model = AdversarialAutoencoder(LatentCodec(CONFIG), adversary=False)
    optimiser = torch.optim.Adam(model.codec.parameters(), 6e-3)
    for _ in range(100):
        optimiser.zero_grad()
        loss = model.autoencoder_loss(model(clips))
        loss["loss"].backward()
        optimiser.step()
    made: Codec = model.codec.eval()
    latents = made.encode(clips, [LATENT])[LATENT]
    own, other = (made.decode({LATENT: x}, LATENT) for x in (latents, latents.roll(1, 0)))
    silence = multi_scale_distance(clips, torch.zeros_like(clips))
    assert multi_scale_distance(clips, own) < 0.7 * silence and torch.isfinite(loss["kl_loss"])
    assert multi_scale_distance(clips, own) < 0.8 * multi_scale_distance(clips, other)


def test_discriminators_and_autoencoder_have_gradients_of_their_own():
    torch.manual_seed(0)
    model = AdversarialAutoencoder(LatentCodec(CONFIG))
    decoded = model(0.1 * torch.randn(2, 1, 2112))
    loss = model.autoencoder_loss(decoded)
    loss["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.codec.parameters())
    assert {"scales_loss", "waveform_loss", "matching_loss", "adversary_loss", "kl_loss"} < set(loss)
    model.zero_grad()
    model.discriminator_loss(decoded)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.codec.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.discriminator.parameters())
