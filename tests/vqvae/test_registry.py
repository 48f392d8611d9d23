"""Kinds are found by name: in the table of this project, or by the entry points of an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from priors.registry import PRIOR_CONFIGS, PRIOR_PARAMS, PRIORS
from vqvae.registry import CODEC_CONFIGS, CODECS
from vqvae.streams import CodecConfig

CODEC = "class ToyConfig:\n    kind = 'toy'\n"
ENTRIES = "[jukebox.codecs.config]\ntoy = toy_codec:ToyConfig\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the package toy-codec, as pip leaves it."""
    (tmp_path / "toy_codec.py").write_text(CODEC)
    info = tmp_path / "toy_codec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-codec\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("registry", [CODEC_CONFIGS, CODECS, PRIOR_CONFIGS, PRIORS, PRIOR_PARAMS])
def test_kinds_of_this_project_load_and_belong_to_no_other_package(registry):
    assert all(isinstance(registry.load(kind), type) and registry.package(kind) == "" for kind in registry.table)
    assert all(registry.load(kind).kind == kind for kind in registry.table if registry in (CODEC_CONFIGS, PRIOR_CONFIGS))


def test_an_unknown_kind_is_one_line_with_the_known_kinds_and_the_package():
    with pytest.raises(ValueError) as raised:
        CODEC_CONFIGS.load("toy", "toy-codec")
    assert (
        str(raised.value)
        == "unknown kind of codec 'toy'; expected vqvae, spectral, mulaw, nsynth, latent, or install the package toy-codec"
    )
    with pytest.raises(
        ValueError,
        match="prior 'toy'; expected autoregressive, tokens, masked, wavenet, gan, diffusion, or install the package that",
    ):
        PRIORS.load("toy")


def test_a_kind_of_an_installed_package_is_found(installed):
    found = CODEC_CONFIGS.load("toy")
    assert found.__name__ == "ToyConfig" and found.kind == "toy"
    assert (
        CODEC_CONFIGS.kinds() == ["vqvae", "spectral", "mulaw", "nsynth", "latent", "toy"]
        and CODEC_CONFIGS.package("toy") == "toy-codec"
    )
    assert "toy" not in CODECS.kinds()  # each group is its own


def test_an_installed_package_cannot_replace_a_kind_of_this_project(installed):
    entries = installed / "toy_codec-1.0.dist-info" / "entry_points.txt"
    entries.write_text(ENTRIES + "vqvae = toy_codec:ToyConfig\n")
    assert issubclass(CODEC_CONFIGS.load("vqvae"), CodecConfig)
    assert CODEC_CONFIGS.package("vqvae") == "" and CODEC_CONFIGS.kinds() == [
        "vqvae",
        "spectral",
        "mulaw",
        "nsynth",
        "latent",
        "toy",
    ]
