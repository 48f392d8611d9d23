"""Streamed encoding and decoding equal the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqvae import stream
from vqvae.stream import decode_long, decode_stream, encode_long, encode_stream
from vqvae.vqvae import VQVAE, VQVAEConfig

SMALL = VQVAEConfig(
    downs_t=(2, 1), strides_t=(2, 4), emb_width=6, bins=32, width=6, depth=2, multipliers=(2, 1), sample_rate=8000
)


def codec_of(config: VQVAEConfig = SMALL) -> VQVAE:
    torch.manual_seed(3)
    codec = VQVAE(config).eval()
    for parameter in codec.parameters():  # louder than at initialisation: what is lost at a cut must show
        parameter.data *= 1.7
    for level in range(config.levels):
        book = codec.level(level).codebook
        latents = codec.level(level).encoder(torch.randn(1, config.channels, 64 * 128))
        book.k.copy_(latents[0].T[:: latents.shape[-1] // config.bins][: config.bins].detach())
    return codec


def blocks_of(whole: torch.Tensor, size: int) -> list[torch.Tensor]:
    return list(whole.split(size, dim=-1))


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(0, 2000),
    block=st.integers(1, 700),
    chunk=st.integers(1, 60),
    level=st.integers(0, 1),
    strides=st.sampled_from([(2, 4), (4, 2)]),
    seed=st.integers(0, 9),
)
def test_a_stream_equals_the_whole(length, block, chunk, level, strides, seed):
    codec = codec_of(replace(SMALL, strides_t=strides))
    audio = torch.randn(1, length, generator=torch.Generator().manual_seed(seed)) * 0.3
    whole = codec.encode(audio[None], [level])
    streamed = list(encode_stream(codec, blocks_of(audio, block), level, chunk=chunk))
    assert all(len(piece) == chunk for piece in streamed[:-1])
    codes = torch.cat([torch.zeros(0, dtype=torch.long), *streamed])
    assert codes.shape == whole[level][0].shape
    assert ties_only(codec, audio, level, codes, whole[level][0])
    back = [torch.zeros(1, 0), *decode_stream(codec, blocks_of(whole[level][0], block), level, chunk=chunk)]
    assert torch.allclose(torch.cat(back, dim=-1), codec.decode(whole, level)[0], atol=1e-5)


def ties_only(codec: VQVAE, audio: torch.Tensor, level: int, codes: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether codes differ only where the two distances agree within 1e-6 of their size."""
    differ = (codes != others).nonzero().flatten()
    if not len(differ):
        return True
    rows = codec.level(level).encoder(audio[None])[0].T[differ].detach()
    one, two = ((rows - codec.level(level).codebook.k[c[differ]]).square().sum(1) for c in (codes, others))
    return bool(((one - two).abs() <= 1e-6 * one).all())


@pytest.mark.parametrize("level", [0, 1])
def test_half_the_overlap_is_too_little(level, monkeypatch):
    """The control: the computed reach is needed, so too little of it breaks equality."""
    codec, audio = codec_of(), torch.randn(1, 1600)
    latents = codec.level(level).encoder(audio[None])[0]
    codes = codec.encode(audio[None], [level])[level]
    whole = codec.decode({level: codes}, level)[0]
    before, after = stream.decoder_reach(codec, level)
    monkeypatch.setattr(stream, "decoder_reach", lambda *_: (before // 2, after // 2))
    back = torch.cat(list(decode_stream(codec, [codes[0]], level, chunk=20)), dim=-1)
    assert not torch.equal(back, whole) and (back - whole).abs().max() > 1e-5
    hop = codec.config.hops[level]
    start, stop = 80 * hop, 81 * hop
    before, after = stream.encoder_reach(codec, level)
    exact = codec.level(level).encoder(audio[None, :, (start - before) // hop * hop : stop + after])
    skip = (start - (start - before) // hop * hop) // hop
    assert torch.allclose(exact[0, :, skip], latents[:, 80], atol=1e-5)
    short = codec.level(level).encoder(audio[None, :, start : stop + after])
    assert (short[0, :, 0] - latents[:, 80]).abs().max() > 1e-4


def test_long_clips_go_through_in_batches_and_come_back_with_exactly_their_samples():
    codec, audio = codec_of(replace(SMALL, channels=2)), torch.randn(3, 2, 1234) * 0.1
    codes = encode_long(codec, audio, [1, 0])
    whole = codec.encode(audio, [0, 1])
    assert list(codes) == [1, 0] and all(torch.equal(codes[level], whole[level]) for level in (0, 1))
    assert torch.allclose(decode_long(codec, codes[1], 1), codec.decode(whole, 1), atol=1e-5)
    assert decode_long(codec, codes[1], 1, samples=1234).shape == audio.shape
    assert decode_long(codec, codes[1], 1, samples=1000).shape == (3, 2, 1000)
    nothing = encode_long(codec, audio[..., :3], [0])
    assert nothing[0].shape == (3, 0) and decode_long(codec, nothing[0], 0, samples=3).shape == (3, 2, 3)


def test_no_piece_is_longer_than_chunk_and_overlap(monkeypatch):
    codec, seen = codec_of(), []
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda audio, levels: seen.append(audio.shape[-1]) or encode(audio, levels))
    codes = torch.cat(list(encode_stream(codec, (torch.randn(1, 500) for _ in range(60)), 1, chunk=50)))
    hop = codec.config.hops[1]
    assert len(codes) == 30000 // hop and len(seen) > 20
    assert max(seen) <= 2 * sum(stream.encoder_reach(codec, 1)) + 51 * hop


def test_the_published_bottom_level_needs_one_second_on_each_side():
    """Dilations up to 2187 at three rates: the whole of the three stacks, computed, not guessed."""
    with torch.device("meta"):
        codec = VQVAE(VQVAEConfig())
    halves = sum(3**i for i in range(8)) * (2 + 4 + 8)  # of the residual stacks, in samples
    before, after = stream.encoder_reach(codec, 0)
    assert halves < before == after < halves + 32
