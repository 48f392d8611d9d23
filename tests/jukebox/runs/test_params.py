"""Sampling parameters of each level of a route: from one object, from that of a kind of prior, or by stream."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.params import SamplingOptions, SamplingParams
from jukebox.runs.params import Params, params_by_level
from jukebox.runs.request import RunSettings, extended, sampled, upsampled
from jukebox.runs.run import Run
from jukebox.song import Song
from priors.autoregressive.config import AutoregressiveParams
from priors.masked.config import MaskedParams
from tests.jukebox.sampling.models import with_masked_prior

FIRST = {"temperature": 0.98, "top_k": 0, "top_p": 0.0, "guidance": 1.0, "published": False}
LOWER = FIRST | {"temperature": 0.9}
MASKED = {"temperature": 0.9, "top_k": 0, "top_p": 0.0, "passes": 24, "noise": 4.5}


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Jukebox:
    return with_masked_prior(tiny_model, tmp_path_factory.mktemp("params") / "model")


def by_level(model: Jukebox, route: str, params: Params | None) -> dict:
    return params_by_level(model.info, model.info.route(route), params)


def assert_raises_one_line(model: Jukebox, route: str, params: Params, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        by_level(model, route, params)
    assert "\n" not in str(error.value)


# ---- one object for all levels


def test_without_parameters_levels_have_those_of_sampling_params(model):
    assert by_level(model, "jukebox", None) == {"2": FIRST, "1": LOWER, "0": LOWER}
    assert by_level(model, "masked", None) == {"2": FIRST, "1": MASKED, "0": MASKED | {"passes": 12}}
    for route in ("jukebox", "masked"):
        assert by_level(model, route, None) == by_level(model, route, SamplingParams())


def test_sampling_params_apply_where_a_prior_has_them(model):
    params = SamplingParams(temperature=1.2, temperature_lower=0.5, top_k=7, top_p=0.8, guidance=2.0)
    filters = {"top_k": 7, "top_p": 0.8}
    lower = FIRST | filters | {"temperature": 0.5}
    assert by_level(model, "jukebox", params) == {"2": lower | {"temperature": 1.2, "guidance": 2.0}, "1": lower, "0": lower}
    masked = by_level(model, "masked", SamplingParams(temperature=1.2, noise=2.0, passes=(6, 3)))
    assert masked["2"] == FIRST | {"temperature": 1.2}
    assert masked["1"] == MASKED | {"noise": 2.0, "passes": 6} and masked["0"] == MASKED | {"noise": 2.0, "passes": 3}


def test_parameters_of_a_kind_of_prior_apply_to_every_level_that_has_their_fields(model):
    kind = AutoregressiveParams(temperature=0.7, guidance=1.5)
    assert by_level(model, "jukebox", kind) == dict.fromkeys("210", vars(kind))
    mixed = by_level(model, "masked", MaskedParams(temperature=0.7, passes=5))
    assert mixed["2"] == FIRST | {"temperature": 0.7}
    assert mixed["1"] == mixed["0"] == {"temperature": 0.7, "top_k": 0, "top_p": 0.0, "passes": 5, "noise": 4.5}


# ---- by stream


def test_a_mapping_gives_streams_their_own_parameters_and_leaves_the_others(model):
    params = {"vq.1": MaskedParams(0.4, passes=8), "vq.2": AutoregressiveParams(guidance=3.0)}
    made = by_level(model, "masked", params)
    assert made["1"] == vars(MaskedParams(0.4, passes=8)) and made["2"] == vars(AutoregressiveParams(guidance=3.0))
    assert made["0"] == MASKED | {"passes": 12}


def test_a_mapping_takes_fields_by_name(model):
    made = by_level(model, "jukebox", {"vq.0": {"top_k": 3, "temperature": 0.6}})
    assert made["0"] == vars(AutoregressiveParams(0.6, 3)) and made["1"] == LOWER


def test_sampling_params_of_a_stream_are_those_of_that_stream_alone(model):
    made = by_level(model, "masked", {"vq.1": SamplingParams(temperature=0.3, passes=(5,)), "vq.0": SamplingParams(top_k=2)})
    assert made["1"] == MASKED | {"temperature": 0.3, "passes": 5}
    assert made["0"] == MASKED | {"temperature": 0.98, "top_k": 2, "passes": 12} and made["2"] == FIRST


def test_more_parameters_apply_by_name_where_a_prior_has_them(model):
    made = by_level(model, "masked", SamplingParams(more={"published": True}))
    assert made["2"] == FIRST | {"published": True} and made["1"] == MASKED


# ---- what raises


@pytest.mark.parametrize(
    ("route", "params", "message"),
    [
        ("jukebox", SamplingParams(passes=(3, 2)), "no prior of this route has --passes"),
        ("jukebox", SamplingParams(noise=1.0), "no prior of this route has --noise"),
        (
            "jukebox",
            MaskedParams(),
            "no prior of this route has the parameter 'noise'; it has guidance, published, temperature",
        ),
        ("masked", SamplingParams(passes=(3,)), "expected 2 numbers from 1"),
        ("masked", {"vq.1": {"guidance": 2.0}}, "has the parameter 'guidance'"),
        ("masked", {"vq.1": AutoregressiveParams()}, "has the parameter 'guidance'"),
        ("masked", {"vq.1": SamplingParams(guidance=2.0)}, "has --guidance"),
        ("jukebox", {"vq.7": AutoregressiveParams()}, "parameters of 'vq.7'; the route jukebox writes vq.2, vq.1, vq.0"),
        ("jukebox", {"vq.2": 0.9}, "parameters 0.9; expected SamplingParams"),
        ("jukebox", SamplingParams(more={"steps": 3}), "no prior of this route has --steps"),
        ("jukebox", "warm", "parameters 'warm'; expected SamplingParams"),
    ],
)
def test_a_field_that_no_prior_of_the_route_has_raises(model, route, params, message):
    assert_raises_one_line(model, route, params, message)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=-0.1),
        SamplingParams(temperature_lower=-0.1),
        SamplingParams(top_k=-1),
        SamplingParams(top_p=1.1),
        SamplingParams(top_p=-0.1),
        {"vq.1": MaskedParams(passes=-1)},
        {"vq.2": AutoregressiveParams(-1.0)},
    ],
)
def test_values_out_of_range_raise(model, params):
    assert_raises_one_line(model, "masked", params, r"must not be negative, top_p lies in \[0, 1\]")


def test_values_at_the_ends_of_their_range_are_kept(model):
    made = by_level(model, "jukebox", SamplingParams(temperature=0.0, top_p=1.0, top_k=1))
    assert (made["2"]["temperature"], made["2"]["top_p"], made["2"]["top_k"]) == (0.0, 1.0, 1)


# ---- of a run that goes on


@pytest.fixture
def top(model, tmp_path) -> Run:
    """A run of the coarsest level with parameters of its own."""
    settings = RunSettings(
        SamplingOptions(route="masked", levels=(2,)), {"vq.2": AutoregressiveParams(0.5), "vq.1": MaskedParams(passes=7)}
    )
    run = Run.create(tmp_path / "top", sampled(model.info, [Song()], 0.1, settings))
    run.append(2, [0], 0, np.zeros((1, run.total(2)), np.int64), 0.0)
    return run


def test_a_run_that_goes_on_keeps_the_parameters_that_are_not_given_again(top):
    for made in (extended(top, RunSettings()), upsampled(top, RunSettings())):
        assert made["params"]["2"]["temperature"] == 0.5 and made["params"]["1"]["passes"] == 7
        assert made["params"]["0"]["passes"] == 12
    fewer = upsampled(top, RunSettings(params=SamplingParams(passes=(3, 2))))["params"]
    assert (fewer["1"]["passes"], fewer["0"]["passes"], fewer["2"]["temperature"]) == (3, 2, 0.5)


def test_parameters_given_by_stream_count_though_they_are_the_defaults(top):
    made = upsampled(top, RunSettings(params={"vq.1": MaskedParams(passes=24)}))["params"]
    assert made["1"] == vars(MaskedParams(passes=24)) and made["2"]["temperature"] == 0.5
