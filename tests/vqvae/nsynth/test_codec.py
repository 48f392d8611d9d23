"""The encoder of NSynth: the shape of its latents, its receptive field, pieces of any length, and one line where it is asked to decode."""

from __future__ import annotations

import pytest
import torch

from vqvae.nsynth import codec as module
from vqvae.nsynth.codec import NSynthCodec
from vqvae.nsynth.config import EMBEDDING, NSynthConfig
from vqvae.registry import CODEC_CONFIGS, CODECS

SMALL = NSynthConfig(width=4, cycle=3, repeats=2, hop=16, latent=5)


@pytest.fixture
def small() -> NSynthCodec:
    torch.manual_seed(0)
    return NSynthCodec(SMALL).eval()


def test_a_clip_has_16_numbers_for_each_512_samples():
    codec = NSynthCodec(NSynthConfig(width=2, cycle=2, repeats=1))
    assert codec.encode(torch.zeros(3, 1, 512 * 7 + 100), [EMBEDDING])[EMBEDDING].shape == (3, 7, 16)


def test_a_latent_depends_on_its_samples_and_on_the_receptive_field_on_both_sides(small):
    for p in small.parameters():
        p.data = p.data.abs() + 0.01  # so that no ReLU is closed
    audio = (0.2 * torch.rand(1, 1, 16 * 9)).requires_grad_()
    small.latents(audio)[0, 4].sum().backward()
    depends = audio.grad[0, 0].nonzero().flatten()
    reach = SMALL.receptive_field(EMBEDDING)
    assert (depends.min(), depends.max()) == (64 - reach, 79 + reach) and reach == 15


@pytest.mark.parametrize("cuts", [[375], [1, 7, 50, 300, 17], [16] * 23 + [7]])
def test_latents_of_a_song_in_pieces_are_those_of_the_whole(cuts, small, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 64)
    audio = 0.2 * torch.randn(1, 1, 375)
    pieces = small.encoder_stream(audio[0].split(cuts, 1), [EMBEDDING])
    joined = torch.cat([each[EMBEDDING] for each in pieces])
    assert torch.equal(joined, small.encode(audio, [EMBEDDING])[EMBEDDING][0])
    assert torch.allclose(joined, small.latents(audio)[0], atol=1e-5)


def test_its_codec_does_not_decode_and_says_what_does(small):
    with pytest.raises(ValueError, match="nsynth is decoded by a prior of samples that reads it"):
        small.decoder_stream(EMBEDDING)


def test_its_configuration_is_found_by_its_kind_counts_its_numbers_and_comes_back_from_json(small):
    config = CODEC_CONFIGS.load("nsynth").from_json(SMALL.to_json())
    assert config == SMALL and CODECS.load("nsynth") is NSynthCodec and not config.decodes
    assert config.parameter_count(EMBEDDING) == sum(p.numel() for p in small.parameters())
    with pytest.raises(ValueError, match="kernel 2; expected an odd number"):
        NSynthConfig(kernel=2)
