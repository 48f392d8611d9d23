"""What the latents of NSynth carry of notes, each figure beside its control."""

from __future__ import annotations

import pytest
import torch

from launch.probes import nsynth
from launch.probes.signals import RATE
from vqvae.nsynth.config import EMBEDDING


def test_the_spectral_baseline_has_as_many_numbers_per_second():
    stream, (latents, _) = nsynth.trained(0, 0).codec.spec.stream(EMBEDDING), nsynth.SPECTRAL.spec.streams
    assert RATE / stream.hop * stream.width == RATE / latents.hop * latents.width == 500


@pytest.mark.long
def test_latents_carry_timbre_and_pitch_and_may_be_mixed_and_repeated():
    """N1, N2, N3; N4 and three seeds are rows of `jukebox ablate wavenet`."""
    model = nsynth.trained(200, 0)
    given = nsynth.latent_figures(model, 0)
    assert given["ratio"] <= 0.9, given
    longer = nsynth.stretch_figures(model, 0)
    assert longer["length"] == 2.0 and longer["pitch_kept"] > longer["pitch_of_half_speed"], longer
    mixed = nsynth.morph_figures(model, 0)
    assert mixed["centroid_correlation"] > mixed["other_order"] and torch.isfinite(torch.tensor(mixed["pitch_kept"])), mixed
