"""The spectral codec: shapes, sizes, any length in pieces, fewer books, phases, and what it learns beside controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vqvae.spectral.config import LATENTS, TOKENS, SpectralConfig
from vqvae.spectral.model import SpectralCodec

SMALL = SpectralConfig(
    n_fft=256, hop_fft=64, stride=4, floor=0.2, width=16, latent=8, books=3, bins=16, phase_frames=16, peak_rounds=4
)


def codec(seed: int = 0, **changes) -> SpectralCodec:
    torch.manual_seed(seed)
    made = SpectralCodec(replace(SMALL, **changes))
    for p in made.parameters():  # blocks begin as the identity; here all of them do something
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.1)
    made.initialise(audio(made.config.channels), torch.Generator())
    return made.eval()


def audio(channels: int = 1, frames: int = 150, rows: int = 1) -> torch.Tensor:
    t = torch.arange(frames * 256 + 100) / 22050
    waves = [torch.sin(2 * torch.pi * 440 * (1 + c) * (1 + r) * t) for r in range(rows) for c in range(channels)]
    return 0.3 * torch.stack(waves).view(rows, channels, -1) + 0.01 * torch.randn(rows, channels, len(t))


@pytest.mark.parametrize("channels", [1, 2])
def test_streams_have_a_frame_per_hop_and_audio_has_a_hop_per_frame(channels):
    made = codec(channels=channels)
    found = made.encode(audio(channels, rows=2), (TOKENS, LATENTS))
    assert found[TOKENS].shape == (2, 150, 3) and found[LATENTS].shape == (2, 150, 8)
    assert found[LATENTS].abs().max() < 1 and found[TOKENS].max() < 16
    for stream in (TOKENS, LATENTS):
        assert made.decode(found, stream).shape == (2, channels, 150 * 256)


def test_spectra_and_audio_undo_each_other_in_stereo():
    made, song = codec(channels=2), audio(2, rows=2)[..., : 150 * 256]
    assert torch.allclose(made.audio_of(made.spectra(song)), song, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64, 150])
@pytest.mark.parametrize("phases", ["learned", "griffin_lim"])
def test_a_song_in_pieces_decodes_to_the_samples_of_the_whole(phases, size):
    made = codec(phases=phases)
    tokens = made.encode(audio(), (TOKENS,))[TOKENS][0]
    decoder, pieces = made.decoder_stream(TOKENS), []
    for at in range(0, len(tokens), size):
        pieces += decoder.push(tokens[at : at + size], last=at + size >= len(tokens))
    assert torch.equal(torch.cat(pieces, dim=1), made.decode({TOKENS: tokens[None]}, TOKENS)[0])


@pytest.mark.parametrize("size", [100, 5000, 30000])
def test_a_song_in_pieces_encodes_to_the_frames_of_the_whole(size):
    made, song = codec(), audio()
    whole = made.encode(song, (TOKENS, LATENTS))
    parts = list(made.encoder_stream([song[0, :, i : i + size] for i in range(0, song.shape[-1], size)], (TOKENS, LATENTS)))
    assert torch.equal(torch.cat([part[TOKENS] for part in parts]), whole[TOKENS][0])
    assert torch.equal(torch.cat([part[LATENTS] for part in parts]), whole[LATENTS][0])


def test_blocks_of_the_grid_meet_where_one_block_would_be():
    """The receptive field beside a block is wide enough: frames across the boundary equal those of one block."""
    made, song = codec(), audio(frames=100)
    with torch.no_grad():
        whole = made.encoder(made.features(made.spectra(song[..., : 100 * 256]).abs()))
    assert torch.allclose(made.encode(song, (LATENTS,))[LATENTS], whole, atol=1e-5)


def test_sizes_of_the_configuration_are_those_of_the_model():
    for config in (SMALL, replace(SMALL, channels=2), SpectralConfig()):
        assert sum(x.numel() for x in SpectralCodec(config).state_dict().values()) == config.parameter_count(TOKENS)


def test_a_value_depends_on_nothing_beyond_the_receptive_field():
    made, song = codec(), audio()
    changed = song.clone()
    changed[..., 100 * 256 :] *= -0.5
    a, b = (made.encode(x, (LATENTS,))[LATENTS][0] for x in (song, changed))
    reach = -(-SMALL.receptive_field(LATENTS) // SMALL.hop)
    assert torch.equal(a[: 100 - reach], b[: 100 - reach]) and not torch.equal(a[99], b[99])


def test_fewer_books_decode_and_codes_out_of_range_raise():
    made = codec()
    tokens = made.encode(audio(), (TOKENS,))[TOKENS]
    assert made.decode({TOKENS: tokens[..., :1]}, TOKENS).shape == (1, 1, 150 * 256)
    with pytest.raises(ValueError, match="expected 0 to 15"):
        made.decode({TOKENS: tokens + 16}, TOKENS)
    with pytest.raises(ValueError, match="expected integers"):
        made.decode({TOKENS: tokens[..., 0]}, TOKENS)


def test_the_decoder_does_not_decide_the_values_of_a_stream_and_the_quantiser_only_those_of_tokens():
    made = codec()
    before = {stream: made.codes_hash(stream) for stream in (TOKENS, LATENTS)}
    made.decoder.magnitude.weight.data += 1
    assert {stream: made.codes_hash(stream) for stream in before} == before
    made.quantiser.codebook(1).k += 1
    assert made.codes_hash(LATENTS) == before[LATENTS] and made.codes_hash(TOKENS) != before[TOKENS]


def test_stereo_keeps_the_phases_of_its_channels_together():
    """Equal channels come back as equal ones, whatever the phases are."""
    made = codec(channels=2)
    made.decoder.magnitude.weight.data[129:] = made.decoder.magnitude.weight.data[:129]
    made.decoder.magnitude.bias.data[129:] = made.decoder.magnitude.bias.data[:129]
    made.features.mean[1], made.features.std[1] = made.features.mean[0], made.features.std[0]
    left, right = made.decode(made.encode(audio(2), (TOKENS,)), TOKENS)[0]
    assert torch.allclose(left, right, atol=1e-5)


def test_training_lowers_every_term_and_quantised_clips_use_many_codes():
    torch.manual_seed(0)
    model = SpectralCodec(replace(SMALL, width=32))
    clips = audio(frames=32, rows=4)[..., : 32 * 256]
    model.initialise(clips, torch.Generator())
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for step in range(120):
        losses = model.loss(clips, generator=torch.Generator().manual_seed(step), quantise=step >= 30)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        seen.append({name: value.item() for name, value in losses.items()})
    first, last = seen[1], {name: np.mean([line[name] for line in seen[-10:]]) for name in seen[-1]}
    for name in ("log_loss", "root_loss", "mel_loss", "phase_loss"):
        assert last[name] < 0.7 * first[name], name
    assert last["used_curr_book0"] >= 3
    model.eval()
    found = model.encode(clips, (TOKENS,))
    other = {TOKENS: found[TOKENS].roll(1, dims=0)}
    own, control = (model.spectra(model.decode(x, TOKENS)).abs() for x in (found, other))
    target = model.spectra(clips).abs()
    assert (own - target).norm() < 0.7 * (control - target).norm()


def test_a_batch_of_silence_has_a_finite_loss():
    terms = codec().train().loss(torch.zeros(2, 1, 4096), generator=torch.Generator())
    assert all(torch.isfinite(value) for value in terms.values())
