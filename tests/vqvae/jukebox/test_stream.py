"""Streamed encoding and decoding equal the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqvae.jukebox import stream
from vqvae.jukebox.stream import Decoding, decode_long, decode_stream, encode_long, encode_stream
from vqvae.jukebox.vqvae import VQVAE, VQVAEConfig

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


SHAPES = {
    "halvings": {},
    "wide strides": {"downs_t": (1, 1), "strides_t": (8, 4)},
    "wide last": {"strides_t": (4, 2), "reverse_decoder_dilation": False},
    "a cycle of dilations": {"dilation_cycle": 1, "depth": 3, "channels": 2},
}


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(0, 600),
    block=st.integers(1, 300),
    chunk=st.integers(1, 300),
    shape=st.sampled_from(sorted(SHAPES)),
    seed=st.integers(0, 9),
)
def test_a_stream_equals_the_whole(length, block, chunk, shape, seed):
    codec = codec_of(replace(SMALL, **SHAPES[shape]))
    channels = codec.config.channels
    audio = torch.randn(channels, length, generator=torch.Generator().manual_seed(seed)) * 0.3
    whole = codec.encode(audio[None], [0, 1])
    streamed = list(encode_stream(codec, blocks_of(audio, block), [1, 0], chunk=chunk))
    for level in (0, 1):
        codes = torch.cat([piece[level] for piece in streamed])
        assert codes.shape == whole[level][0].shape
        assert ties_only(codec, audio, level, codes, whole[level][0])
        back = torch.cat(list(decode_stream(codec, blocks_of(codes, block), level, chunk=chunk)), dim=-1)
        decoding, rest = Decoding(codec, level, chunk=chunk), blocks_of(codes, block)
        pushed = [sound for part in rest[:-1] for sound in decoding.push(part)] + list(
            decoding.push(rest[-1], last=True)
        )
        assert torch.equal(back, torch.cat(pushed, dim=-1))  # however the codes come, the sound is the same bit for bit
        made = codec.decode({level: codes[None]}, level)[0]
        assert back.shape == made.shape and torch.allclose(back, made, atol=1e-5)


def ties_only(codec: VQVAE, audio: torch.Tensor, level: int, codes: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether codes differ only where the two distances agree within 1e-6 of their size."""
    differ = (codes != others).nonzero().flatten()
    if not len(differ):
        return True
    rows = codec.level(level).encoder(audio[None])[0].T[differ].detach()
    one, two = ((rows - codec.level(level).codebook.k[c[differ]]).square().sum(1) for c in (codes, others))
    return bool(((one - two).abs() <= 1e-6 * one).all())


@pytest.mark.parametrize("level", [0, 1])
def test_a_layer_that_forgets_its_past_is_heard(level, monkeypatch):
    """The control: what the layers keep is needed, so silence in its place breaks equality."""
    codec, audio = codec_of(), torch.randn(1, 1600)
    codes = codec.encode(audio[None], [level])[level]
    whole = codec.decode({level: codes}, level)[0]
    drop = stream._Tape.drop

    def forget(tape: stream._Tape, n: int) -> None:
        drop(tape, n)
        tape.held.zero_()

    monkeypatch.setattr(stream._Tape, "drop", forget)
    back = torch.cat(list(decode_stream(codec, [codes[0]], level, chunk=200)), dim=-1)
    assert back.shape == whole.shape and (back - whole).abs().max() > 1e-4
    again = torch.cat([piece[level] for piece in encode_stream(codec, [audio], [level], chunk=200)])
    assert len(again) == codes.shape[1] and not torch.equal(again, codes[0])


def test_long_clips_go_through_in_batches_and_come_back_with_exactly_their_samples():
    codec, audio = codec_of(replace(SMALL, channels=2)), torch.randn(3, 2, 1234) * 0.1
    codes = encode_long(codec, audio, [1, 0])
    whole = codec.encode(audio, [0, 1])
    assert list(codes) == [1, 0] and all(torch.equal(codes[level], whole[level]) for level in (0, 1))
    assert torch.allclose(decode_long(codec, codes[1], 1), codec.decode(whole, 1), atol=1e-5)
    assert decode_long(codec, codes[1], 1, samples=1234).shape == audio.shape
    assert decode_long(codec, codes[1], 1, samples=1000).shape == (3, 2, 1000)
    for count, length in ((3, 3), (3, 0), (0, 100)):
        nothing = encode_long(codec, torch.zeros(count, 2, length), [0])
        assert nothing[0].shape == (count, length // 4)
        assert decode_long(codec, nothing[0], 0, samples=length).shape == (count, 2, length)


def test_a_stream_never_holds_more_than_a_piece_and_what_its_layers_need(monkeypatch):
    codec, tapes = codec_of(), set()
    room = stream._Tape.room
    monkeypatch.setattr(stream._Tape, "room", lambda tape, *a: tapes.add(tape) or room(tape, *a))
    codes = [piece[1] for piece in encode_stream(codec, (torch.randn(1, 500) for _ in range(60)), [1], chunk=200)]
    assert sum(map(len, codes)) == 30000 // codec.config.hops[1] and len(codes) == 150
    assert (
        len(tapes) > 10 and max(tape.place.shape[1] for tape in tapes) <= 200 + 2 * 8 + 24
    )  # widest: dilation 3 on either side


def test_threads_that_share_the_layers_say_what_one_says(monkeypatch):
    codec, audio = codec_of(), torch.randn(1, 3000)
    calls, share = [], stream._share
    monkeypatch.setattr(stream, "_share", lambda layers, piece: calls.append(len(layers)) or share(layers, piece))
    threads, made = torch.get_num_threads(), {}
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            calls.clear()
            codes = torch.cat([piece[0] for piece in encode_stream(codec, [audio], [0], chunk=256)])
            assert len(set(calls)) == count and torch.get_num_threads() == count
            made[count] = codes, decode_long(codec, codes[None], 0)
        assert all(torch.equal(a, b) for count in (2, 3) for a, b in zip(made[count], made[1], strict=True))
        with pytest.raises(ValueError, match="not finite"):
            list(encode_stream(codec, [audio * torch.inf], [0], chunk=256))
    finally:
        torch.set_num_threads(threads)


def test_layers_given_a_little_at_a_time_say_the_same(monkeypatch):
    codec, audio = codec_of(), torch.randn(1, 1600)
    codes = encode_long(codec, audio[None], [0, 1])
    made = decode_long(codec, codes[0], 0)
    monkeypatch.setattr(stream, "MOST", 100)
    again = encode_long(codec, audio[None], [0, 1])
    assert all(ties_only(codec, audio, level, again[level][0], codes[level][0]) for level in (0, 1))
    assert torch.allclose(decode_long(codec, codes[0], 0), made, atol=1e-5)


def test_wrong_codes_and_wrong_audio_are_refused_by_the_streams_too():
    codec = codec_of()
    with pytest.raises(ValueError, match="codes run from"):
        list(decode_stream(codec, [torch.tensor([0, 32])], 0))
    with pytest.raises(ValueError, match="audio of"):
        list(encode_stream(codec, [torch.zeros(2, 100)], [0]))
