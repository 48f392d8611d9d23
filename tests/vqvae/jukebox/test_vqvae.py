"""The VQ-VAE: independent levels, exact resumption, clear errors, and that it learns."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE

STREAMS = ("vq.0", "vq.1")


def optimiser_of(codec: VQVAE) -> torch.optim.Optimizer:
    return torch.optim.AdamW(codec.parameters(), 8e-3, betas=(0.9, 0.99), weight_decay=0.0)


def train(codec, clips, steps, optimiser=None, generator=None, **params) -> list[float]:
    """Losses of `steps` steps on batches of eight clips in turn."""
    optimiser = optimiser or optimiser_of(codec)
    generator = generator or torch.Generator().manual_seed(0)
    losses = []
    codec.train()
    for step in range(steps):
        batch = clips.roll(-8 * step, 0)[:8]  # of eight clips: all of them
        loss = codec.loss(batch, generator=generator, **params)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def convergence(codec: VQVAE, clips: torch.Tensor, level: int) -> float:
    with torch.no_grad():
        return codec.eval().loss(clips)[f"spectral_convergence_l{level}"].item()


def test_a_configuration_survives_json(small):
    config = replace(small, widths=((8,), (8, 12)), depths=(2, 1))
    assert VQVAEConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ValueError, match="no setting colour"):
        VQVAEConfig.from_json({"colour": 3})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"strides_t": (2, 3)}, "even strides"),
        ({"downs_t": (2, 0)}, "numbers from 1"),
        ({"strides_t": (2,)}, "one entry a level"),
        ({"widths": ((8,), (8,))}, "widths"),
        ({"stereo": "both"}, "mid_side"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(small, wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(small, **wrong)


def test_levels_are_independent(small, tones):
    codec = VQVAE(small).eval()
    for changed, kept in ((0, 1), (1, 0)):
        other = VQVAE(small)
        other.load_state_dict(codec.state_dict())
        with torch.no_grad():
            for parameter in other.level(changed).parameters():
                parameter.mul_(1.5)
        codes, others = codec.encode(tones, STREAMS), other.encode(tones, STREAMS)
        same = {stream: torch.equal(codes[stream], others[stream]) for stream in STREAMS}
        assert same == {f"vq.{kept}": True, f"vq.{changed}": False}


def test_the_gradient_of_one_level_never_touches_another(small, tones):
    codec = VQVAE(small).eval()
    autoencoder = codec.level(0)
    codec.zero_grad()
    autoencoder.decoder(autoencoder.codebook(autoencoder.encoder(tones)).latents).square().sum().backward()
    touched = {name.split(".")[1] for name, p in codec.named_parameters() if p.grad is not None}
    assert touched == {"0"}


def test_one_level_is_trained_saved_and_loaded_alone(small, tones, tmp_path):
    whole, top = VQVAE(small), VQVAE(small, ["vq.1"])
    train(top, tones, 3)
    assert {name.split(".")[1] for name in top.state_dict()} == {"1"}
    save_file(top.state_dict(), tmp_path / "top.safetensors")
    missing = whole.load_state_dict(load_file(tmp_path / "top.safetensors"), strict=False)
    assert not missing.unexpected_keys and all(name.startswith("levels.0.") for name in missing.missing_keys)
    assert torch.equal(whole.encode(tones, ["vq.1"])["vq.1"], top.encode(tones, ["vq.1"])["vq.1"])
    with pytest.raises(ValueError, match="level 0 was not built; this codec holds levels 1"):
        top.encode(tones, ["vq.0"])
    with pytest.raises(ValueError, match=r"no stream 'vq.2'; this codec has vq.0, vq.1"):
        VQVAE(small, ["vq.2"])


def test_a_resumed_run_is_the_uninterrupted_one(small, tones, tmp_path):
    codec, generator = VQVAE(small), torch.Generator().manual_seed(5)
    optimiser = optimiser_of(codec)
    train(codec, tones, 4, optimiser, generator)
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    rest = copy.deepcopy((optimiser.state_dict(), generator.get_state()))
    straight = train(codec, tones, 4, optimiser, generator)

    resumed, generator = VQVAE(small), torch.Generator()
    resumed.load_state_dict(load_file(tmp_path / "codec.safetensors"))
    optimiser = optimiser_of(resumed)
    optimiser.load_state_dict(rest[0])
    generator.set_state(rest[1])
    assert train(resumed, tones, 4, optimiser, generator) == straight
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in resumed.state_dict().items())

    # the control: without the running sums, as in published checkpoints, the codebook goes elsewhere
    forgetful = VQVAE(small)
    forgetful.load_state_dict(load_file(tmp_path / "codec.safetensors"))
    for level in (0, 1):
        forgetful.level(level).codebook.restore()
    generator.set_state(rest[1])
    train(forgetful, tones, 1, generator=generator)
    assert not torch.equal(forgetful.level(1).codebook.k_elem, resumed.level(1).codebook.k_elem)


def test_it_overfits_one_batch_and_untrained_it_does_not_reconstruct(small, tones):
    untrained, codec = VQVAE(small), VQVAE(small)
    batch = tones[:8]
    for level in (0, 1):
        assert convergence(untrained, batch, level) > 0.9
    train(codec, batch, 20, quantise=False)
    train(codec, batch, 70)
    assert convergence(codec, batch, 0) < 0.5
    assert convergence(codec, batch, 1) < 0.8
    assert convergence(codec, batch, 0) < convergence(codec, batch, 1)
    # the codes carry it: shuffled ones do not reconstruct
    codes = codec.encode(batch, ["vq.0"])
    shuffled = {"vq.0": codes["vq.0"].flip(1)}
    ours, theirs = ((codec.decode(c, "vq.0") - batch).square().mean() for c in (codes, shuffled))
    assert ours < 0.3 * theirs


def test_the_quantiser_can_wait_and_then_starts_from_the_batch(small, tones):
    codec = VQVAE(small)
    train(codec, tones, 3, quantise=False)
    assert not any(codec.level(level).codebook.initialised for level in (0, 1))
    logs = codec.loss(tones, quantise=False)
    assert "commit_loss" not in logs and "entropy" not in logs
    first = codec.level(0).codebook.k.clone()
    logs = codec.loss(tones, generator=torch.Generator().manual_seed(0))
    assert codec.level(0).codebook.initialised and not torch.equal(first, codec.level(0).codebook.k)
    assert logs["fit_l0"] < logs["pn_l0"].square() * small.emb_width


def test_every_term_is_logged_per_level_and_in_all(small, tones):
    logs = VQVAE(replace(small, spectral=0.5)).train().loss(tones, generator=torch.Generator().manual_seed(0))
    summed = ("recons_loss", "spectral_loss", "multispectral_loss", "commit_loss")
    mean = ("spectral_convergence", "entropy", "used_curr", "usage", "dk", "fit", "pn", "l1_loss", "l2_loss", "linf_loss")
    for name in summed + mean:
        parts = logs[f"{name}_l0"] + logs[f"{name}_l1"]
        assert logs[name].item() == pytest.approx((parts if name in summed else parts / 2).item(), rel=1e-5)
    total = logs["recons_loss"] + 0.5 * logs["spectral_loss"] + logs["multispectral_loss"] + 0.02 * logs["commit_loss"]
    assert logs["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert [name for name, value in logs.items() if value.requires_grad] == ["loss"]


def test_relative_spectral_loss_does_not_depend_on_loudness(small, tones):
    config = replace(small, l2=0.0, linf=0.0, commit=0.0, relative_spectral=True)
    codec = VQVAE(config, ["vq.0"]).eval()
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.zero_()  # it answers silence: each clip's error is its own norm
    loud = codec.loss(1000 * tones)["multispectral_loss"].item()
    assert loud == pytest.approx(1.0, abs=1e-3)
    assert codec.loss(tones)["multispectral_loss"].item() < loud


def test_a_loss_that_is_not_finite_names_its_term_and_level(small, tones):
    codec = VQVAE(replace(small, l1=1.0), ["vq.1"]).train()
    with torch.no_grad():
        codec.level(1).decoder.out.bias.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="recons_loss_l1"):
        codec.loss(tones, generator=torch.Generator())
    tones[2, 0, 17] = float("nan")
    with pytest.raises(FloatingPointError, match="level 1: the encoder"):
        VQVAE(small, ["vq.1"]).train().loss(tones, generator=torch.Generator())


def test_under_bf16_autocast_quantiser_and_losses_stay_in_float32(small, tones):
    codec = VQVAE(small).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logs = codec.loss(tones, generator=torch.Generator().manual_seed(0))
    assert {value.dtype for value in logs.values()} == {torch.float32}
    logs["loss"].backward()
    assert all(buffer.dtype in (torch.float32, torch.bool) for buffer in codec.buffers())
    assert all(torch.isfinite(p.grad).all() for p in codec.parameters())


def test_clips_of_a_wrong_length_are_refused(small):
    codec = VQVAE(small)
    for length in (0, 15, 100, 250):
        with pytest.raises(ValueError, match="multiple of 16 samples"):
            codec.loss(torch.randn(2, 1, length))
    with pytest.raises(ValueError, match="too short for a spectral loss with n_fft 128"):
        codec.loss(torch.randn(2, 1, 64))
    logs = codec.eval().loss(torch.randn(2, 1, 112))  # long enough for the loss, not for the metric
    assert "spectral_convergence" not in logs


FUZZED = VQVAE(VQVAEConfig(downs_t=(2, 1), strides_t=(2, 4), emb_width=4, bins=8, width=4, depth=1, multipliers=(1, 1))).eval()


@settings(max_examples=200, deadline=None)
@given(
    length=st.sampled_from([0, 1, 3, 4, 5, 15, 16, 17, 33, 100]),
    batch=st.integers(0, 2),
    channels=st.integers(1, 2),
    kind=st.sampled_from(["fine", "nan", "inf", "huge", "int16", "flat", "half", "double"]),
)
def test_any_input_gives_codes_or_one_clear_error(length, batch, channels, kind):
    codec = FUZZED
    audio = torch.rand(batch, channels, length) * 2 - 1
    dtypes = {"half": torch.float16, "double": torch.float64, "int16": torch.int16}
    audio = audio.to(dtypes.get(kind, torch.float32))
    if kind in ("nan", "inf", "huge") and audio.numel():
        audio[0, 0, 0] = {"nan": float("nan"), "inf": float("inf"), "huge": 1e38}[kind]
    if kind == "flat":
        audio = audio.reshape(-1)
    wrong = channels == 2 or kind in ("int16", "flat")
    broken = kind in ("nan", "inf", "huge") and batch and length >= 4
    if wrong or broken:
        for encode in (codec.encode, codec.encode_long):
            with pytest.raises(ValueError, match=r"expected|give samples in"):
                encode(audio, STREAMS)
        return
    codes = codec.encode(audio, STREAMS)
    for stream, hop in zip(STREAMS, codec.spec.hops, strict=True):
        assert codes[stream].shape == (batch, length // hop) and codes[stream].dtype == torch.int64
        back = codec.decode(codes, stream)
        assert back.shape == (batch, 1, length // hop * hop) and torch.isfinite(back).all()
        assert codec.encode_long(audio, [stream])[stream].shape == codes[stream].shape
        assert torch.allclose(codec.decode_long(codes[stream], stream), back, atol=1e-5)


def test_decoding_refuses_codes_that_are_none(small):
    codec = VQVAE(small).eval()
    for codes, words in (
        (torch.tensor([[0, 16]]), "expected 0 to 15"),
        (torch.tensor([[-1, 3]]), "expected 0 to 15"),
        (torch.rand(1, 4), "expected integers"),
        (torch.tensor([1, 2]), "expected integers"),
    ):
        with pytest.raises(ValueError, match=words):
            codec.decode({"vq.0": codes}, "vq.0")
    assert codec.decode({"vq.0": torch.tensor([[1, 2]], dtype=torch.uint8)}, "vq.0").shape == (1, 1, 8)


def test_a_stereo_codec_hears_and_makes_two_channels(small):
    codec = VQVAE(replace(small, channels=2, stereo="mid_side"))
    audio = torch.randn(2, 2, 256) * 0.1
    logs = codec.train().loss(audio, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(logs["loss"])
    assert codec.eval().decode(codec.encode(audio, ["vq.1"]), "vq.1").shape == audio.shape
