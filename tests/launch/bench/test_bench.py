"""The bench: its limit is measured on the products of a decoding step, and it prints a reason if it cannot measure."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import PRESETS
from launch.bench.bench import _products_of_a_step, bench, conditions_of, measure
from priors.autoregressive.model import AutoregressivePrior

PRESET = PRESETS["test"]


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    made = ModelFolder.create(tmp_path / "model", PRESET.codec)
    for name in PRESET.parts("autoregressive"):
        made.save_prior(name, AutoregressivePrior(PRESET.priors[name]))
    return tmp_path / "model"


@pytest.mark.parametrize("name", PRESET.parts("autoregressive"))
def test_the_limit_reads_every_weight_that_a_step_needs_and_nothing_else(name):
    prior = AutoregressivePrior(PRESET.priors[name]).eval()
    products = _products_of_a_step(prior, conditions_of(prior, 1, 0), torch.zeros(1, 0, dtype=torch.long))
    read = {t.untyped_storage().data_ptr() for _, args in products for t in args if isinstance(t, torch.Tensor)}
    matrices = {n: p.untyped_storage().data_ptr() for n, p in prior.named_parameters() if p.ndim == 2}
    trunk = {n for n, where in matrices.items() if where in read}
    assert any(n.startswith("trunk.") for n in trunk)
    assert not any(n.startswith(("upsampler", "lyric_encoder", "labels")) for n in trunk), "those run once a window"
    needed = {n for n in matrices if n.startswith("trunk.") and ".mlp." in n} | {"x_out.weight"} & set(matrices)
    assert needed <= trunk


def test_codes_are_drawn_slower_by_plain_steps_than_the_products_alone_allow(model):
    rate, limit = measure(ModelFolder.from_pretrained(model).prior("prior_2"), batch=2, seconds=0.2)
    assert 0 < rate < limit


def test_what_is_measured_are_the_steps_that_runs_take(model, monkeypatch):
    seen: list[bool] = []
    monkeypatch.setattr("launch.bench.bench.measure", lambda prior, *_: seen.append(prior.compiled) or (1.0, 1.0))
    for why in (None, "no C++ compiler was found"):
        monkeypatch.setattr("priors.autoregressive.native.why_not", lambda *_, why=why: why)
        rows = bench("sample", str(model))
        assert {row["compiled"] for row in rows} == set(seen) == {why is None}
        seen.clear()


def test_the_table_has_a_row_a_level_and_is_written_as_json(model, tmp_path, capsys):
    rows = bench("sample", str(model), seconds=0.05, out=str(tmp_path / "table.json"))
    assert [row["level"] for row in rows] == [2, 1, 0]
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert len(capsys.readouterr().out.splitlines()) == 5


BENCHES = {
    "codec": "codec.bench_codec", "prior": "prior.bench_prior", "attention": "attention.bench_attention",
    "train": "train.bench_train", "upsample": "upsample.bench_upsample", "sample": "sample.bench_sample",
    "song MODEL": "song.bench_song", "upsample MODEL": "upsample.compare_sound", "sample MODEL": "bench.bench_priors",
}  # fmt: skip


@pytest.mark.parametrize("case", BENCHES)
def test_every_bench_runs_on_the_device_that_is_asked_for(case, monkeypatch):
    seen: list[object] = []
    monkeypatch.setattr(f"launch.bench.{BENCHES[case]}", lambda *args, **named: seen.extend([*args, *named.values()]) or [])
    what, *model = case.split()
    more = {"data": "DATA"} if case == "upsample MODEL" else {}
    with pytest.raises(UserError, match="no GPU here for --device cuda"):
        bench(what, *model, device="cuda", **more)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    bench(what, *model, device="cuda:1", **more)
    assert "cuda:1" in seen


def test_a_peer_is_compared_with_a_cpu_only(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (tmp_path / "python").touch()
    for what in ("codec", "prior", "sample"):
        with pytest.raises(UserError, match="cannot be compared with --device cuda; add --device cpu"):
            bench(what, peer=str(tmp_path / "python"), device="cuda")


def test_a_model_without_priors_and_a_peer_that_is_not_there_are_told(model, tmp_path):
    ModelFolder.create(tmp_path / "empty", PRESET.codec)
    with pytest.raises(UserError, match="has no priors yet"):
        bench("sample", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="--peer got"):
        bench("sample", str(model), seconds=0.01, peer=str(tmp_path / "no-python"))
