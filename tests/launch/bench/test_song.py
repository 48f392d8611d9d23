"""The bench of songs: which cases a model has, that songs are sampled by the way of every run, and its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from jukebox.loaded import LoadedModel
from jukebox.model.folder import ModelFolder, build_codec, build_prior
from jukebox.model.presets import PRESETS
from launch.bench import song as S
from launch.bench.bench import bench


def model_of(folder: Path, *presets: str) -> LoadedModel:
    """A model folder with random weights of all that the presets have but masked priors."""
    torch.manual_seed(0)
    for preset in (PRESETS[name] for name in presets):
        model = ModelFolder.create(folder, preset.codec, routes=preset.routes)
        model.save_codec(build_codec(preset.codec))
        for name, config in preset.priors.items():
            if name != "masked":
                model.save_prior(name, build_prior(config))
    return LoadedModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> LoadedModel:
    return model_of(tmp_path_factory.mktemp("both"), "test_spectral", "test")


def test_the_three_levels_are_measured_only_where_they_are_not_the_default_and_have_priors(both, tmp_path):
    cases = S.cases_of(both.info, 12, 20.0)
    assert [(case.songs, case.route) for case in cases] == [(1, "spectral"), (12, "spectral"), (1, "jukebox")]
    assert cases[-1].seconds == S.SHORT
    for preset in ("test", "test_spectral"):
        assert len(S.cases_of(model_of(tmp_path / preset, preset).info, 12, 20.0)) == 2


def test_songs_are_sampled_to_whole_frames_of_each_level_of_the_route(both):
    job = {"threads": 1, "seed": 0, "device": "cpu"}
    one = S.sample_case(both, S.SongCase("", 1, 0.5, "jukebox"), job)
    some = S.sample_case(both, S.SongCase("", 3, 0.5, "spectral"), job)
    assert set(one.frames) == {"vq.2", "vq.1", "vq.0"} and set(some.frames) == {"tokens"}
    assert len(some.frames["tokens"]) == 3 and some.prior_seconds > 0
    assert (some.frames["tokens"][0] != some.frames["tokens"][1]).any()  # takes differ
    parts = S.parts_of(both, [some, some._replace(prior_seconds=7.0)])
    assert parts["prior_seconds"] == 7.0 and parts["decoder_seconds"] > 0


def test_rows_have_rates_shares_and_the_ratio_of_the_routes():
    cases = [S.SongCase("one song", 1, 20.0, "spectral"), S.SongCase("one song, jukebox", 1, 2.0, "jukebox")]
    parts = {
        "one song": {"prior_seconds": 1.0, "decoder_seconds": 0.5},
        "one song, jukebox": {"prior_seconds": 8.0, "decoder_seconds": 1.0},
    }
    rows = S.case_rows(1, {cases[0]: [(2.0, 2.0)], cases[1]: [(10.0, 9.0)]}, {"parts": parts, "peak_mb": 100.0})
    assert rows[0]["music_seconds_per_second"] == 10 and (rows[0]["prior_share"], rows[0]["decoder_share"]) == (0.5, 0.25)
    assert rows[1]["times_slower"] == pytest.approx(50) and "times_slower" not in rows[0]


def test_the_table_prints_start_up_apart_and_is_written_as_json(tmp_path, capsys):
    model = model_of(tmp_path / "model", "test_spectral")
    rows = bench("song", str(model.folder), batch=2, seconds=0.5, repeats=1, threads=1, out=str(tmp_path / "table.json"))
    assert [row["case"] for row in rows] == ["start-up", "one song", "batch of 2"]
    assert rows[0]["seconds"] == pytest.approx(sum(rows[0][part] for part in S.START_UP))
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert "first second of music" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="takes a MODEL"):
        bench("song")
    with pytest.raises(UserError, match="--repeats 0"):
        bench("song", str(model_of(tmp_path, "test_spectral").folder), repeats=0)
