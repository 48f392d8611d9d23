"""The demo, at toy size but whole: real processes, every verb, pages and tables; and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.demo.lanes import run_lanes

CALL = [sys.executable, "-c", "import sys; from launch.cli import main; sys.exit(main())"]
DEMO = [*CALL, "demo", "--songs", "32", "--preset", "test_both", "--seconds", "5"]


def start(out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*DEMO, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.long
def test_the_demo_leaves_corpus_data_model_song_and_continuation_and_survives_a_kill(tmp_path):
    out = tmp_path / "demo"
    first = start(out)
    while not list(out.glob("model/training/vqvae_*/step_*")):  # in the middle of training the codec
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = start(out)
    said = second.communicate(timeout=600)[0]
    assert second.returncode == 0, said
    assert "unigram entropy" in said and "held-out songs" in said and "song, level 4" in said and "noise of the same" in said
    for name in ("corpus/songs.jsonl", "data/manifest.parquet", "model/config.json", "song/index.html", "continued/index.html"):
        assert (out / name).is_file(), name
    for run, level in (("song", 4), ("continued", 4), ("song_levels", 0)):
        assert (out / run / "audio" / f"level_{level}_sample_0.wav").is_file()
    assert len(list((out / "continued" / "audio").glob("joined_level_4_sample_0.*"))) == 1
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 3 and "route spectral" in page and "route jukebox" in page
    figures = json.loads((out / "evaluation.json").read_text())
    for prior in ("2", "tokens"):
        assert {"lyrics", "letters", "plain", "labels", "artist", "genre", "timing"} == set(
            figures["priors"][prior]["controls"]
        )
    assert {"codec", "priors", "sound", "songs"} <= set(figures)

    third = subprocess.run([*DEMO, "--out", str(out)], capture_output=True, text=True, timeout=300)
    assert third.returncode == 0 and "was trained already" in (out / "logs" / "train_vqvae_2.log").read_text()


def test_a_verb_that_fails_ends_the_others_and_is_named_with_its_last_line(tmp_path):
    from data_prep.errors import UserError

    with pytest.raises(UserError, match=r"(sample|evaluate) failed: .*no config\.json"):
        run_lanes(
            tmp_path, [[["sample", str(tmp_path), "--out", str(tmp_path / "x")]], [["evaluate", str(tmp_path), "nothing"]]]
        )


def test_lanes_beside_each_other_have_logs_of_their_own_and_steps_are_called_like_verbs(tmp_path):
    from data_prep.errors import UserError

    step = ["recogniser", str(tmp_path / "nothing"), "--out", str(tmp_path / "r")]
    with pytest.raises(UserError, match=r"seed_\d_recogniser failed: .*nothing"):
        run_lanes(tmp_path, [[step], [step]], ["seed_0", "seed_1"])
    assert {log.name for log in (tmp_path / "logs").iterdir()} == {"seed_0_recogniser.log", "seed_1_recogniser.log"}
