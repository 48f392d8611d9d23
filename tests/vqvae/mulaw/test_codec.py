"""The mu-law codec: codes and samples are inverses, silence, small errors near 0, and streams of any length."""

from __future__ import annotations

import math

import pytest
import torch

from jukebox.model.folder import ModelFolder
from vqvae.mulaw.codec import MuLawCodec, companded, expanded
from vqvae.mulaw.config import SILENCE, MuLawConfig
from vqvae.registry import CODEC_CONFIGS, CODECS


def test_code_to_sample_to_code_is_the_identity_for_all_256():
    codes = torch.arange(256)
    assert torch.equal(companded(expanded(codes)), codes)
    assert (expanded(codes).diff() > 0).all()


def test_silence_is_code_128_and_decodes_to_exactly_0():
    assert companded(torch.zeros(3)).tolist() == [128] * 3 == [SILENCE] * 3
    assert expanded(torch.tensor(128)) == 0


def test_the_error_near_0_is_below_1e_4_of_full_scale_and_that_of_full_scale_below_5_percent():
    near, all_of = torch.linspace(-3e-4, 3e-4, 9999), torch.linspace(-1, 1, 9999)
    assert (expanded(companded(near)) - near).abs().max() <= 1e-4
    assert (expanded(companded(all_of)) - all_of).abs().max() <= 0.05
    assert companded(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_at_minus_40_db_the_snr_is_10_db_above_that_of_8_linear_bits():
    x = 10 ** (-40 / 20) * torch.sin(torch.arange(20000) * 0.05)

    def snr(made: torch.Tensor) -> float:
        return float(10 * torch.log10(x.square().sum() / (made - x).square().sum()))

    assert snr(expanded(companded(x))) > snr(torch.round(x * 127) / 127) + 10


def test_streams_in_blocks_are_those_of_the_whole():
    codec, audio = MuLawCodec(MuLawConfig()), torch.randn(1, 500) * 0.3
    whole = codec.encode(audio[None], ["mulaw"])["mulaw"][0]
    parts = [each["mulaw"] for each in codec.encoder_stream(audio.split(130, dim=1), ["mulaw"])]
    assert torch.equal(torch.cat(parts), whole)
    decoded = torch.cat(list(codec.decode_blocks(whole.split(77), "mulaw")), dim=1)
    assert torch.equal(decoded, codec.decode({"mulaw": whole[None]}, "mulaw")[0]) and decoded.shape == audio.shape
    assert math.isclose(float((decoded - audio.clamp(-1, 1)).abs().max()), 0, abs_tol=0.05)


def test_a_model_folder_has_its_file_from_the_start_and_keeps_its_hash(tmp_path):
    model = ModelFolder.create(tmp_path / "model", MuLawConfig())
    assert model.trained_streams() == ("mulaw",)
    again = ModelFolder.create(tmp_path / "model", MuLawConfig())
    assert again.codec(["mulaw"]).codes_hash("mulaw") == model.info.codes_hash("mulaw") != ""
    assert CODEC_CONFIGS.load("mulaw") is MuLawConfig and CODECS.load("mulaw") is MuLawCodec


def test_stereo_is_an_error():
    with pytest.raises(ValueError, match="expected \\(batch, 1 channels, samples\\)"):
        MuLawCodec(MuLawConfig()).encode(torch.zeros(1, 2, 5), ["mulaw"])
