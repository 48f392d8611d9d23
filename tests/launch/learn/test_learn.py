"""`jukebox learn` at toy size, but whole: every stage is a real verb; and what a kill in each of them leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from data_prep.pool import usable_cores
from data_prep.synthetic.songs import make_corpus
from jukebox.model.presets import PRESETS
from launch.cli import main
from launch.learn.learn import Learning
from launch.learn.plan import (
    CODEC,
    FAST,
    FEWEST,
    LEAST,
    PASSES,
    PRIOR,
    SEMITONES,
    LearnPlan,
    make_plan,
    most_steps,
    plan_lines,
    preset_for,
)

FLAGS = ["--preset", "test_spectral", "--hours", "0.0005", "--threads", "1"]
STAGES = ["prepare", "train spectral", "encode", "train tokens", "evaluate", "sample", "continue"]


def test_music_becomes_a_model_a_song_a_continuation_and_a_page_and_is_not_learned_twice(learned, capfd):
    printed = learned.printed
    assert printed.index("preset test_spectral, 22050 Hz, for 2 s") < printed.index("--- prepare")
    typed = [line[len("$ jukebox ") :].split()[0] for line in printed.splitlines() if line.startswith("$ jukebox ")]
    assert typed == ["prepare", "train", "encode", "train", "evaluate", "sample", "continue"]
    state = json.loads((learned.model / "learn.json").read_text(encoding="utf-8"))
    assert state["done"] == [*STAGES, "page"]
    page = (learned.beside("songs") / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 2 and "Held-out track, continued" in page
    assert main(learned.command) == 0 and "$ jukebox" not in capfd.readouterr().out
    assert main([*learned.command, "--seed", "1"]) == 2
    assert "was begun with seed 0; give the same, or name another --out" in capfd.readouterr().err


@pytest.mark.long
def test_one_song_is_learned(tmp_path, capfd):
    make_corpus(tmp_path / "corpus", 1, seconds=10.0, workers=1)
    song = next((tmp_path / "corpus").glob("*.wav"))
    assert main(["learn", str(song), "--out", str(tmp_path / "one"), *FLAGS]) == 0
    said = capfd.readouterr().out
    assert "each is cut" in said and "unigram entropy" in said and (tmp_path / "one_songs" / "index.html").is_file()


def test_an_evaluation_that_the_music_is_too_short_for_is_left_out(tmp_path, capfd):
    given = {"music": [str(tmp_path / "m")], "hours": 1.0, "preset": "", "held_out": 0, "seed": 0}
    learning = Learning(tmp_path / "model", given, 0, "cpu")
    learning._run_stage("evaluate", ["evaluate", str(tmp_path / "none"), str(tmp_path)])
    assert learning.state["done"] == ["evaluate"] and "without an evaluation" in capfd.readouterr().out
    with pytest.raises(SystemExit) as ended:
        learning._run_stage("encode", ["encode", str(tmp_path), str(tmp_path / "none")])
    assert ended.value.code == 2 and learning.state["done"] == ["evaluate"]


def test_sizes_follow_the_hours_and_steps_the_machine():
    assert [preset_for("", hours, "cpu") for hours in (0.2, 2.0, 12.0)] == [
        "recordings_small",
        "recordings",
        "recordings_large",
    ]
    short, long = (make_plan("test_spectral", hours, "cpu", 1e9) for hours in (0.01, 0.1))
    assert isinstance(short, LearnPlan) and 3 < long.codec_steps / short.codec_steps < 30
    assert {"recordings_small", "recordings", "recordings_large"} <= set(PRESETS)
    stages = [[line.split()[0] for line in plan_lines(short, 8, 32.0, 0.01, prepared)[1:]] for prepared in (False, True)]
    assert stages[0] == ["prepare", *stages[1]] == ["prepare", "codec", "encode", "prior", "evaluate", "sample", "continue"]


def test_a_prior_reads_the_music_a_few_times_and_the_codec_gets_the_rest_of_the_time():
    recipe, prior = PRESETS["test_spectral"].prior_recipes["tokens"], PRESETS["test_spectral"].priors["tokens"]
    window = prior.n_ctx * prior.hop / prior.sample_rate
    assert most_steps(recipe, prior, 1000 * recipe.batch * window) == 1000 * PASSES
    assert most_steps(recipe, prior, 10.0) == FEWEST
    plan = make_plan("test_spectral", 0.5, "cpu", 5.0)
    assert plan.prior_steps == FEWEST and plan.prior_minutes < 1 < 30 * PRIOR < plan.codec_minutes
    transposed = len(SEMITONES) * 5.0 / FAST["encode"] / usable_cores() / 60  # minutes
    assert plan.codec_minutes + plan.prior_minutes + transposed == pytest.approx(30 * (CODEC + PRIOR))


def test_little_music_is_encoded_transposed_too_so_that_the_prior_has_more_of_it():
    recipe, prior = PRESETS["test_spectral"].prior_recipes["tokens"], PRESETS["test_spectral"].priors["tokens"]
    little, enough = (make_plan("test_spectral", 0.02, "cpu", seconds) for seconds in (600.0, 1e9))
    assert (little.semitones, enough.semitones) == (SEMITONES, ())
    assert most_steps(recipe, prior, 600.0) < little.prior_steps <= most_steps(recipe, prior, 600.0 * (1 + len(SEMITONES)))
    assert little.codec_minutes >= LEAST * 60 * 0.02
    lines = ["\n".join(plan_lines(plan, 8, 600.0, 0.02, True)) for plan in (little, enough)]
    assert "also of songs -2 and +2 semitones" in lines[0] and "semitones" not in lines[1]


def test_a_preset_without_the_spectral_route_songs_that_are_too_short_and_no_hours_are_one_line(corpus, tmp_path, capfd):
    assert main(["learn", str(corpus), "--out", str(tmp_path / "m"), "--preset", "small"]) == 2
    assert "expected one of the spectral codec alone" in capfd.readouterr().err
    assert main(["learn", str(corpus), "--out", str(tmp_path / "m"), "--preset", "recordings"]) == 2
    assert "no song for training is as long as a window of the prior, 20.0 s" in capfd.readouterr().err
    assert main(["learn", str(corpus), "--out", str(tmp_path / "m"), "--hours", "0"]) == 2
    assert "--hours 0" in capfd.readouterr().err and not (tmp_path / "m").exists()


@pytest.mark.long
def test_a_kill_in_any_stage_is_followed_by_the_rest(corpus, tmp_path):
    command = [
        sys.executable,
        "-c",
        "import sys; from launch.cli import main; sys.exit(main())",
        "learn",
        str(corpus / "songs.jsonl"),
    ]
    command += ["--out", str(tmp_path / "m"), *FLAGS]

    def run(until: str = "") -> list[str]:
        """Lines of the command, which is killed when a stage has begun."""
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        lines = []
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if until and line.startswith("$ ") and f"--- {until}\n" in lines:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == (-signal.SIGKILL if until else 0), "".join(lines)
        return lines

    for stage in STAGES:
        begun = [line[4:-1] for line in run(stage) if line.startswith("--- ")]
        before = STAGES[max(0, STAGES.index(stage) - 1)]  # the stage of the kill before runs again, those before it do not
        assert begun == list(dict.fromkeys([before, stage]))
    assert [line[4:-1] for line in run() if line.startswith("--- ")] == ["continue", "page"]
    assert (tmp_path / "m_songs" / "index.html").is_file()
