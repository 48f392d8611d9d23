"""The figures of a model of recordings, and the claims on them."""

from __future__ import annotations

import copy
import csv
import json

import numpy as np
import pytest

from data_prep.files import write_json
from launch.cli import main
from launch.learn.__main__ import STEPS
from launch.learn.evidence import CLAIMS, FILE, check, chroma_correlation, measure, timbre_distance

RATE = 22050
GOOD = {
    "codec": {
        "held-out tracks": {"frechet": 10.0, "peakiness": 0.7},
        "decoded from tokens": {"frechet": 12.0, "mel_db": 1.7, "worst_band_db": 1.0, "peakiness": 0.68},
        "noise of the same spectrum": {"frechet": 60.0},
    },
    "prior": {"tokens": {"bits": 30.0}, "unigram": {"bits": 60.0}, "another artist and genre": {"z_songs": 4.0}},
    "continuations": {
        "new parts": {"frechet": 20.0, "chroma": 0.5, "timbre_db": 5.0, "tempo_kept": 0.5},
        "beside another prompt": {"chroma": 0.1, "timbre_db": 9.0},
        "noise of the same spectrum": {"frechet": 60.0},
        "true continuations": {"tempo_kept": 0.8},
    },
}


def chord(*hz: float) -> np.ndarray:
    time = np.arange(2 * RATE) / RATE
    return sum(np.sin(2 * np.pi * f * time) for f in hz)[None].astype(np.float32) / 9


def test_a_model_is_measured_beside_its_controls_and_gathered_into_tables(learned, tiny_model, tmp_path, capfd):
    measure(learned.model, learned.beside("data"), learned.beside("figures"), tiny_model.folder, 2, 0, (1.5, 2.0))
    found = json.loads((learned.beside("figures") / FILE).read_text(encoding="utf-8"))
    streams = [f"decoded from {name}" for name in ("tokens", "spectral", "vq.0", "vq.1", "vq.2")]
    assert set(found["codec"]) == {"held-out tracks", *streams, "noise of the same spectrum"}
    assert found["codec"]["held-out tracks"]["mel_db"] == 0 < found["codec"]["decoded from tokens"]["mel_db"]
    assert found["codec"]["decoded from spectral"]["effective_dimension"] >= 1
    assert {"new parts", "beside another prompt", "true continuations", "noise of the same spectrum"} <= set(
        found["continuations"]
    )
    assert 0 < found["prior"]["tokens"]["bits"] < 12 and 0 < found["prior"]["unigram"]["bits"] <= 10.1
    assert main(["figures", str(learned.model), str(learned.beside("data"))], STEPS) == 0  # measured already
    assert main(["gather", str(learned.model), "--to", str(tmp_path)], STEPS) == 0
    assert "codec: mel distance, dB" in capfd.readouterr().out
    table = list(csv.DictReader((tmp_path / "recordings.csv").open(encoding="utf-8")))
    assert {"mine"} == {row["model"] for row in table}
    assert {"training", "codec", "prior", "continuations"} == {row["part"] for row in table}
    steps = {row["row"]: float(row["value"]) for row in table if row["part"] == "training" and row["figure"] == "steps"}
    assert steps.keys() == {"spectral", "tokens"} and min(steps.values()) >= 1
    assert len(json.loads((tmp_path / "recordings.json").read_text(encoding="utf-8"))["claims"]) == len(CLAIMS)


def test_figures_of_models_that_are_not_gathered_again_are_kept(tmp_path):
    for name, figures in {"main": GOOD, "half": copy.deepcopy(GOOD) | {"codec": {}}}.items():
        write_json(tmp_path / f"{name}_figures" / FILE, figures)
        assert main(["gather", str(tmp_path / name), "--to", str(tmp_path)], STEPS) == 0
    found = json.loads((tmp_path / "recordings.json").read_text(encoding="utf-8"))
    assert list(found["models"]) == ["main", "half"] and all(claim["met"] for claim in found["claims"])
    assert found["claims"][2]["models"] == {"main": 1.7, "half": None} and found["claims"][2]["figure"] == 1.7


def test_all_claims_hold_of_good_figures_and_none_of_figures_that_are_missing():
    assert all(claim.met for claim in check(GOOD))
    assert not any(claim.met for claim in check({"codec": {}, "prior": {}, "continuations": {}}))


@pytest.mark.parametrize("number", range(len(CLAIMS)))
def test_a_claim_fails_with_its_figure(number):
    _, part, row, figure, _, relation, _ = CLAIMS[number]
    bad = copy.deepcopy(GOOD)
    bad[part][row][figure] *= 10 if relation == "<=" else 0.1
    assert not list(check(bad))[number].met


def test_chroma_and_timbre_are_nearer_to_the_same_notes_and_instrument():
    a, same, other = chord(220, 277, 330), chord(220, 277, 330, 440), chord(233, 294, 349)
    assert chroma_correlation(a, same, RATE) > 0.8 > 0.2 > chroma_correlation(a, other, RATE)
    assert timbre_distance(a, same, RATE) < timbre_distance(a, chord(2200, 3300), RATE)
