"""Streamed encoding and decoding equal the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqvae.codec import Codec
from vqvae.jukebox import stream as streaming
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE

SMALL = VQVAEConfig(
    downs_t=(2, 1), strides_t=(2, 4), emb_width=6, bins=32, width=6, depth=2, multipliers=(2, 1), sample_rate=8000
)
STREAMS = SMALL.spec.names


def codec_of(config: VQVAEConfig = SMALL) -> VQVAE:
    torch.manual_seed(3)
    codec = VQVAE(config).eval()
    for parameter in codec.parameters():  # louder than at initialisation: what is lost at a cut must show
        parameter.data *= 1.7
    for name in config.spec.names:
        book = codec.autoencoder(name).codebook
        latents = codec.autoencoder(name).encoder(torch.randn(1, config.channels, 64 * 128))
        book.k.copy_(latents[0].T[:: latents.shape[-1] // config.bins][: config.bins].detach())
    return codec


def blocks_of(whole: torch.Tensor, size: int) -> list[torch.Tensor]:
    return list(whole.split(size, dim=-1))


SHAPES = {
    "halvings": {},
    "wide strides": {"downs_t": (1, 1), "strides_t": (8, 4)},
    "wide last": {"strides_t": (4, 2), "reverse_decoder_dilation": False},
    "flat upsampling": {"downs_t": (1, 1), "strides_t": (8, 4), "flat_upsampling": True},
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
    whole = codec.encode(audio[None], STREAMS)
    streamed = list(codec.encoder_stream(blocks_of(audio, block), STREAMS[::-1], chunk=chunk))
    for stream in STREAMS:
        codes = torch.cat([piece[stream] for piece in streamed])
        assert codes.shape == whole[stream][0].shape
        assert ties_only(codec, audio, stream, codes, whole[stream][0])
        back = torch.cat(list(codec.decode_blocks(blocks_of(codes, block), stream, chunk=chunk)), dim=-1)
        decoder, rest = codec.decoder_stream(stream, chunk=chunk), blocks_of(codes, block)
        pushed = [sound for part in rest[:-1] for sound in decoder.push(part)]
        pushed += decoder.push(rest[-1], last=True)
        assert torch.equal(back, torch.cat(pushed, dim=-1))  # however the codes come, the sound is the same bit for bit
        made = codec.decode({stream: codes[None]}, stream)[0]
        assert back.shape == made.shape and torch.allclose(back, made, atol=1e-5)


def ties_only(codec: VQVAE, audio: torch.Tensor, stream: str, codes: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether codes differ only where the two distances agree within 1e-6 of their size."""
    differ = (codes != others).nonzero().flatten()
    if not len(differ):
        return True
    autoencoder = codec.autoencoder(stream)
    rows = autoencoder.encoder(audio[None])[0].T[differ].detach()
    one, two = ((rows - autoencoder.codebook.k[c[differ]]).square().sum(1) for c in (codes, others))
    return bool(((one - two).abs() <= 1e-6 * one).all())


@pytest.mark.parametrize("stream", STREAMS)
def test_a_layer_that_forgets_its_past_is_heard(stream, monkeypatch):
    """The control: what the layers keep is needed, so silence in its place breaks equality."""
    codec, audio = codec_of(), torch.randn(1, 1600)
    codes = codec.encode(audio[None], [stream])[stream]
    whole = codec.decode({stream: codes}, stream)[0]
    drop = streaming._Tape.drop

    def forget(tape: streaming._Tape, n: int) -> None:
        drop(tape, n)
        tape.held.zero_()

    monkeypatch.setattr(streaming._Tape, "drop", forget)
    back = torch.cat(list(codec.decode_blocks([codes[0]], stream, chunk=200)), dim=-1)
    assert back.shape == whole.shape and (back - whole).abs().max() > 1e-4
    again = torch.cat([piece[stream] for piece in codec.encoder_stream([audio], [stream], chunk=200)])
    assert len(again) == codes.shape[1] and not torch.equal(again, codes[0])


def test_long_clips_go_through_in_batches_and_come_back_with_exactly_their_samples():
    codec, audio = codec_of(replace(SMALL, channels=2)), torch.randn(3, 2, 1234) * 0.1
    codes = codec.encode_long(audio, ["vq.1", "vq.0"])
    whole = codec.encode(audio, STREAMS)
    assert list(codes) == ["vq.1", "vq.0"] and all(torch.equal(codes[stream], whole[stream]) for stream in STREAMS)
    coarse = codes["vq.1"]
    assert torch.allclose(codec.decode_long(coarse, "vq.1"), codec.decode(whole, "vq.1"), atol=1e-5)
    pieces = Codec.decode_blocks(codec, blocks_of(coarse[0], 7), "vq.1")  # as of a codec that has no faster way
    assert torch.equal(torch.cat(list(pieces), dim=-1), codec.decode_long(coarse, "vq.1")[0])
    assert codec.decode_long(coarse, "vq.1", samples=1234).shape == audio.shape
    assert codec.decode_long(coarse, "vq.1", samples=1000).shape == (3, 2, 1000)
    for count, length in ((3, 3), (3, 0), (0, 100)):
        nothing = codec.encode_long(torch.zeros(count, 2, length), ["vq.0"])["vq.0"]
        assert nothing.shape == (count, length // 4)
        assert codec.decode_long(nothing, "vq.0", samples=length).shape == (count, 2, length)


def test_a_stream_never_holds_more_than_a_piece_and_what_its_layers_need(monkeypatch):
    codec, tapes = codec_of(), set()
    room = streaming._Tape.room
    monkeypatch.setattr(streaming._Tape, "room", lambda tape, *a: tapes.add(tape) or room(tape, *a))
    blocks = (torch.randn(1, 500) for _ in range(60))
    codes = [piece["vq.1"] for piece in codec.encoder_stream(blocks, ["vq.1"], chunk=200)]
    assert sum(map(len, codes)) == 30000 // codec.config.hops[1] and len(codes) == 150
    assert (
        len(tapes) > 10 and max(tape.place.shape[1] for tape in tapes) <= 200 + 2 * 8 + 24
    )  # widest: dilation 3 on either side


def test_threads_that_share_the_layers_say_what_one_says(monkeypatch):
    codec, audio = codec_of(), torch.randn(1, 3000)
    calls, share = [], streaming._share
    monkeypatch.setattr(streaming, "_share", lambda layers, piece: calls.append(len(layers)) or share(layers, piece))
    threads, made = torch.get_num_threads(), {}
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            calls.clear()
            codes = torch.cat([piece["vq.0"] for piece in codec.encoder_stream([audio], ["vq.0"], chunk=256)])
            assert len(set(calls)) == count and torch.get_num_threads() == count
            made[count] = codes, codec.decode_long(codes[None], "vq.0")
        assert all(torch.equal(a, b) for count in (2, 3) for a, b in zip(made[count], made[1], strict=True))
        with pytest.raises(ValueError, match="not finite"):
            list(codec.encoder_stream([audio * torch.inf], ["vq.0"], chunk=256))
    finally:
        torch.set_num_threads(threads)


def test_layers_given_a_little_at_a_time_say_the_same(monkeypatch):
    codec, audio = codec_of(), torch.randn(1, 1600)
    codes = codec.encode_long(audio[None], STREAMS)
    made = codec.decode_long(codes["vq.0"], "vq.0")
    monkeypatch.setattr(streaming, "MOST", 100)
    again = codec.encode_long(audio[None], STREAMS)
    assert all(ties_only(codec, audio, stream, again[stream][0], codes[stream][0]) for stream in STREAMS)
    assert torch.allclose(codec.decode_long(codes["vq.0"], "vq.0"), made, atol=1e-5)


def test_wrong_codes_and_wrong_audio_are_refused_by_the_streams_too():
    codec = codec_of()
    with pytest.raises(ValueError, match="codes run from"):
        list(codec.decode_blocks([torch.tensor([0, 32])], "vq.0"))
    with pytest.raises(ValueError, match="codes run from"):
        list(codec.decoder_stream("vq.0").push(torch.tensor([0, 32])))
    with pytest.raises(ValueError, match="audio of"):
        list(codec.encoder_stream([torch.zeros(2, 100)], ["vq.0"]))


def test_codes_that_arrive_on_a_gpu_are_decoded_in_shorter_pieces_than_a_whole_file():
    """Their audio comes within seconds; a piece of a file is as long as a GPU needs to be busy."""
    codes, held = torch.zeros(0, device="meta"), streaming.ARRIVING_CUDA
    assert streaming._size(codes, 0, 8, streaming.CHUNK) * 8 == streaming.CHUNK_CUDA
    assert streaming._size(codes, 0, 8, streaming.CHUNK, held) * 8 == held < 4 * 22050
    assert streaming._size(torch.zeros(0), 0, 8, streaming.CHUNK, held) * 8 == streaming.CHUNK
