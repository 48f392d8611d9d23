"""The second autoencoder: its stream in pieces and as a whole, its sizes, and that a codec without it stays what it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vqvae.spectral.adversary import AdversarialStack
from vqvae.spectral.config import LATENTS, STACKED, TOKENS, SpectralConfig
from vqvae.spectral.model import SpectralCodec

PLAIN = SpectralConfig(n_fft=256, hop_fft=64, stride=4, floor=0.2, width=16, latent=8, books=3, bins=16, phase_frames=16)
CONFIG = replace(PLAIN, stacked=2, stacked_width=16, stacked_latent=6)


def codec(config: SpectralConfig = CONFIG) -> SpectralCodec:
    torch.manual_seed(0)
    made = SpectralCodec(config)
    rng = torch.Generator().manual_seed(1)
    for _, p in sorted(made.named_parameters()):
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.1, generator=rng)
    made.initialise(audio(), torch.Generator())
    return made.eval()


def audio(frames: int = 151) -> torch.Tensor:
    t = torch.arange(frames * 256 + 100) / 22050
    return 0.3 * torch.sin(2 * torch.pi * 440 * t)[None, None]


def test_a_frame_of_the_stream_stands_for_two_latents_and_decodes_to_their_samples():
    made = codec()
    found = made.encode(audio(), (STACKED, LATENTS))
    assert found[LATENTS].shape == (1, 151, 8) and found[STACKED].shape == (1, 75, 6) and found[STACKED].abs().max() < 1
    assert made.decode(found, STACKED).shape == (1, 1, 75 * 512)


@pytest.mark.parametrize("size", [100, 5000, 30000])
def test_a_song_in_pieces_has_the_frames_of_the_whole(size):
    made, song = codec(), audio()
    parts = made.encoder_stream([song[0, :, i : i + size] for i in range(0, song.shape[-1], size)], (STACKED,))
    pieces = torch.cat([part[STACKED] for part in parts])
    assert torch.equal(pieces, made.encode(song, (STACKED,))[STACKED][0])
    with torch.no_grad():
        latents = made.encode(song, (LATENTS,))[LATENTS][:, :150]
        assert torch.allclose(made.second.encoder(latents)[0], pieces, atol=1e-5), "blocks of the grid meet"


@pytest.mark.parametrize("size", [1, 7, 75])
def test_frames_in_pieces_decode_to_the_samples_of_the_whole(size):
    made = codec()
    frames = made.encode(audio(), (STACKED,))[STACKED][0]
    decoder, pieces = made.decoder_stream(STACKED), []
    for at in range(0, len(frames), size):
        pieces += decoder.push(frames[at : at + size], last=at + size >= len(frames))
    joined = torch.cat(pieces, dim=1)
    assert torch.equal(joined, made.decode({STACKED: frames[None]}, STACKED)[0])
    with torch.no_grad():
        latents = made.second.decoder(frames[None])
    assert torch.allclose(joined, made.decode({LATENTS: latents}, LATENTS)[0], atol=1e-3)


def test_stereo_has_one_sequence_of_latents_and_two_sides():
    made = SpectralCodec(replace(CONFIG, channels=2)).eval()
    sides = torch.cat([audio(), 0.5 * audio().flip(-1)], dim=1)
    made.initialise(sides, torch.Generator())
    found = made.encode(sides, (STACKED,))
    left, right = made.decode(found, STACKED)[0]
    assert found[STACKED].shape == (1, 75, 6) and len(left) == 75 * 512 and not torch.equal(left, right)


def test_sizes_of_the_configuration_are_those_of_the_model():
    for config in (
        CONFIG,
        replace(CONFIG, stacked=4, stacked_width=24, stacked_blocks=1),
        replace(SpectralConfig(), stacked=2),
    ):
        made = SpectralCodec(config).state_dict()
        for stream in (TOKENS, STACKED):
            named = [made[name].numel() for name in config.tensors(stream, made)]
            assert sum(named) == config.parameter_count(stream), stream


def test_a_value_depends_on_nothing_beyond_the_receptive_field():
    made, song = codec(), audio()
    changed = song.clone()
    changed[..., :10000] += 0.1
    a, b = (made.encode(x, (STACKED,))[STACKED][0] for x in (song, changed))
    first = -(-(10000 + CONFIG.receptive_field(STACKED)) // 512)
    assert torch.equal(a[first:], b[first:]) and not torch.equal(a[: first - 4], b[: first - 4])


def test_a_codec_without_the_stream_has_the_weights_the_hashes_and_the_settings_that_it_had():
    with_it, without = codec(), codec(PLAIN)
    assert "stacked" not in str(PLAIN.to_json()) and SpectralConfig.from_json(CONFIG.to_json()) == CONFIG
    assert PLAIN.spec.names == CONFIG.spec.names[:2]
    torch.manual_seed(0)
    a = SpectralCodec(PLAIN)
    torch.manual_seed(0)
    b = SpectralCodec(CONFIG)
    names = CONFIG.tensors(TOKENS, b.state_dict())
    assert set(names) == set(a.state_dict()) and all(torch.equal(b.state_dict()[n], a.state_dict()[n]) for n in names)
    with_it.load_state_dict(without.state_dict(), strict=False)
    for stream in (TOKENS, LATENTS):
        assert with_it.codes_hash(stream) == without.codes_hash(stream)
        assert torch.equal(with_it.encode(audio(), [stream])[stream], without.encode(audio(), [stream])[stream])
    before = with_it.codes_hash(STACKED)
    with_it.second.decoder.outlet.bias.data += 1
    assert with_it.codes_hash(STACKED) == before, "decoders do not decide the values of a stream"
    with_it.second.encoder.outlet.bias.data += 1
    assert with_it.codes_hash(STACKED) != before


def test_a_stream_that_was_not_built_and_a_ratio_of_one_raise():
    made = SpectralCodec(CONFIG, [TOKENS])
    with pytest.raises(ValueError, match="built without spectral.2"):
        made.decode({STACKED: torch.zeros(1, 4, 6)}, STACKED)
    with pytest.raises(ValueError, match="stacked 1; expected 0, or 2"):
        replace(PLAIN, stacked=1)
    assert SpectralCodec(PLAIN).stacked is None


def test_the_second_autoencoder_learns_through_both_decoders():
    made = AdversarialStack(codec()).train()
    song = 0.1 * torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 4096)).astype(np.float32))
    losses = made.decoder_loss(made(song))
    assert {"latent_loss", "phase_loss", "adversary_loss"} <= set(losses)
    losses["loss"].backward()
    moved = {n for n, p in made.codec.second.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"encoder.inlet.weight", "decoder.outlet.weight"} <= moved
    assert all(p.grad is None for p in made.codec.encoder.parameters())
