"""One truth about versions: pyproject.toml. environment.yml and constraints.txt must agree with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RANGES = [Requirement(line) for line in [*PROJECT["dependencies"], *(line for e in EXTRAS.values() for line in e)]]
# dev brings an MPI of its own, docs builds the site, gpl is the choice of the user, spaces is for a hosted app
NOT_IN_CONDA = {"dev", "docs", "gpl", "spaces"}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert len(requirements) == len({canonicalize_name(r.name) for r in requirements}), "a package is pinned twice"
    return {canonicalize_name(r.name): r for r in requirements}


def version(pin: Requirement) -> str:
    match = re.fullmatch(r"==([\w.]+)", str(pin.specifier))
    assert match and pin.url is None, f"{pin} is no plain pin"
    return match[1]


def test_every_range_admits_the_version_it_is_tested_with():
    for requirement in RANGES:
        name = canonicalize_name(requirement.name)
        assert name in pins(), f"{name} has no tested version in constraints.txt"
        assert requirement.specifier.contains(version(pins()[name])), f"{requirement} excludes {pins()[name]}"


def test_pins_name_no_index_no_path_and_no_local_build():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert not re.search(r"^-|://|@|\+", text, re.MULTILINE)
    assert version(pins()["torch"]) == "2.13.0"
    assert "jukebox-music" not in pins()


@pytest.mark.parametrize("torch", ["2.6.0", "2.11.0", "2.13.0"])
def test_the_range_of_torch_is_open(torch):
    assert next(r for r in RANGES if r.name == "torch").specifier.contains(torch)
    assert not next(r for r in RANGES if r.name == "torch").specifier.contains("2.5.1")


def test_a_package_has_one_range_in_all_extras():
    seen: dict[str, str] = {}
    for requirement in RANGES:
        assert seen.setdefault(canonicalize_name(requirement.name), str(requirement.specifier)) == str(requirement.specifier)


def test_the_conda_environment_is_pyproject_with_a_python_and_an_mpi():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    python = next(d for d in conda if d.startswith("python=")).removeprefix("python=")
    assert python == "3.11" and SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert {re.split("[=<> ]", d)[0] for d in conda} == {"python", "openmpi", "pip"}, "packages come from pyproject alone"
    (line,) = pip
    match = re.fullmatch(r"-e \.\[([a-z,]+)\]", line)
    assert match, "pip installs the package itself and nothing beside it, so that its ranges are pyproject's"
    assert set(match[1].split(",")) == set(EXTRAS) - NOT_IN_CONDA


def test_the_pythons_from_3_10_to_3_13_are_admitted():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(supported.contains(v) for v in ("3.10.0", "3.11.7", "3.12.1", "3.13.0")) and not supported.contains("3.9.0")


@pytest.mark.long
def test_all_extras_together_resolve_to_the_pins(tmp_path):
    """pip asks the index for what it would install; nothing is installed. Skipped where there is no index."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for package in ("vqvae", "priors", "data_prep", "jukebox", "launch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    index = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path / "probe"), "idna"]
    if subprocess.run(index, capture_output=True, timeout=120).returncode:
        pytest.skip("there is no package index")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-q", "--report", str(tmp_path / "report.json"),
               "-c", str(ROOT / "constraints.txt"), f"{tmp_path}[{','.join(EXTRAS)}]"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {
        canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"].partition("+")[0]
        for each in json.loads((tmp_path / "report.json").read_text())["install"]
    }
    system = {name: number for name, number in chosen.items() if name in pins()}
    assert system == {name: version(pins()[name]) for name in system} and len(system) > 20
    assert not [name for name in chosen if name not in pins() and not name.startswith(("nvidia", "cuda", "triton", "jukebox"))]
