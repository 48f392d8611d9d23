"""The GPU check on a CPU with tiny models: its parts, rows and errors, and a machine that has torch and numpy only."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.cli.commands import main
from launch.cli.usage import read_arguments, read_usage
from launch.gpu_check import gpu_check as module
from launch.gpu_check.gpu_check import PARTS, gpu_check
from launch.gpu_check.stand_in import load_file as read_file
from launch.gpu_check.stand_in import missing

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
FIELDS = {"card", "torch", "part", "dtype", "figure", "value", "unit", "aim", "met"}
CPU = ["gpu-check", "--device", "cpu", "--tiny"]


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "smoke,decoding", "--device", "cpu", "--tiny"], "--only got 'smoke,decoding': there is no part decoding; choose"),
        (["--only", "smoke"], "there is no GPU here for --device cuda; use --device cpu"),
        (["--device", "cpu"], "--device cpu cannot hold the published models in minutes; add --tiny"),
    ],
)  # fmt: skip
def test_an_unknown_part_or_a_missing_card_is_one_line(words, expected, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu-check", *words]) == 2
    printed, error = capsys.readouterr()
    assert not printed and error.count("\n") == 1 and error.startswith(f"jukebox gpu-check: {expected}")


@pytest.mark.long
def test_numbers_recorded_from_the_published_models_are_met(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main([*CPU, "--only", "smoke", "--out", str(tmp_path / "rows.jsonl")]) == 0
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert rows == rows_of((tmp_path / "rows.jsonl").read_text()) and all(row.keys() == FIELDS for row in rows)
    assert all(row["met"] is True and row["torch"] == torch.__version__ for row in rows) and len(rows) == 9
    assert sum(row["figure"].startswith(("vqvae_tiny", "prior_top", "upsampler_tiny")) for row in rows) == 5
    assert printed.count("\n") == 2 * len(rows) and "NOT met" not in printed


@pytest.mark.long
def test_a_part_that_fails_or_never_ends_leaves_the_others_alone(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    limits = {"broken": 60, "endless": 1, "without_package": 60, "fine": 60}
    toys = {name: (f"tests.launch.gpu_check.toy_parts:{name}", limit) for name, limit in limits.items()}
    monkeypatch.setattr(module, "PARTS", toys)
    with pytest.raises(SystemExit) as ended:
        gpu_check(device="cpu", tiny=True)
    assert ended.value.code == 1
    rows = [row for row in rows_of(capsys.readouterr().out) if row["figure"] != "time of the part"]
    found = [(row["part"], row["figure"] or row.get("error") or row.get("skipped"), row["met"]) for row in rows]
    assert [each for each in found if each[0] != "endless"] == [
        ("broken", "one", None), ("broken", "ValueError: weights of no model", None),
        ("without_package", "no_such_package is not installed", None),
        ("fine", "two", True), ("fine", "three", False), ("fine", "not a number", None),
    ]  # fmt: skip
    assert ("endless", "ran out of its 4 s", None) in found
    assert [(row["value"], row["aim"], row["dtype"]) for row in rows[-3:]] == [
        (2.0, ">= 1", "bfloat16"), (3.0, "<= 1", "float32"), (None, None, "bfloat16"),
    ]  # fmt: skip


@pytest.mark.long
def test_every_part_runs_with_tiny_models(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(CPU) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(dict.fromkeys(row["part"] for row in rows)) == list(PARTS)
    skipped = {row["part"] for row in rows if "skipped" in row}
    assert skipped <= {"peer", "deepspeed"}  # of other projects
    aims = {(row["part"], row["aim"]) for row in rows if row["aim"] and row["figure"] != "time of the part"}
    assert aims - {("peer", ">= 5")} == {
        ("smoke", "<= 0"), ("smoke", "<= 0.0001"), ("decode", ">= 0.5"), ("decode", "<= 14"), ("decode", ">= 1"), ("decode", "<= 2"),
        ("train", ">= 0.4"), ("masked", ">= 1"), ("verbs", ">= 1"), ("verbs", "<= 0"),
    }  # fmt: skip
    assert all(row["met"] is not False for row in rows if row["part"] in ("smoke", "verbs"))
    assert all(row["value"] > 0 for row in rows if row["part"] in ("decode", "train", "masked", "codec", "int8"))


@pytest.fixture
def bare_python(tmp_path) -> Path:
    """An interpreter that can import torch, numpy and what these need, and no other package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    (site,) = tmp_path.glob("lib/python3*/site-packages")
    names, found = ["torch", "numpy"], {}
    while names:
        name = names.pop()
        if name not in found and (here := list(metadata.distributions(name=name))):
            found[name] = here[0]
            names += [re.split(r"[^\w.-]", need)[0] for need in here[0].requires or () if "extra ==" not in need]
    for distribution in found.values():
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(distribution.locate_file(top)))
    return tmp_path / "bin" / "python"


@pytest.mark.long
def test_torch_and_numpy_are_enough_in_a_bare_checkout(bare_python):
    run = [str(bare_python), "-m"]
    assert subprocess.run([*run, "safetensors"], capture_output=True).returncode
    words = ["launch.cli", *CPU, "--only", "smoke,codec,train,verbs"]
    done = subprocess.run([*run, *words], cwd=ROOT, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"})
    rows = rows_of(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [(row["part"], row["skipped"]) for row in rows if "skipped" in row] == [("verbs", "safetensors is not installed")]
    assert all(row["met"] for row in rows if row["part"] == "smoke")


def test_what_stands_in_for_safetensors_reads_the_same_tensors():
    for path in sorted((ROOT / "tests" / "golden").glob("upsampler_tiny_level1.*.safetensors")):
        ours, theirs = read_file(path), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ModuleNotFoundError, match="safetensors"):
        missing({}, "model.safetensors")


def test_the_page_has_every_part_and_its_commands_are_those_of_the_verb():
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert list(dict.fromkeys(named)) == list(PARTS)
    blocks = "\n".join(PAGE.split("```")[1::2])
    commands = [line.partition("gpu-check")[2] for line in blocks.splitlines() if "gpu-check" in line]
    assert len(commands) >= 3
    for words in commands:
        texts = read_arguments(read_usage("gpu-check", gpu_check), shlex.split(words, comments=True))
        assert set(filter(None, texts.get("only", "").split(","))) <= set(PARTS)
