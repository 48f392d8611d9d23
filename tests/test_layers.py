"""The import law: arrows go down, heavy tools stay at the rim and come only when needed. Read from the source (AST)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# package -> what it may import of ours (a dotted name allows that module only)
MAY_IMPORT = {
    "vqvae": set(),
    "data_prep": set(),
    "priors": {
        *("vqvae.adversarial", "vqvae.compiled", "vqvae.ranks", "vqvae.streams", "vqvae.registry"),
        *("vqvae.jukebox.blocks", "vqvae.jukebox.config"),
    },
    "jukebox": {"vqvae", "priors", "data_prep"},
    "launch": {"vqvae", "priors", "data_prep", "jukebox"},
}
# package -> its sub-packages and single modules, in the order in which each may import those before it
ORDER = {
    "vqvae": "compiled ranks adversarial streams registry codec stft jukebox spectral mulaw nsynth latent",
    "data_prep": "errors progress pool files windows align labels codes audio beats metadata sources manifest transpose synthetic",
    "priors": "transformer conditioning spec registry logits noise prior autoregressive tokens masked wavenet gan diffusion",
    "jukebox": "device params report model audio song runs sampling planning alignment editing importers evaluation loaded exports api",
    "launch": "cluster cli engines corpus training verbs latents live inspection render bench gpu_check demo learn probes ablate serve",
}
FREE = {"numpy", "safetensors", "jaxtyping", "tqdm", "filelock"}
# third-party package -> where it may be imported at all; everything but torch only inside functions
HOMES = {
    "torch": ("vqvae/", "priors/", "jukebox/", "launch/"),
    **dict.fromkeys(("soundfile", "librosa", "soxr", "pyarrow", "mutagen", "av", "mpi4py"), ("data_prep/",)),
    **dict.fromkeys(("sentencepiece", "unidecode"), ("priors/",)),
    **dict.fromkeys(
        ("deepspeed", "wandb", "fire", "gradio", "fastapi", "starlette", "uvicorn", "sounddevice", "transformers"), ("launch/",)
    ),
    "matplotlib": ("jukebox/report/spectrograms.py",),
    "triton": ("priors/autoregressive/int8_kernel.py",),
}
ANYWHERE_IN_THE_FILE = {"torch", "triton"}


class Import(NamedTuple):
    """One import: the dotted name, its line, and whether it runs when the module is loaded."""

    name: str
    line: int
    on_load: bool


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import of a module of `package`: statements, and importlib calls with a literal name, at any depth."""

    def walk(node: ast.AST, on_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, on_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            yield from (Import(f"{module}.{alias.name}", node.lineno, on_load) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                yield Import(str(node.args[0].value), node.lineno, on_load)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, on_load=False)
            for child in node.orelse:
                yield from walk(child, on_load)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, on_load and not inside)

    return walk(ast.parse(source), True)


def violations(source: str, path: str) -> list[str]:
    """What breaks the law in the module at `path` (relative, with slashes)."""
    package = path.split("/")[0]
    found = []
    for name, line, on_load in imports(source, package):
        top = name.split(".")[0]
        where = f"{path}:{line} imports {name}"
        if top in MAY_IMPORT:
            allowed = MAY_IMPORT[package] | {package}
            if not any(name == a or name.startswith(f"{a}.") for a in allowed):
                found.append(f"{where}: {package} may import of ours only {sorted(MAY_IMPORT[package]) or 'nothing'}")
            elif top == package and not follows(path, name):
                found.append(f"{where}: the order within {package} is {ORDER[package]}")
        elif top in HOMES:
            if not path.startswith(HOMES[top]):
                found.append(f"{where}: {top} belongs in {', '.join(HOMES[top])}")
            elif on_load and top not in ANYWHERE_IN_THE_FILE:
                found.append(f"{where} when it is loaded: {top} is heavy, import it inside the function that needs it")
        elif top not in FREE and top not in sys.stdlib_module_names:
            found.append(f"{where}: {top} has no home in tests/test_layers.py and none of our packages needs it yet")
    return found


def follows(path: str, name: str) -> bool:
    """Whether the module at `path` and what it imports stand in the order of their package; its face may import all."""
    order, own, other = ORDER[name.split(".")[0]].split(), path.split("/")[1].removesuffix(".py"), name.split(".")[1]
    return own == "__init__" or (own in order and other in order and order.index(other) <= order.index(own))


MODULES = sorted(p.relative_to(ROOT).as_posix() for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_only_what_the_law_allows(path):
    assert not violations((ROOT / path).read_text("utf-8"), path)


def test_every_package_of_the_project_is_under_the_law():
    packages = re.search(r"^include = (\[.*\*.*\])$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert packages and set(ast.literal_eval(packages[1])) == {f"{package}*" for package in MAY_IMPORT}
    assert {path.split("/")[0] for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "path, source, word",
    [
        ("vqvae/x.py", "def f():\n    import priors.prior", "nothing"),
        ("vqvae/x.py", "from data_prep import audio", "nothing"),
        ("data_prep/x.py", "import vqvae", "nothing"),
        ("data_prep/x.py", "def f():\n    import torch.nn as nn", "torch belongs"),
        ("priors/x.py", "from vqvae.codec import Codec", "vqvae.jukebox.blocks"),
        ("priors/x.py", "from vqvae import codec", "vqvae.jukebox.blocks"),
        ("priors/transformer/x.py", "from priors.masked.model import MaskedPrior", "the order within priors"),
        ("jukebox/model/x.py", "def f():\n    from jukebox.sampling import run", "the order within jukebox"),
        ("jukebox/elsewhere/x.py", "from jukebox import device", "the order within jukebox"),
        ("jukebox/x.py", "class A:\n    def f(self):\n        from launch import cli", "may import"),
        ("jukebox/x.py", "import importlib\ndef f():\n    importlib.import_module('launch.cli')", "may import"),
        ("jukebox/x.py", "def f():\n    import matplotlib.pyplot as plt", "matplotlib belongs"),
        ("jukebox/report/spectrograms.py", "import matplotlib", "inside the function"),
        ("data_prep/x.py", "import soundfile", "inside the function"),
        ("data_prep/x.py", "try:\n    import av\nexcept ImportError:\n    av = None", "inside the function"),
        ("launch/x.py", "def f():\n    from mpi4py import MPI", "mpi4py belongs"),
        ("launch/x.py", "from deepspeed import zero", "inside the function"),
        ("launch/x.py", "def f():\n    import einops", "no home"),
    ],
)
def test_a_planted_violation_is_caught(path, source, word):
    assert any(word in line for line in violations(source, path)), violations(source, path)


@pytest.mark.parametrize(
    "path, source",
    [
        ("priors/prior.py", "from vqvae.jukebox.blocks import Stage\nimport vqvae.jukebox.blocks\nimport torch, numpy as np"),
        ("priors/transformer/x.py", "from priors.transformer import cache\nfrom priors.transformer.cache import Cache"),
        ("data_prep/x.py", "def f():\n    import soundfile, pyarrow.parquet as pq"),
        ("data_prep/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pyarrow"),
        ("jukebox/x.py", "from vqvae.jukebox.vqvae import VQVAE\nfrom priors import prior\nfrom data_prep import audio"),
    ],
)
def test_what_the_law_allows_passes(path, source):
    assert violations(source, path) == []


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_jukebox_loads_nothing_heavy():
    heavy = ["torch", *HOMES]
    for package in ("jukebox", "launch", "data_prep"):
        assert python(f"import {package}, sys; print(*set({heavy}) & set(sys.modules))") == "", package


def test_jukebox_and_song_come_without_the_optional_packages():
    code = """
        import sys
        for name in ("deepspeed", "mpi4py", "wandb", "gradio", "fastapi", "uvicorn", "av", "unidecode", "fire"):
            sys.modules[name] = None  # from now on importing it is an ImportError
        from jukebox import Jukebox, Song
        assert Jukebox.__module__ == "jukebox.api" and Song.__module__ == "jukebox.song"
        print(*{"librosa", "matplotlib", "pyarrow"} & set(sys.modules))
    """
    assert python(textwrap.dedent(code)) == ""


def test_an_unknown_name_of_jukebox_is_an_attribute_error():
    import jukebox

    with pytest.raises(AttributeError, match=f"'Jukebocks'; it offers {', '.join(jukebox.__all__)}$"):
        _ = jukebox.Jukebocks
    assert {"Jukebox", "Song"} <= set(jukebox.__all__) <= set(dir(jukebox))


def test_every_public_name_of_jukebox_can_be_imported():
    import jukebox

    assert all(getattr(jukebox, name).__name__ == name for name in jukebox.__all__)
