"""Encoder and decoder have the published shapes, and keep lengths."""

from __future__ import annotations

import pytest
import torch

from vqvae.jukebox.blocks import Encoder, ResidualStack, Upsampling
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE


def test_the_published_shape_has_the_published_number_of_parameters():
    with torch.device("meta"):
        codec = VQVAE(VQVAEConfig())
    counts = {name: sum(p.numel() for p in codec.level(i).encoder.parameters()) for i, name in enumerate("bmt")}
    assert list(counts.values()) == [441_856, 116_384, 168_224]
    assert sum(p.numel() for p in codec.parameters()) == 1_485_763
    assert [block.dilated.dilation[0] for block in codec.level(0).decoder.stages[0].steps[0].stack.blocks] == [
        3**i for i in reversed(range(8))
    ]
    with torch.device("meta"):
        small = vqvae_of(downs_t=(5, 3), strides_t=(2, 2), multipliers=(1, 1), bins=1024)
    assert sum(p.numel() for p in small.parameters()) == 586_050 and small.config.hops == (32, 256)


def vqvae_of(**settings) -> VQVAE:
    return VQVAE(VQVAEConfig(**settings))


@pytest.mark.parametrize("length", [16, 17, 31, 100, 255])
def test_lengths_floor_on_the_way_down_and_multiply_on_the_way_up(small, length):
    codec = VQVAE(small).eval()
    codes = codec.encode(torch.randn(2, 1, length), ["vq.0", "vq.1"])
    for stream in small.spec.streams:
        assert codes[stream.name].shape == (2, length // stream.hop)
        assert codec.decode(codes, stream.name).shape == (2, 1, length // stream.hop * stream.hop)


def test_residual_scale_and_zero_output_make_an_identity():
    x = torch.randn(1, 6, 20)
    assert torch.equal(ResidualStack(6, 4, zero_out=True)(x), x)
    plain, scaled = ResidualStack(6, 4), ResidualStack(6, 4, res_scale=True)
    scaled.load_state_dict(plain.state_dict())
    assert {block.scale for block in scaled.blocks} == {0.5}
    first = plain.blocks[0](x) - x
    assert torch.allclose(scaled.blocks[0](x) - x, first / 2, atol=1e-6)


def test_widths_and_depths_can_be_said_outright():
    encoder = Encoder(2, 8, (4, 6, 10), (1, 2, 1), (8, 2, 4), depth=1)
    assert encoder(torch.randn(1, 2, 256)).shape == (1, 8, 2)
    codec = vqvae_of(widths=((32,), (32, 96), (16, 64, 192)), depths=(3, 2, 1), downs_t=(1, 1, 1), strides_t=(8, 4, 4))
    stages = codec.level(2).encoder.stages
    assert [stage.out.in_channels for stage in stages] == [16, 64, 192]
    assert [len(codec.level(level).decoder.stages[0].steps[0].stack.blocks) for level in range(3)] == [3, 2, 1]


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_flat_upsampling_makes_no_pattern_of_the_mean_of_its_input(stride):
    """The mean over time of each of the `stride` samples is the same; a plain transposed convolution is the control."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 2000) + torch.tensor([1.0, -2.0, 3.0])[:, None]

    def pattern(flat: bool) -> torch.Tensor:
        up = Upsampling(3, 2, stride, flat)
        up.load_state_dict(plain.state_dict())
        made = up(x)
        assert made.shape == (1, 2, 2000 * stride)
        return made[..., stride:-stride].unflatten(2, (-1, stride)).mean(2).std(2).max()

    plain = Upsampling(3, 2, stride)
    assert pattern(True) < 0.02 < 0.2 < pattern(False)
    constant = Upsampling(3, 2, stride, True)(torch.ones(1, 3, 50))[..., stride:-stride]
    assert torch.allclose(constant, constant[..., :1].expand_as(constant), atol=1e-6)


def test_a_flat_kernel_is_made_once_and_stays():
    up = Upsampling(3, 2, 4, flat=True)
    kernel = up.kernel()
    up.weight.data.copy_(kernel)
    assert torch.allclose(up.kernel(), kernel, atol=1e-6)


def test_the_codes_of_silence_are_constant_sound_where_upsampling_is_flat():
    def spread(flat: bool) -> float:
        torch.manual_seed(0)
        codec = vqvae_of(widths=((8,), (8, 8)), depths=(1, 1), downs_t=(1, 1), strides_t=(8, 4), flat_upsampling=flat)
        return codec.eval().decode({"vq.1": torch.zeros(1, 100, dtype=torch.long)}, "vq.1")[..., 400:-400].std().item()

    assert spread(True) < 1e-6 < 1e-4 < spread(False)
