"""The VQ-VAE equals the published one: numbers recorded from its 2020 code with small random weights (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jukebox.importers.vqvae_keys import published_vqvae_key, vqvae_key, vqvae_state
from tests.conformance.codec import SUMS, check_levels, check_vqvae, load_codec
from tests.conformance.golden import Golden

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def golden() -> Golden:
    return Golden(GOLDEN, "vqvae_tiny")


def test_every_recorded_number_of_the_codec_is_met(golden):
    checks = list(check_vqvae(golden))
    assert len(checks) >= 50
    assert not [str(check) for check in checks if not check.ok]


def test_every_published_name_has_one_of_ours_and_the_reverse(golden):
    codec, published = load_codec(golden), golden.state
    ours = {vqvae_key(f"module.{name}") for name in published}
    assert {published_vqvae_key(name, codec.config.downs_t) for name in ours} == set(published)
    assert ours == {n for n in codec.state_dict() if not n.endswith(SUMS)}
    with pytest.raises(KeyError, match=r"encoders\.0\.foo"):
        vqvae_key("encoders.0.foo")


def test_a_missing_or_misshapen_tensor_is_named(golden):
    config, published, name = load_codec(golden).config, golden.state, "decoders.1.out.weight"
    with pytest.raises(ValueError, match=name):
        vqvae_state({k: v for k, v in published.items() if k != name}, config)
    with pytest.raises(ValueError, match=name):
        vqvae_state(published | {name: torch.zeros(2, 2)}, config)


@pytest.mark.parametrize("part", ["encoders.2", "decoders.1", "bottleneck.level_blocks.0.k"])
def test_one_wrong_weight_is_seen(golden, part):
    """The control: what is compared does depend on a single weight."""
    name = next(n for n in golden.state if n.startswith(part))
    golden.state[name].view(-1)[0] += 0.05
    assert not all(check.ok for check in check_levels(golden, load_codec(golden)))
