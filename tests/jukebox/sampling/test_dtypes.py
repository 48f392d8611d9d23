"""A model in every dtype, and runs that record their dtype and whether their steps are compiled."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.folder import DTYPES
from jukebox.runs.request import sampled, should_compile
from jukebox.sampling.walk import replay
from jukebox.song import Song
from priors.autoregressive import native
from priors.conditioning.conditions import Conditions
from tests.runs import sample, settings_of

SECONDS = 0.25
compiler = pytest.mark.skipif(native.why_not() is not None, reason="no C++ compiler here")


@torch.no_grad()
def test_every_dtype_has_nearly_the_same_likelihood(tiny_model):
    whole = tiny_model.prior("prior_2")
    codes = {"vq.2": torch.randint(0, 8, (2, whole.config.n_ctx), generator=torch.Generator().manual_seed(0))}
    mean = whole.nll(codes, Conditions())["vq.2"].mean()
    for dtype in DTYPES:
        prior = tiny_model.prior("prior_2", dtype)
        assert prior.x_emb.weight.dtype == DTYPES[dtype]
        change = (prior.nll(codes, Conditions())["vq.2"].mean() / mean - 1).abs()
        assert change < 0.02 and (change > 0) == (dtype != "float32"), dtype
    with pytest.raises(UserError, match="expected one of float32"):
        tiny_model.prior("prior_2", "int4")


@compiler
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_run_keeps_its_dtype_and_its_compiled_steps_and_is_replayed_with_them(tiny_model, tmp_path, dtype):
    run = sample(tiny_model, [Song()], SECONDS, tmp_path / "run", dtype=dtype, compile="on")
    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (asked["dtype"], asked["compile"], asked["compiled"]) == (dtype, "on", True)
    again = replay(tmp_path / "run", tmp_path / "again")
    assert again.request["compiled"] and all(np.array_equal(run.codes(l), again.codes(l)) for l in (2, 1, 0))


@compiler
@pytest.mark.parametrize("choice", ["auto", "off"])
def test_steps_of_short_runs_are_compiled_on_a_cpu_unless_that_is_off(tiny_model, tmp_path, choice):
    run = sample(tiny_model, [Song()], 0.1, tmp_path / "run", levels=(2,), device="cpu", compile=choice)
    assert run.request["compile"] == choice and run.request["compiled"] is (choice == "auto")


def test_without_a_compiler_steps_are_plain(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "why_not", lambda *_: "no C++ compiler was found")
    run = sample(tiny_model, [Song()], 0.1, tmp_path / "run", levels=(2,), device="cpu")
    assert run.request["compile"] == "auto" and run.request["compiled"] is False


def test_on_a_gpu_few_codes_are_not_worth_a_capture(tiny_model):
    asked = dict(sampled(tiny_model.info, [Song()], 0.1, settings_of(tiny_model, levels=(2,))))
    assert not should_compile(tiny_model.info, asked | {"device": "cuda"})
    assert should_compile(tiny_model.info, asked | {"device": "cuda", "seconds": 1e4})
    assert should_compile(tiny_model.info, asked | {"device": "cpu"})


def test_steps_that_cannot_be_compiled_raise_where_they_were_asked_for(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "why_not", lambda *_: "no C++ compiler was found")
    with pytest.raises(UserError, match="--compile on cannot be: no C"):
        sample(tiny_model, [Song()], SECONDS, tmp_path / "run", compile="on")
