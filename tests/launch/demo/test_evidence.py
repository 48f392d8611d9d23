"""The figures of a seed and the tables over seeds, at toy size: all rows are there, and what is written can be read."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from launch.demo import evidence as E
from launch.demo.claims import CONTROLS

from .conftest import LENGTHS, PLAN


@pytest.fixture(scope="module")
def measured(sampled):
    E.measure(sampled, 0, PLAN, LENGTHS)
    return sampled


def test_the_figures_of_a_seed_have_songs_and_every_control(measured):
    found = E.read_json(measured / E.FIGURES)
    rows = {row["what"]: row for row in found["rows"]}
    assert set(CONTROLS) <= set(rows) and {"reconstructed", "minute, last part"} <= set(rows) and len(found["recogniser"]) == 12
    assert rows["held-out songs"]["mel_db"] == 0 < rows["reconstructed"]["mel_db"]
    assert rows["continued, new part"]["seconds"] == pytest.approx(PLAN.new, abs=0.1)
    assert rows["training songs of the same labels"]["shared_s"] > rows["held-out songs"]["shared_s"]
    assert rows["training songs of the same labels"]["nearest_song"] == pytest.approx(0, abs=1e-5)


def test_a_seed_that_was_measured_is_not_measured_again(measured):
    before = (measured / E.FIGURES).stat().st_mtime_ns
    E.figures(str(measured))
    assert (measured / E.FIGURES).stat().st_mtime_ns == before


def test_gather_prints_and_writes_rows_and_claims(measured, capsys):
    E.gather(measured.parent, {0: measured, 7: measured})
    printed, found = capsys.readouterr().out, json.loads((measured.parent / "evidence.json").read_text())
    assert "held-out songs" in printed and "Frechet distance of songs" in printed
    assert {row["frechet_se"] for row in found["rows"]} == {0.0} and {type(claim["met"]) for claim in found["claims"]} == {bool}
    lines = list(csv.DictReader((measured.parent / "evidence.csv").read_text().splitlines()))
    assert {line["figure"] for line in lines} >= {"frechet", "frechet_se", "attack_ms", "pieces"}


def test_a_figure_that_one_seed_lacks_is_not_a_number_there_and_does_not_count():
    values = E.over_seeds([[{"what": "a", "x": 1.0}, {"what": "b", "x": 3.0}], [{"what": "a", "x": None}]])
    assert np.isnan(values["a"]["x"][1]) and np.isnan(values["b"]["x"][1])
    assert E.mean_rows(values)[0] == {"what": "a", "x": 1.0, "x_se": None}


def test_three_seeds_are_trained_beside_each_other_and_the_recogniser_first(tmp_path, monkeypatch):
    seen: list[list[list[str]]] = []
    monkeypatch.setattr(E, "run_lanes", lambda out, lanes, names: seen.extend(lanes))
    monkeypatch.setattr(E, "make_corpus", lambda *args, **more: None)
    monkeypatch.setattr(E, "gather", lambda out, folders: None)
    E.make_evidence(tmp_path, 20, 0, 1.0, "test_spectral")
    assert len(seen) == E.SEEDS
    for lane in seen:
        verbs = [command[0] for command in lane]
        assert verbs == ["prepare", "recogniser", "train", "encode", "train", "songs", "figures"]
    assert [lane[5][lane[5].index("--longest") + 1] for lane in seen] == ["180", "0", "0"]
