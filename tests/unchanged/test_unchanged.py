"""Behaviour is that of commit 3ccb48a: numbers, float64 codes, and what it wrote can be opened and continued.

`make.py` made the expected values with that commit. Everything is compared exactly. The internals are reached through
`adapter.py`, all else through the command line and files.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # adapter.py and folders.py lie beside this file
import adapter
import folders

torch.set_num_threads(1)
EXPECTED = json.loads(folders.FROZEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the frozen model, runs and recording; tests read it and write elsewhere."""
    return folders.copy_frozen(tmp_path_factory.mktemp("unchanged") / "work")


@pytest.fixture(autouse=True)
def no_pages():
    """Pages have separate tests, and their images take longer than sampling here."""
    with adapter.no_pages():
        yield


def compare(function: str, work: Path) -> None:
    """Every frozen call of a function of adapter.py has its frozen result."""
    facts = EXPECTED["facts"][function]
    assert facts
    for fact in facts:
        arguments = dict(fact["arguments"])
        if arguments.get("model") == "model":
            arguments["model"] = str(work / "model")
        result = json.loads(json.dumps(getattr(adapter, function)(**arguments)))
        assert result == fact["result"], f"{function}({arguments})"


def own_copy(work: Path, run: str, tmp_path: Path) -> Path:
    """A copy of a frozen run that a test may write into."""
    return Path(shutil.copytree(work / "runs" / run, tmp_path / run))


def expected_codes(name: str) -> dict[str, Any]:
    return EXPECTED["runs"][name]["codes"]


# ---- numbers


def test_windows_of_autoregressive_levels_are_those_of_before(work):
    compare("sequential_windows", work)


def test_parallel_windows_are_those_of_before(work):
    compare("parallel_windows", work)


def test_window_plans_of_requests_are_those_of_before(work):
    compare("requested_windows", work)


def test_windows_of_the_published_schedule_are_those_of_before(work):
    compare("scheduled_windows", work)


def test_numbers_of_codes_are_those_of_before(work):
    compare("code_count", work)


def test_inpainting_windows_are_those_of_before(work):
    compare("inpainting_windows", work)


def test_batches_of_samples_are_those_of_before(work):
    compare("first_batches", work)


def test_generator_seeds_are_those_of_before(work):
    compare("generator_seed", work)


def test_uniform_numbers_are_those_of_before(work):
    compare("uniform_numbers", work)


def test_training_windows_come_in_the_order_of_before(work):
    compare("training_windows", work)


def test_training_masks_are_those_of_before(work):
    compare("training_masks", work)


def test_seeds_of_training_steps_are_those_of_before(work):
    compare("step_seed", work)


def test_parameter_counts_of_codecs_are_those_of_before(work):
    compare("codec_parameters", work)


def test_parameter_counts_of_priors_are_those_of_before(work):
    compare("prior_parameters", work)


def test_parameter_counts_of_masked_priors_are_those_of_before(work):
    compare("masked_parameters", work)


def test_planned_memory_of_sampling_is_that_of_before(work):
    compare("sampling_memory", work)


def test_planned_memory_of_training_is_that_of_before(work):
    compare("training_memory", work)


# ---- a model folder of format 1


def test_a_model_folder_of_format_1_opens_with_all_its_weights(work):
    assert adapter.open_model(work / "model") == EXPECTED["model"]


def test_a_model_folder_of_format_1_samples_from_the_command_line(work, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("la la la\nli li\n", encoding="utf-8")
    command = ["sample", str(work / "model"), "--artist", "ann", "--lyrics", str(words), "--seconds", "0.1"]
    assert main([*command, "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    made = folders.codes_in(tmp_path / "run")
    assert {name: codes["codes"] for name, codes in made.items()} == {
        "level_0_sample_0": 17 * 16,
        "level_1_sample_0": 17 * 4,
        "level_2_sample_0": 17,
    }


# ---- float64 codes


@pytest.mark.parametrize("name", [name for name, case in EXPECTED["runs"].items() if "verb" in case])
def test_float64_codes_are_those_of_before(name, work, tmp_path):
    case = EXPECTED["runs"][name]
    getattr(adapter, case["verb"])(out=tmp_path / "run", **folders.arguments_in(case, work))
    assert folders.codes_in(tmp_path / "run") == expected_codes(name)


# ---- run folders of version 2


@pytest.mark.parametrize("name", sorted(path.name for path in (folders.HERE / "runs").iterdir()))
def test_a_run_of_version_2_opens_and_agrees_with_its_checksums(name, work):
    opened = adapter.open_run(work / "runs" / name)
    assert sorted(opened) == ["0", "1", "2"]
    whole = [codes == length for codes, length in opened.values()]
    assert all(whole) is not name.endswith("cut")


@pytest.mark.parametrize("whole, cut", [("finished", "cut"), ("continued", "continued_cut"), ("parallel", "parallel_cut")])
def test_an_interrupted_run_of_version_2_resumes_to_the_codes_of_the_finished_one(whole, cut, work, tmp_path):
    run = own_copy(work, cut, tmp_path)
    assert folders.codes_in(run) != expected_codes(whole)
    assert main(["resume", str(run)]) == 0
    assert folders.codes_in(run) == expected_codes(whole)


def test_a_continuation_of_version_2_without_codes_encodes_its_source_again(work, tmp_path):
    run = own_copy(work, "continued", tmp_path)
    shutil.rmtree(run / "codes")
    (run / "progress.jsonl").unlink()
    adapter.resume(run=run)
    assert folders.codes_in(run) == expected_codes("continued")


def test_resuming_a_finished_run_of_version_2_changes_no_codes(work, tmp_path):
    run = own_copy(work, "finished", tmp_path)
    assert main(["resume", str(run)]) == 0
    assert folders.codes_in(run) == expected_codes("finished")
    assert len(list((run / "audio").glob("*.wav"))) == len(expected_codes("finished"))


@pytest.mark.parametrize("name", ["finished", "halved", "masked", "parallel"])
def test_a_run_of_version_2_replays_to_the_same_codes(name, work, tmp_path):
    assert main(["replay", str(work / "runs" / name), "--out", str(tmp_path / "again")]) == 0
    assert folders.codes_in(tmp_path / "again") == expected_codes(name)


def test_a_branch_of_a_run_of_version_2_keeps_its_first_codes(work, tmp_path):
    run, out = work / "runs" / "finished", tmp_path / "branch"
    command = ["branch", str(run), "--take", "3", "--keep_seconds", "0.2", "--seconds", "0.25", "--out", str(out)]
    assert main([*command, "--threads", "1", "--device", "cpu"]) == 0
    for level, kept in ((2, 34), (1, 34 * 4), (0, 34 * 16)):
        old, new = (folders.codes_path(folder, level, sample).read_bytes() for folder, sample in ((run, 2), (out, 0)))
        assert new[: 2 * kept] == old[: 2 * kept] and len(new) == len(old) and new != old


def test_a_top_level_of_version_2_is_upsampled_in_its_own_folder(work, tmp_path):
    run = own_copy(work, "finished", tmp_path)
    for path in (run / "codes").glob("level_[01]_*"):
        path.unlink()
    request = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(request | {"levels": [2]}), encoding="utf-8")
    lines = (run / "progress.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "progress.jsonl").write_text("".join(line for line in lines if '"level": 2' in line), encoding="utf-8")
    assert main(["upsample", str(run)]) == 0
    assert folders.codes_in(run) == expected_codes("finished")
