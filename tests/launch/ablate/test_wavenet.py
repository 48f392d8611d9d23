"""The ablation of WaveNet and NSynth at toy size: probes leave their figures, and the table has five models with their sizes."""

from __future__ import annotations

import pytest

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from launch.ablate import wavenet


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavenet")
    corpus = make_corpus(folder / "corpus", 4, seconds=2.0, workers=0)
    prepare(corpus / "songs.jsonl", folder / "data", test_share=0.3, workers=1)
    return folder / "data"


def test_the_figure_of_the_thread_names_its_curves():
    agreement = {"made": [1.0, 0.4], "true": [1.0, 1.0], "of_another_piece": [0.2, 0.3]}
    svg = wavenet.thread_svg({"seconds": 0.05, "agreement": agreement})
    assert svg.startswith("<svg") and all(name in svg for name in ("made", "true", "of another piece"))


@pytest.mark.long
def test_the_table_has_a_row_per_model_with_its_sizes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(wavenet, "SECONDS", 0.1)
    monkeypatch.setattr(wavenet, "TIMED", 1)
    units = [u for u in wavenet.EXPERIMENT.units(str(data), "", tmp_path, 1, 10, 1, "test_wavenet") if "model" in u.arm.keys]
    wavenet.check(units[0])
    found = {unit.arm.keys["model"]: wavenet.EXPERIMENT.run(unit) for unit in units}
    rows = wavenet.EXPERIMENT.summary(list(found.values()))["rows"]
    assert sum(row["what"].endswith("mel distance, dB") for row in rows) == 5
    numbers = {name: each["table"]["numbers_per_second"] for name, each in found.items()}
    assert numbers["NSynth"] == numbers["spectral"] == pytest.approx(22050 / 512 * 16)
    assert numbers["vqvae"] == numbers["argmax"] == numbers["WaveNet of vq.2"] == pytest.approx(22050 / 128)
    assert all(0 < each["table"]["speed"] and each["table"]["steps"] >= 2 for each in found.values())
    assert (tmp_path / "units" / "table_nsynth_0" / "song_0" / "made.wav").is_file()


@pytest.mark.long
@pytest.mark.parametrize("name", ["period_193", "notes", "nsynth"])
def test_a_probe_leaves_its_rows(name, tmp_path):
    (unit,) = [u for u in wavenet.EXPERIMENT.units("data", "", tmp_path, 1, 2, 1) if u.arm.name == name]
    rows = wavenet.EXPERIMENT.summary([wavenet.EXPERIMENT.run(unit)])["rows"]
    assert len(rows) == {"period_193": 4, "notes": 7, "nsynth": 13}[name]
