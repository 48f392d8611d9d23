"""Every preset multiplied out: its parts fit each other, and its models can be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.folder import build_codec, build_prior
from jukebox.model.presets import PRESETS, Preset, find
from priors.conditioning.vocabulary import Characters
from vqvae.jukebox.config import VQVAEConfig
from vqvae.spectral.config import TOKENS, SpectralConfig


@pytest.fixture(params=PRESETS.values(), ids=PRESETS.keys())
def preset(request: pytest.FixtureRequest) -> Preset:
    return request.param


def levels_of(preset: Preset) -> list[VQVAEConfig]:
    return [codec for codec in preset.codecs if isinstance(codec, VQVAEConfig)]


def test_hops_are_those_of_the_house_and_crops_are_whole_codes(preset):
    for codec in levels_of(preset):
        assert codec.hops == ((8, 32, 128) if codec.levels == 3 else (32, 256))
        assert set(codec.spec.names) <= set(preset.codec_recipes)
        for name in codec.spec.names:
            recipe, hop = preset.codec_recipes[name], codec.spec.stream(name).hop
            assert recipe.crop % hop == 0
            assert recipe.crop > max(n_fft for n_fft, _, _ in codec.multispectral_stfts) // 2
            # threshold is in uses a batch: above the mean use all codes would be restarted for ever
            assert codec.threshold < recipe.batch * recipe.crop / hop / codec.bins


def test_the_spectral_codec_is_trained_as_one_part_and_its_priors_fit_its_tokens(preset):
    for codec in preset.codecs:
        if isinstance(codec, SpectralConfig):
            recipe = preset.codec_recipes[TOKENS]
            assert set(codec.spec.names) & set(preset.codec_recipes) == {TOKENS}
            assert recipe.crop % codec.hop == 0 and recipe.crop > codec.n_fft
            priors = [config for config in preset.priors.values() if TOKENS in config.spec.writes]
            shapes = {(each.hop, each.sample_rate, each.bins, each.books, each.vector) for each in priors}  # type: ignore[attr-defined]
            assert shapes == {(codec.hop, codec.sample_rate, codec.bins, codec.books, codec.latent)}


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
        for codec in preset.codecs:
            build_codec(codec)
        for config in preset.priors.values():
            prior: Any = build_prior(config.for_corpus(artists=7, genres=5))
            assert config.labels is None or (len(prior.labels.artist.weight), len(prior.labels.genre.weight)) == (7, 5)


def test_the_published_codec_is_the_one_that_stands_in_its_configuration():
    """Its settings are specified twice, as defaults here and as hyper-parameters there: they agree but for restarts."""
    assert PRESETS["vqvae"].codec == VQVAEConfig(reset_restarted=False)


def test_an_unknown_preset_names_those_there_are():
    names = "demo, recordings_levels, small, vqvae, small_vqvae, spectral, recordings_small, recordings, recordings_large, recordings_44k"
    with pytest.raises(UserError, match=f"no preset 'huge'; choose one of {names}"):
        find("huge")
