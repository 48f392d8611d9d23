"""The argmax bottleneck: rows of codes forward, the gradient of the normalised vector backward, no nan; the three-level codec with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vqvae.jukebox.argmax import ArgmaxBottleneck
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE

CONFIG = VQVAEConfig(
    sample_rate=8000, downs_t=(1, 1), strides_t=(4, 4), emb_width=6, bins=9, widths=((8,), (8, 8)), depths=(1, 1), linf=0.0,
    multispectral_stfts=((64, 16, 64),), spectral_stft=(64, 16, 64), bottleneck="argmax",
)  # fmt: skip


def bottleneck(bins: int = 7) -> ArgmaxBottleneck:
    """One whose scores are its inputs."""
    torch.manual_seed(0)
    made = ArgmaxBottleneck(bins, bins)
    with torch.no_grad():
        made.score.weight.copy_(torch.eye(bins))
        made.score.bias.zero_()
    return made


def test_forward_are_the_rows_of_the_largest_scores():
    module, scores = bottleneck(), torch.randn(3, 7, 20)
    made = module(scores)
    assert torch.equal(made.codes, scores.argmax(dim=1)) and torch.equal(made.codes, module.encode(scores))
    assert torch.allclose(made.latents, module.decode(made.codes), atol=1e-6)


def test_the_gradient_of_the_scores_is_that_through_the_normalised_vector():
    module, scores, w = bottleneck(), torch.randn(2, 7, 5, requires_grad=True), torch.randn(2, 7, 5)
    (module(scores).latents * w).sum().backward()

    def smooth(x: torch.Tensor) -> torch.Tensor:
        shares = x.relu() / x.relu().sum(dim=1, keepdim=True)  # of channels: axis 1 here
        return (torch.einsum("bkt,ke->bet", shares, module.k.detach().to(x.dtype)) * w.to(x.dtype)).sum()

    exact = scores.detach().double()
    for place in [(0, 1, 2), (1, 4, 0), (1, 6, 3)]:
        step = torch.zeros_like(exact)
        step[place] = 1e-6
        assert float((smooth(exact + step) - smooth(exact - step)) / 2e-6) == pytest.approx(float(scores.grad[place]), abs=1e-4)
    assert scores.grad.abs().max() > 0.01


def test_scores_that_are_all_negative_give_no_nan():
    module, scores = bottleneck(), (-torch.rand(1, 7, 3) - 0.1).requires_grad_()
    made = module(scores)
    (made.latents.sum() + made.commit).backward()
    assert all(torch.isfinite(x).all() for x in (made.latents, made.commit, scores.grad, module.k.grad))
    assert made.codes.unique().tolist() == [0]


def test_shares_are_of_the_scores_of_one_moment_whatever_the_batch():
    module, scores = bottleneck(), torch.randn(4, 7, 6)
    whole = module.shares(scores)
    assert torch.equal(whole[2:3], module.shares(scores[2:3]))
    assert torch.allclose(whole.sum(dim=-1), torch.ones(4, 6))


def test_the_diversity_loss_is_0_for_equal_use_and_largest_for_one_code():
    module = bottleneck()
    assert module.diversity(torch.eye(7)[None]) == pytest.approx(0, abs=1e-9)
    assert module.diversity(torch.eye(7)[:1].expand(2, 5, 7)) == pytest.approx(7 * 6)


def test_the_codec_with_it_has_the_same_sizes_and_streams_and_the_published_one_is_the_default():
    torch.manual_seed(0)
    codec = VQVAE(CONFIG).eval()
    assert VQVAEConfig().bottleneck == "codebook" and VQVAEConfig.from_json(CONFIG.to_json()) == CONFIG
    for stream in CONFIG.spec.names:
        numbers = sum(x.numel() for name, x in codec.state_dict().items() if name.startswith(f"levels.{stream[-1]}."))
        assert numbers == CONFIG.parameter_count(stream) and codec.embeddings(stream).shape == (9, 6)
    audio = torch.randn(1, 1, 64 * 16) * 0.3
    codes = codec.encode(audio, ["vq.1"])
    assert torch.equal(codec.encode_long(audio, ["vq.1"])["vq.1"], codes["vq.1"])
    assert torch.allclose(codec.decode_long(codes["vq.1"], "vq.1"), codec.decode(codes, "vq.1"), atol=1e-5)
    with pytest.raises(ValueError, match='bottleneck \'softmax\': expected "codebook" or "argmax"'):
        replace(CONFIG, bottleneck="softmax")


def test_the_hash_of_its_codes_is_of_its_scores_and_not_of_the_decoder():
    codec = VQVAE(CONFIG)
    before = codec.codes_hash("vq.1")
    with torch.no_grad():
        codec.level(1).decoder.out.bias.add_(1)
        assert codec.codes_hash("vq.1") == before
        codec.level(1).codebook.score.weight.add_(1)
    assert codec.codes_hash("vq.1") != before


@pytest.mark.long
def test_it_learns_by_gradients_and_its_codes_have_information():
    torch.manual_seed(0)
    codec, rng = VQVAE(CONFIG, ["vq.0"]), torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(codec.parameters(), lr=5e-3)

    def clips(rows: int = 8) -> torch.Tensor:
        phase = torch.rand(rows, 1, 1, generator=rng) * 6.28
        hertz = 200 + 400 * torch.rand(rows, 1, 1, generator=rng)
        return 0.5 * torch.sin(phase + 6.28 * hertz * torch.arange(512) / 8000)

    first = codec.loss(clips())["recons_loss"]
    for _ in range(300):
        optimiser.zero_grad()
        codec.loss(clips(), quantise=False)["loss"].backward()  # it always quantises
        optimiser.step()
    audio = clips(16)
    codes = codec.eval().encode(audio, ["vq.0"])["vq.0"]

    def error(values: torch.Tensor) -> float:
        return float((codec.decode({"vq.0": values}, "vq.0") - audio).square().mean())

    assert codec.loss(clips())["recons_loss"] < first and codes.unique().numel() >= 3
    assert error(codes) < 0.9 * error(codes.roll(1, dims=0)), (error(codes), error(codes.roll(1, dims=0)))
