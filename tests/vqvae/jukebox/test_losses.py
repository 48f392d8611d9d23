"""Errors of a reconstruction have the defined values."""

from __future__ import annotations

import pytest
import torch

from vqvae.jukebox import losses
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.losses import Bandwidth
from vqvae.stft import magnitudes, norm

R = (256, 64, 256)


def test_linf_is_the_mean_of_the_worst_squares_of_each_clip():
    x, y = torch.zeros(2, 1, 4), torch.tensor([[[1.0, -3.0, 0.0, 2.0]], [[0.0, 0.0, 0.5, 0.0]]])
    assert losses.linf(x, y, Bandwidth(l2=2.0), k=2).item() == pytest.approx((9 + 4 + 0.25 + 0) / 4 / 2)
    assert losses.linf(x, y, Bandwidth(), k=100) == losses.l2(x, y, Bandwidth())


def test_only_mid_side_and_channels_hear_a_difference_between_the_channels():
    stereo, wrong = torch.randn(1, 2, 1000), torch.randn(1, 1, 1000)
    other = stereo + torch.cat([wrong, -wrong], dim=1)  # the mean is untouched

    def error(kind: str) -> float:
        spectra = (magnitudes(losses.mixdown(v, kind), *R) for v in (stereo, other))
        return losses.spectral(*spectra).max().item()

    assert error("mean") < 1e-3 < 1 < min(error("channels"), error("mid_side"))


def test_the_bandwidth_of_a_known_corpus():
    clips = [torch.full((2, 600), 0.5), -torch.ones(2, 600)]
    bandwidth = losses.measure_bandwidth(clips, R)
    assert bandwidth.l1 == pytest.approx(0.75)
    assert bandwidth.l2 == pytest.approx((0.25 + 1.0) / 2 - 0.25**2)
    norms = [norm(magnitudes(clip[:1], *R)).item() for clip in clips]
    assert bandwidth.spec == pytest.approx(sum(norms) / 2)
    assert Bandwidth(**bandwidth.to_dict()) == bandwidth
    with pytest.raises(ValueError, match="not silent"):
        losses.measure_bandwidth([torch.zeros(2, 600)], R)
    with pytest.raises(ValueError, match="or constant"):  # errors would be divided by its variance
        losses.measure_bandwidth([torch.full((2, 600), 0.3)], R)


def measured(gain: float = 1.0, **settings) -> dict[str, float]:
    """Terms of the loss of a clip and a reconstruction with a tenth of noise, both at a gain."""
    x, noise = torch.randn(2, 1, 1, 4096, generator=torch.Generator().manual_seed(0)) * gain
    config = VQVAEConfig(multispectral_stfts=(R,), spectral_stft=R, **settings)
    terms, _ = losses.ReconstructionLoss(config, x, Bandwidth()).measure(x + 0.1 * noise)
    return {name: value.item() for name, (_, value) in terms.items()}


def test_relative_errors_do_not_depend_on_the_gain():
    relative = {"relative_waveform": True, "linf": 0.0, "multispectral": 0.0, "log_spectral": 1.0}
    loud, soft = measured(**relative), measured(0.1, **relative)
    assert loud["recons_loss"] == pytest.approx(0.01, rel=0.1) == soft["recons_loss"]
    assert soft["log_spectral_loss"] == pytest.approx(loud["log_spectral_loss"], rel=0.1)
    published = {"linf": 0.0, "multispectral": 0.0}
    assert measured(0.1, **published)["recons_loss"] == pytest.approx(measured(**published)["recons_loss"] / 100, rel=0.01)


def test_emphasis_weighs_treble_more_than_bass():
    bass, treble = (torch.sin(torch.arange(2000.0) * w)[None, None] for w in (0.02, 2.0))
    assert losses.emphasise(bass, 0.9).square().mean() < 0.02 < 2 < losses.emphasise(treble, 0.9).square().mean() / 0.5
    assert losses.emphasise(bass, 0.0) is bass


def test_an_emphasis_of_one_is_refused():
    with pytest.raises(ValueError, match="pre_emphasis 1"):
        VQVAEConfig(pre_emphasis=1.0)
