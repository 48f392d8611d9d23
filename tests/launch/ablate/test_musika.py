"""Figures of a latent GAN beside their controls, on latents and sequences whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from launch.ablate.musika import (
    latent_figures,
    rank_correlation,
    requested_values,
    seam_figures,
    shuffle_controls,
    style_figures,
    window_features,
)
from priors.gan.config import GanConfig
from priors.gan.generator import StyleScale
from priors.gan.model import GanPrior

CONFIG = GanConfig(
    "spectral.2", 6, 512, 22050, patch=8, spacing=16, coordinates=8, style=8, widths=(12, 8), critic_widths=(8, 8)
)


def prior() -> GanPrior:
    torch.manual_seed(1)
    return GanPrior(CONFIG).eval()


def test_the_distance_of_an_untrained_generator_from_itself_is_none_and_from_other_windows_is_not():
    figures = latent_figures(prior(), torch.tanh(torch.randn(64, 16, 6)))
    assert (
        figures["latents"]["ratio"] == pytest.approx(1, abs=0.6)
        and figures["latents"]["trained"] > 5 * figures["latents"]["true"]
    )
    assert figures["deviation"]["ratio"] < 1


def test_smooth_sequences_have_seams_of_one_and_patches_in_another_order_have_more():
    walk = torch.randn(4, 64, 6).cumsum(1)
    found = seam_figures(walk, 8)
    assert found["own"] == pytest.approx(1, abs=0.2) and found["ratio"] > 1.4
    noise = seam_figures(torch.randn(4, 64, 6), 8)
    assert noise["ratio"] == pytest.approx(1, abs=0.15), "the control of the control: sequences without time"


def test_styles_of_their_own_for_each_patch_vary_more_where_the_generator_uses_them():
    model = prior()
    scales = [module.scale.weight for module in model.modules() if isinstance(module, StyleScale)]
    with torch.no_grad():
        for weight in scales:
            weight[:, :8] = 0  # coordinates
            weight[:, 8:16] *= 10  # style
        assert style_figures(model)["ratio"] < 0.7
        model.generator.dense.weight[:, 16:32] = 0  # of both frames
        for weight in scales:
            weight[:, :8], weight[:, 8:16] = torch.randn(weight[:, :8].shape), 0
        assert style_figures(model)["ratio"] == pytest.approx(1, abs=0.3)


def test_rank_correlation_is_that_of_spearman():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2, 2], [5, 6, 5, 6]) == pytest.approx(0)


def test_shuffled_controls_are_those_of_the_next_song_at_its_own_length():
    class Task:
        def open(self) -> None:
            self.curves = {name: {"tempo": value + np.arange(n)} for name, n, value in (("a", 3, 1.0), ("b", 5, 6.0))}

    task = Task()
    shuffle_controls(task)
    task.open()
    assert {name: each["tempo"].tolist() for name, each in task.curves.items()} == {
        "a": [8.0, 6.0, 7.0],
        "b": [1.0, 2.0, 1.0, 2.0, 3.0],
    }


def test_requested_values_are_quantiles_of_the_training_songs():
    class Task:
        curves = {
            name: {"density": np.arange(100.0), "tempo": np.full(8, tempo)} for name, tempo in (("a", 88.0), ("b", 126.0))
        }

    found = requested_values(Task())
    assert found["density"] == pytest.approx([2, 26, 50, 74, 97], abs=1)
    assert found["tempo"] == pytest.approx([88, 88, 107, 126, 126])


def test_seams_of_true_windows_stand_beside_those_of_unrelated_halves():
    walk = torch.tanh(torch.randn(64, 16, 6).cumsum(1))
    seams = latent_figures(prior(), walk)["seams"]
    assert seams["true"] == pytest.approx(1, abs=0.25) and seams["true_unrelated"] > 1.3 * seams["true"]


def test_features_of_a_window_are_mean_and_deviation_of_its_channels():
    windows = torch.randn(3, 16, 6)
    assert torch.allclose(window_features(windows)[:, :6], windows.double().mean(1), atol=1e-6)
