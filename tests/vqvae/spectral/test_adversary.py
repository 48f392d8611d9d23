"""The adversarial second phase of the spectral decoder: which weights move, what is shared, and what its losses are."""

from __future__ import annotations

import pytest
import torch

from vqvae.spectral.adversary import AdversarialDecoder
from vqvae.spectral.config import SpectralConfig
from vqvae.spectral.losses import multi_scale_distance
from vqvae.spectral.model import SpectralCodec

CONFIG = SpectralConfig(
    n_fft=256, hop_fft=64, stride=4, width=16, latent=8, encoder_blocks=1, decoder_dilations=(1,), books=2, bins=16
)


@pytest.fixture
def model() -> AdversarialDecoder:
    torch.manual_seed(0)
    return AdversarialDecoder(SpectralCodec(CONFIG))


def audio() -> torch.Tensor:
    return 0.1 * torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(1))


def test_the_gradient_of_the_decoder_reaches_neither_encoder_nor_codebooks(model):
    model.decoder_loss(model(audio()))["loss"].backward()
    assert all(p.grad is None for p in model.codec.encoder.parameters())
    moved = {name for name, p in model.codec.decoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"magnitude.weight", "slope.weight", "inlet.weight"} <= moved


def test_the_codebooks_stay_in_training_mode(model):
    before = {name: value.clone() for name, value in model.codec.quantiser.state_dict().items()}
    model.train()(audio())
    assert all(torch.equal(value, before[name]) for name, value in model.codec.quantiser.state_dict().items())


def test_the_discriminator_learns_from_the_same_forward_pass_and_leaves_the_decoder(model):
    decoded = model(audio())
    model.discriminator_loss(decoded)["loss"].backward()
    assert all(p.grad is None for p in model.codec.parameters())
    assert all(p.grad is not None for p in model.discriminator.parameters())


def test_without_the_adversary_the_decoder_has_the_other_losses(model):
    alone = AdversarialDecoder(model.codec, adversary=False)
    assert set(alone.decoder_loss(alone(audio()))) == {"loss", "reconstruction_loss", "scales_loss", "phase_loss"}


def test_true_magnitudes_with_true_phases_are_the_audio_and_have_no_distance(model):
    sound = audio()
    spectra = model.codec.spectra(sound)
    made = model.codec.audio_of(spectra.abs() * (spectra / spectra.abs().clamp(min=1e-9)))
    assert multi_scale_distance(sound, made).item() < 1e-3 < multi_scale_distance(sound, 0.5 * sound).item()


def test_rows_are_quantised_by_their_own_number_of_books(model):
    quantiser, latents = model.codec.quantiser, torch.randn(3, 5, 8)
    made = quantiser.some_books(latents, torch.tensor([0, 1, 2]))
    codes = quantiser.encode(latents)
    assert torch.equal(made[0], latents[0])
    assert torch.equal(made[1], quantiser.decode(codes[1:2, :, :1])[0])
    assert torch.allclose(made[2], quantiser.decode(codes[2:])[0])
