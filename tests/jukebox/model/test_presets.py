"""Every preset multiplied out: its parts fit each other, and its models can be built."""

from __future__ import annotations

import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.presets import PRESETS, Preset, find
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.vocabulary import Characters
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE


@pytest.fixture(params=PRESETS.values(), ids=PRESETS.keys())
def preset(request: pytest.FixtureRequest) -> Preset:
    return request.param


def test_hops_are_those_of_the_house_and_crops_are_whole_codes(preset):
    assert preset.codec.hops == ((8, 32, 128) if preset.codec.levels == 3 else (32, 256))
    assert set(preset.codec_recipes) == set(preset.codec.spec.names)
    for name, recipe in preset.codec_recipes.items():
        hop = preset.codec.spec.stream(name).hop
        assert recipe.crop % hop == 0
        assert recipe.crop > max(n_fft for n_fft, _, _ in preset.codec.multispectral_stfts) // 2
        # threshold is in uses a batch: above the mean use all codes would be restarted for ever
        tokens = recipe.batch * recipe.crop / hop
        assert preset.codec.threshold < tokens / preset.codec.bins


def test_priors_are_conditioned_on_the_level_above_at_its_rate_and_write_the_codecs_codes(preset):
    assert set(preset.priors) == set(preset.prior_recipes)
    names = ["prior_2", "prior_1", "prior_0"]
    assert list(preset.parts("autoregressive")) in ([], names)  # none: a published codec, whose priors are sets of their own
    for name in preset.parts("autoregressive"):
        prior, level = preset.priors[name], int(name[-1])
        assert (prior.stream, prior.bins, prior.hop) == (f"vq.{level}", preset.codec.bins, preset.codec.hops[level])
        assert prior.sample_rate == preset.codec.sample_rate and prior.labels is not None
        assert (prior.above is None) == (level == 2) and (prior.lyrics is None) == (level != 2)
        if prior.above:
            assert prior.reads == f"vq.{level + 1}"
            assert prior.above.ratio == preset.codec.hops[level + 1] // preset.codec.hops[level]
            assert prior.n_ctx % prior.above.ratio == 0
        if prior.lyrics:
            assert prior.lyrics.vocabulary == Characters(preset.symbols).size


def test_recipes_warm_up_and_save_within_their_run(preset):
    for recipe in [*preset.codec_recipes.values(), *preset.prior_recipes.values()]:
        assert 0 < recipe.warmup < recipe.steps and 0 < recipe.save_every <= recipe.steps
        assert recipe.schedule in ("linear", "cosine", "constant") and recipe.crop >= 0


def test_models_can_be_built_and_label_tables_have_the_corpuss_sizes(preset):
    with torch.device("meta"):
        VQVAE(preset.codec)
        for name in preset.parts("autoregressive"):
            prior = AutoregressivePrior(preset.priors[name].for_corpus(artists=7, genres=5))
            assert len(prior.labels.artist.weight) == 7 and len(prior.labels.genre.weight) == 5


def test_the_published_codec_is_the_one_that_stands_in_its_configuration():
    """Its settings are specified twice, as defaults here and as hyper-parameters there: they agree but for restarts."""
    assert PRESETS["vqvae"].codec == VQVAEConfig(reset_restarted=False)


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(UserError, match="no preset 'huge'; choose one of demo, small, test, vqvae, small_vqvae"):
        find("huge")
