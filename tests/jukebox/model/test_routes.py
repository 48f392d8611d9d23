"""Routes of a model: derived from its priors, stored in config.json, chosen by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from jukebox.model.routes import Route, assumed_routes, derive_routes
from jukebox.params import SamplingOptions
from jukebox.runs.request import RunSettings, sampled
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.cli import main
from priors.spec import PriorConfig, PriorSpec
from tests.jukebox.sampling.models import with_masked_prior
from vqvae.streams import Stream

STREAMS = tuple(Stream(f"vq.{level}", hop, bins=32) for level, hop in enumerate((8, 32, 128)))
OWN = {"vq.2": "prior_2", "vq.1": "prior_1", "vq.0": "prior_0"}
MASKED = {"vq.2": "prior_2", "vq.1": "masked", "vq.0": "masked"}


class Config(PriorConfig):
    """A configuration of which only the kind and the streams matter."""

    hop, sample_rate, labels, lyrics = 8, 22050, None, None
    parameters = decoding_cost = from_json = None

    def __init__(self, kind: str, *writes: str, route: str = "", prompt: Literal["prefix", "any"] = "prefix"):
        self.kind, self.route, self.writes, self.prompt = kind, route, writes, prompt  # type: ignore[misc]

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((), self.writes, 64, self.prompt)


def own(*levels: int) -> dict[str, PriorConfig]:
    return {f"prior_{level}": Config("autoregressive", f"vq.{level}", route="jukebox") for level in levels}


def chains(routes: dict[str, Route]) -> dict[str, dict[str, str]]:
    assert all(route.name == name for name, route in routes.items())
    return {name: dict(route.priors) for name, route in routes.items()}


# ---- derived


def test_a_route_goes_through_the_priors_of_single_streams_from_the_coarsest_on():
    assert chains(derive_routes([STREAMS], own(0, 1, 2))) == {"jukebox": OWN}
    assert list(derive_routes([STREAMS], own(0, 2, 1))["jukebox"].priors) == ["vq.2", "vq.1", "vq.0"]
    assert derive_routes([STREAMS], {}) == {}


def test_a_prior_of_several_streams_has_a_route_whose_coarsest_stream_is_left_to_a_prior_of_its_own():
    several = {"masked": Config("masked", "vq.0", "vq.1", "vq.2")}
    assert chains(derive_routes([STREAMS], own(0, 1, 2) | several)) == {"jukebox": OWN, "masked": MASKED}
    assert chains(derive_routes([STREAMS], several)) == {"masked": dict.fromkeys(("vq.2", "vq.1", "vq.0"), "masked")}
    two = {"pair": Config("pair", "vq.0", "vq.1")}
    assert chains(derive_routes([STREAMS], own(2) | two))["pair"] == {"vq.1": "pair", "vq.0": "pair"}


def test_a_further_prior_of_a_stream_has_a_route_in_which_it_takes_the_place_of_the_first():
    diffusion = {"smooth": Config("diffusion", "vq.0")}
    routes = derive_routes([STREAMS], own(0, 1, 2) | diffusion)
    assert chains(routes) == {"jukebox": OWN, "diffusion": OWN | {"vq.0": "smooth"}} and next(iter(routes)) == "jukebox"
    assert chains(derive_routes([STREAMS], own(2) | {"elsewhere": Config("gan", "spectral")})) == {
        "jukebox": {"vq.2": "prior_2"}
    }
    other = {"other": Config("autoregressive", "vq.2", route="jukebox")}
    assert chains(derive_routes([STREAMS], own(0, 1, 2) | other))["other"] == OWN | {"vq.2": "other"}


def test_a_route_has_the_name_of_its_kind_unless_the_kind_names_another():
    assert list(derive_routes([STREAMS], {"a": Config("diffusion", "vq.0")})) == ["diffusion"]
    assert list(derive_routes([STREAMS], {"a": Config("diffusion", "vq.0", route="latent")})) == ["latent"]


def test_a_model_that_stores_no_route_has_one_through_the_priors_of_its_levels_trained_or_not():
    assert chains(assumed_routes([STREAMS], own(2))) == {"jukebox": OWN}
    assert chains(assumed_routes([STREAMS], {})) == {"jukebox": OWN}
    several = {"masked": Config("masked", "vq.0", "vq.1", "vq.2")}
    assert chains(assumed_routes([STREAMS], own(2) | several)) == {"jukebox": OWN, "masked": MASKED}
    other = {"toy": Config("toy", "vq.1")}  # a prior of another name: no level has a prior of its own
    assert chains(assumed_routes([STREAMS], other)) == {"toy": {"vq.1": "toy"}}


TOKENS = (Stream("spectral", 1024, width=8), Stream("tokens", 1024, books=4, bins=32))


def test_priors_of_one_kind_of_two_codecs_have_routes_of_their_own_names_in_any_order():
    ours = {"masked": Config("masked", "vq.0", "vq.1", "vq.2", prompt="any")}
    theirs = {"masked_tokens": Config("masked", "tokens", prompt="any"), "tokens": Config("tokens", "tokens", route="spectral")}
    expected = {
        "spectral": {"tokens": "tokens"},
        "masked_tokens": {"tokens": "masked_tokens"},
        "jukebox": OWN,
        "masked": MASKED,
    }
    for priors in (own(0, 1, 2) | ours | theirs, theirs | ours | own(0, 1, 2)):
        routes = derive_routes([STREAMS, TOKENS], priors)
        assert chains(routes) == expected and next(iter(routes)) == "spectral"
    alone = {"masked_tokens": theirs["masked_tokens"]}
    assert chains(derive_routes([STREAMS, TOKENS], alone)) == {"masked_tokens": {"tokens": "masked_tokens"}}
    assert list(derive_routes([TOKENS], theirs)) == ["spectral", "masked"]


def test_priors_of_one_codec_that_read_nothing_and_name_other_routes_have_a_route_each():
    streams = (Stream("spectral", 1024, width=8), Stream("tokens", 1024, bins=32), Stream("spectral.2", 2048, width=8))
    gan, tokens = Config("gan", "spectral.2", route="musika"), Config("tokens", "tokens", route="spectral")
    masked = Config("masked", "tokens", prompt="any")
    routes = derive_routes([streams], {"gan": gan, "tokens": tokens, "masked_tokens": masked})
    expected = {"spectral": {"tokens": "tokens"}, "musika": {"spectral.2": "gan"}, "masked": {"tokens": "masked_tokens"}}
    assert chains(routes) == expected and next(iter(routes)) == "spectral"


# ---- stored


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Jukebox:
    return with_masked_prior(tiny_model, tmp_path_factory.mktemp("routes") / "model")


def test_routes_are_stored_in_config_json_and_read_again_the_default_first(model, tmp_path):
    config = json.loads((model.folder / "config.json").read_text())
    assert config["routes"] == {"jukebox": OWN, "masked": MASKED} and config["default_route"] == "jukebox"
    info = ModelInfo.read(model.folder)
    assert chains(info.routes) == config["routes"] and info.route().name == "jukebox"
    assert ModelInfo.from_json(info.folder, info.to_json()) == info
    config["default_route"] = "masked"
    (tmp_path / "config.json").write_text(json.dumps(config))
    other = ModelInfo.read(tmp_path)
    assert list(other.routes) == ["masked", "jukebox"] and other.route().name == "masked"
    assert other.to_json()["default_route"] == "masked"


def test_a_default_route_of_a_models_own_is_that_of_its_requests(model, tmp_path):
    config = json.loads((model.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"default_route": "masked"}))
    request = sampled(ModelInfo.read(tmp_path), [Song()], 0.2, RunSettings())
    assert request["route"] == "masked" and request["priors"] == {"2": "prior_2", "1": "masked", "0": "masked"}


def test_a_prior_that_is_saved_again_leaves_stored_routes_as_they_are(model, tmp_path):
    info = ModelInfo.read(model.folder)
    changed = ModelInfo.from_json(
        info.folder, info.to_json() | {"routes": {"short": {"vq.2": "prior_2"}}, "default_route": "short"}
    )
    again = changed.with_prior(info.priors["prior_2"])
    assert next(iter(again.routes)) == "short" and dict(again.routes["short"].priors) == {"vq.2": "prior_2"}
    assert chains(again.routes) == {"short": {"vq.2": "prior_2"}, "jukebox": OWN, "masked": MASKED}


def test_routes_given_when_a_model_is_made_are_stored(tmp_path):
    codec = find("test").codec
    route = Route("coarse", {"vq.2": "prior_2"})
    model = Jukebox.create(tmp_path / "model", codec, routes={"coarse": route})
    assert chains(Jukebox.from_pretrained(model.folder).info.routes) == {"coarse": dict(route.priors)}
    more = Jukebox.create(tmp_path / "model", codec, routes={"fine": Route("fine", {"vq.0": "prior_0"})})
    assert list(more.info.routes) == list(Jukebox.from_pretrained(model.folder).info.routes) == ["coarse", "fine"]


def test_a_model_without_stored_routes_samples_as_before(model, tmp_path):
    config = json.loads((model.folder / "config.json").read_text())
    del config["routes"], config["default_route"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    info = ModelInfo.read(tmp_path)
    assert info.stored_routes == {} and chains(info.routes) == {"jukebox": OWN, "masked": MASKED}
    for route in ("", "masked"):
        settings = RunSettings(SamplingOptions(route=route))
        old, new = (sampled(each, [Song()], 0.2, settings) for each in (info, model.info))
        assert {**old, "model": ""} == {**new, "model": ""}


def test_an_unknown_route_is_one_line_that_names_those_of_the_model(model, tiny_model):
    with pytest.raises(UserError, match="has no route 'flow'; it has jukebox, masked$"):
        model.info.route("flow")
    with pytest.raises(UserError, match=r"no route 'masked'; it has jukebox; run `jukebox train masked DATA --out"):
        tiny_model.info.route("masked")


# ---- at the command line


def sample(model: Jukebox, out: Path, *flags: str) -> Run:
    words = ["sample", str(model.folder), "--seconds", "0.2", "--seed", "4", "--out", str(out), *flags]
    assert main(words) == 0
    return Run.open(out)


def test_lower_masked_equals_route_masked_bit_for_bit_and_the_default_is_jukebox(model, tmp_path):
    runs = {name: sample(model, tmp_path / name, *flags) for name, flags in (
        ("route", ("--route", "masked", "--passes", "3,2")), ("lower", ("--lower", "masked", "--passes", "3,2")),
        ("default", ()), ("jukebox", ("--route", "jukebox")), ("autoregressive", ("--lower", "autoregressive")),
    )}  # fmt: skip
    assert {name: run.request["route"] for name, run in runs.items()} == {
        "route": "masked", "lower": "masked", "default": "jukebox", "jukebox": "jukebox", "autoregressive": "jukebox"
    }  # fmt: skip
    for same in (("route", "lower"), ("default", "jukebox", "autoregressive")):
        assert all(runs[name].request == runs[same[0]].request for name in same)
        first, *others = (sorted((tmp_path / name / "codes").iterdir()) for name in same)
        for other in others:
            assert [path.name for path in first] == [path.name for path in other]
            assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, other, strict=True))
    assert np.array_equal(runs["route"].codes(2), runs["default"].codes(2))
    assert not np.array_equal(runs["route"].codes(1), runs["default"].codes(1))


def test_a_route_that_cannot_be_is_one_line(model, tmp_path, capsys):
    for flags, message in (
        (("--route", "flow"), "has no route 'flow'; it has jukebox, masked"),
        (("--route", "jukebox", "--lower", "masked"), "--lower masked is route masked; give it or --route jukebox, not both"),
        (("--lower", "both"), "--lower got 'both', expected one of"),
    ):
        assert main(["sample", str(model.folder), "--out", str(tmp_path / "run"), *flags]) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_levels_of_a_route_without_a_trained_prior_are_one_line(model, tmp_path):
    config = json.loads((model.folder / "config.json").read_text())
    config["priors"] = [prior for prior in config["priors"] if prior["name"] != "prior_0"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    info = ModelInfo.read(tmp_path)
    with pytest.raises(UserError, match=r"no prior for level 0; run `jukebox train prior --level 0`.*, or give --route masked"):
        sampled(info, [Song()], 0.2, RunSettings())
    assert sampled(info, [Song()], 0.2, RunSettings(SamplingOptions(route="masked")))["levels"] == [2, 1, 0]
    assert sampled(info, [Song()], 0.2, RunSettings(SamplingOptions(levels=(2, 1))))["levels"] == [2, 1]
