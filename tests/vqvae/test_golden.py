"""The VQ-VAE equals the published one: numbers recorded from its 2020 code with small random weights (tests/golden)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jukebox.openai import published_vqvae_key, vqvae_config, vqvae_key, vqvae_state
from vqvae import losses
from vqvae.losses import Bandwidth
from vqvae.vqvae import VQVAE

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = (0, 1, 2)
WEIGHTS = {
    "l1": {"l1": 1.0, "l2": 0.0, "linf": 0.0},
    "l2": {"l1": 0.0, "l2": 1.0, "linf": 0.0},
    "linf": {"l1": 0.0, "l2": 0.0, "linf": 1.0},
    "lmix": {},
}
# published name of a scalar -> ours; published levels count from 1, and four metrics are those of level 0
SCALARS = {"loss": "loss", "recons_loss": "recons_loss", "commit_loss": "commit_loss"}
SCALARS |= {name: name for name in ("spectral_loss", "multispectral_loss")}
SCALARS |= {name: f"{name}_l0" for name in ("spectral_convergence", "l1_loss", "l2_loss", "linf_loss")}
SCALARS |= {
    f"{n}_l{i + 1}": f"{n}_l{i}" for n in ("recons_loss", "spectral_loss", "multispectral_loss") for i in LEVELS
}
SCALARS |= {name: name for name in ("fit", "pn", "entropy", "used_curr", "usage", "dk")}


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((GOLDEN / "vqvae_tiny.json").read_text())


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "vqvae_tiny.io.safetensors")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "vqvae_tiny.state.safetensors")


@pytest.fixture
def codec(facts, published) -> VQVAE:
    config = vqvae_config(facts["hps"])
    codec = VQVAE(config)
    codec.load_state_dict(vqvae_state(published, config))
    return codec.eval()


def audio_of(io) -> torch.Tensor:
    return io["in.audio"].transpose(1, 2)  # published audio is (b, t, c)


def variant(codec: VQVAE, **changes) -> VQVAE:
    """The same weights under another configuration of the losses."""
    other = VQVAE(replace(codec.config, **changes))
    other.load_state_dict(codec.state_dict())
    return other.train(codec.training)


def assert_scalars(logs: dict[str, torch.Tensor], expected: dict, tolerance: float = 1e-5) -> None:
    checked = {name: value for name, value in expected.items() if isinstance(value, float | int)}
    assert len(checked) >= 18
    for name, value in checked.items():
        assert logs[SCALARS[name]].item() == pytest.approx(value, rel=tolerance, abs=1e-7), name


def recorded_draw(io, case: str, level: int, stages: tuple[str, ...] = ("init", "update")):
    """Draws the rows the golden run drew: its permutation of the (repeated) rows and the noise it had added before."""
    left = [s for s in stages if f"in.train.{case}.level{level}.{s}.randperm" in io]

    def draw(rows, bins, width, generator):
        key = f"in.train.{case}.level{level}.{left.pop(0)}"
        chosen = io[f"{key}.randperm"][:bins]
        noise = io.get(f"{key}.tile_noise")
        return chosen % rows, None if noise is None else noise[chosen] * 0.01 / width**0.5

    return draw


def expected_codebook(io, case: str, level: int, threshold: float) -> torch.Tensor:
    """The codebook after the step, from recorded sums, encoder outputs and draws.

    The recorded `k` cannot serve: in every case it is the codebook of before the step, whereas the recorded `dk` says
    that it moved (and agrees with what is computed here).
    """
    at = f"out.train.{case}.level{level}"
    k_sum, k_elem = io[f"{at}.k_sum"], io[f"{at}.k_elem"]
    rows = io[f"out.encoder.level{level}"].transpose(1, 2).flatten(0, 1)
    index, noise = recorded_draw(io, case, level, ("update",))(len(rows), *k_sum.shape, None)
    restarts = rows[index] + (0 if noise is None else noise)
    return torch.where((k_elem >= threshold)[:, None], k_sum / k_elem[:, None], restarts)


def test_every_published_name_has_one_of_ours_and_the_reverse(codec, published):
    ours = {vqvae_key(f"module.{name}") for name in published}
    assert {published_vqvae_key(name, codec.config.downs_t) for name in ours} == set(published)
    assert ours == {n for n in codec.state_dict() if not n.endswith((".k_sum", ".k_elem", ".initialised"))}
    with pytest.raises(KeyError, match=r"encoders\.0\.foo"):
        vqvae_key("encoders.0.foo")


def test_a_missing_or_misshapen_tensor_is_named(codec, published):
    name = "decoders.1.out.weight"
    with pytest.raises(ValueError, match=name):
        vqvae_state({k: v for k, v in published.items() if k != name}, codec.config)
    with pytest.raises(ValueError, match=name):
        vqvae_state(published | {name: torch.zeros(2, 2)}, codec.config)


@pytest.mark.parametrize("level", LEVELS)
def test_encoder_codes_and_decoded_audio_equal_the_published(codec, io, level):
    latents = codec.level(level).encoder(audio_of(io))
    assert torch.allclose(latents, io[f"out.encoder.level{level}"], atol=2e-5, rtol=1e-5)
    codes = codec.encode(audio_of(io), [level])
    assert list(codes) == [level] and torch.equal(codes[level], io[f"out.codes.level{level}"])
    decoded = codec.decode(codes, level).transpose(1, 2)
    assert torch.allclose(decoded, io[f"out.decode.start_level{level}"], atol=2e-5, rtol=1e-5)
    decoded = codec.decode({level: io[f"in.random_codes.level{level}"]}, level).transpose(1, 2)
    assert torch.allclose(decoded, io[f"out.random_decode.level{level}"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*WEIGHTS, "l2_relative_spectral"])
def test_losses_in_evaluation_equal_the_published(codec, facts, io, name):
    relative = name.endswith("_relative_spectral")
    changes = WEIGHTS[name.removesuffix("_relative_spectral")]
    logs = variant(codec, **changes, spectral_is_convergence=relative).loss(
        audio_of(io), bandwidth=Bandwidth(**facts["bandwidth"])
    )
    assert_scalars(logs, facts["eval_forward"][name])


@pytest.mark.parametrize(
    ("name", "loss_fn"),
    [("restored_unit", loss_fn) for loss_fn in WEIGHTS]
    + [(name, "lmix") for name in ("restored_expected", "restored_thresh", "fresh_init")],
)
def test_a_training_step_equals_the_published(codec, facts, io, name, loss_fn):
    expected = facts["train_forward"][f"{name}.{loss_fn}"]
    codec = variant(codec, **WEIGHTS[loss_fn]).train()
    audio = audio_of(io)
    for level in LEVELS:
        book = codec.level(level).codebook
        book.threshold = facts["threshold"][f"{name}.level{level}"]
        book.draw = recorded_draw(io, name, level)
        if name == "fresh_init":
            book.initialised.fill_(False)
            for buffer in (book.k, book.k_sum, book.k_elem):
                buffer.zero_()
        elif name != "restored_unit":
            book.restore(len(audio) * audio.shape[-1] // codec.config.hops[level] / codec.config.bins)
    logs = codec.loss(audio, bandwidth=Bandwidth(**facts["bandwidth"]))
    assert_scalars(logs, expected)
    logs["loss"].backward()
    for key, parameter in codec.named_parameters():
        theirs = published_vqvae_key(key, codec.config.downs_t)
        assert parameter.grad is not None
        assert parameter.grad.norm().item() == pytest.approx(expected["grad_norms"][theirs], rel=2e-4, abs=1e-6), theirs
        if f"{name}.{loss_fn}" == "restored_unit.lmix":
            gold = io[f"grad.{theirs}"]
            assert torch.allclose(parameter.grad, gold, rtol=1e-3, atol=1e-4 * gold.abs().max().item() + 1e-7), theirs
    for level in LEVELS:
        book = codec.level(level).codebook
        for buffer in ("k_sum", "k_elem"):
            gold = io[f"out.train.{name}.level{level}.{buffer}"]
            assert torch.allclose(getattr(book, buffer), gold, atol=1e-5, rtol=1e-5), buffer
        assert torch.allclose(book.k, expected_codebook(io, name, level, book.threshold), atol=1e-5, rtol=1e-5)


def test_spectral_losses_equal_the_published(io):
    a, b, stereo = (io[f"in.spec.{name}"].transpose(1, 2) for name in ("a", "b", "stereo"))
    config = vqvae_config({})

    def compare(function, resolution, x, y):
        return function(*(losses.magnitudes(losses.mixdown(v, "mean"), resolution) for v in (x, y)))

    expected = {n: io[f"out.spec.{n}"] for n in ("spectral_loss", "spectral_convergence", "multispectral_loss")}
    ours = compare(losses.spectral, config.spectral_stft, a, b)
    assert torch.allclose(ours, expected["spectral_loss"], rtol=1e-5)
    # recorded against the same clip played backwards, which the golden's README does not say
    ours = compare(losses.spectral, config.spectral_stft, stereo, stereo.flip(-1))
    assert torch.allclose(ours, io["out.spec.stereo_spectral_loss"], rtol=1e-5)
    ours = compare(losses.spectral_convergence, config.spectral_stft, a, b)
    assert torch.allclose(ours, expected["spectral_convergence"], rtol=1e-5)
    ours = torch.stack([compare(losses.spectral, r, a, b) for r in config.multispectral_stfts]).mean(0)
    assert torch.allclose(ours, expected["multispectral_loss"], rtol=1e-5)
    small = losses.magnitudes(a[:1, 0, :1500], config.multispectral_stfts[2])
    assert torch.allclose(small, io["out.spec.mag_nfft512_first_item"], atol=1e-4, rtol=1e-5)


def test_one_broken_weight_is_seen(codec, facts, io):
    """The control: what the tests above compare does depend on a single weight."""
    with torch.no_grad():
        codec.level(2).encoder.stages[0].steps[1].stack.blocks[1].dilated.weight[0, 0, 0] += 0.5
    with pytest.raises(AssertionError):
        test_encoder_codes_and_decoded_audio_equal_the_published(codec, io, 2)
    with pytest.raises(AssertionError):
        test_losses_in_evaluation_equal_the_published(codec, facts, io, "l2")
