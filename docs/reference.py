"""Hook of mkdocs: pages of the site that are made from the source, so that they cannot differ from it.

Made are the home page (README.md), contributing and changes, and the reference: verbs from their help, the Python API and
all modules from docstrings, configuration from the presets. The source is read as text where that is enough; no module
that is imported here loads torch. Links that leave docs/ lead to the pages made here, or become plain text.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("vqvae", "priors", "data_prep", "jukebox", "launch")
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
sys.path.insert(0, str(ROOT))


# Hooks that mkdocs calls


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page of docs/ that leave the folder, made fit for the site."""
    return fit_links(markdown, "docs/" + page.file.src_uri)


# Pages


def pages() -> dict[str, str]:
    """Path in the site -> text."""
    made = {site: fit_links((ROOT / name).read_text("utf-8"), name) for name, site in OUTSIDE.items()}
    return made | {
        "reference/verbs.md": verbs(),
        "reference/api.md": api(),
        "reference/configuration.md": configuration(),
        "reference/modules.md": modules(),
    }


def fit_links(text: str, path: str) -> str:
    """The links of the file `path` (from the root) as they are in the site; what is not in the site becomes plain text."""

    def fit(match: re.Match[str]) -> str:
        label, (target, mark, anchor) = match[1], match[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        name = os.path.normpath(os.path.join(os.path.dirname(path), target))
        home = "docs/" + OUTSIDE[path] if path in OUTSIDE else path
        if name in OUTSIDE:
            name = "docs/" + OUTSIDE[name]
        elif not name.startswith("docs/"):
            return label
        return f"[{label}]({os.path.relpath(name, os.path.dirname(home))}{mark}{anchor})"

    return LINK.sub(fit, text)


def verbs() -> str:
    """The help of every verb, by group."""
    from launch.cli.commands import GROUPS, VERBS, load
    from launch.cli.usage import read_usage, render

    os.environ["COLUMNS"] = "100"  # of the help pages
    parts = ["# Verbs\n"]
    parts.append(
        "Made from `jukebox VERB --help`. `jukebox sample MODEL --help` lists the parameters of the priors of MODEL, too.\n"
    )
    for group, names in GROUPS.items():
        rows = "".join(f"| [{verb}](#{verb}) | {VERBS[verb][1]} |\n" for verb in names)
        parts.append(f"## Verbs: {group}\n\n| verb | |\n|---|---|\n{rows}")
        parts += [f"### {verb}\n\n```text\n{render(read_usage(verb, load(VERBS[verb][0])))}```\n" for verb in names]
    return "\n".join(parts)


def api() -> str:
    """Signatures and docstrings of the public names of `jukebox`."""
    import jukebox

    parts = ["# Python API: reference\n", "Made from the docstrings. Examples are in [Python API](../api.md).\n"]
    for name in sorted(jukebox.__all__):
        source = (ROOT / (jukebox._HOMES[name].replace(".", "/") + ".py")).read_text("utf-8")
        node = next(each for each in ast.parse(source).body if isinstance(each, ast.ClassDef) and each.name == name)
        parts += [f"## {name}\n", *fields(node), text_block(ast.get_docstring(node))]
        for method in (each for each in node.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")):
            doc, marks = ast.get_docstring(method), [ast.unparse(mark) for mark in method.decorator_list]
            if doc and "overload" not in marks and not any(mark.endswith(".setter") for mark in marks):
                parts += [f"### {name}.{method.name}\n", signature(method, "property" in marks), text_block(doc)]
    return "\n".join(parts)


def fields(node: ast.ClassDef) -> Iterator[str]:
    """The fields of a dataclass as a code block."""
    lines = [ast.unparse(each) for each in node.body if isinstance(each, ast.AnnAssign) and each.target.id[:1] != "_"]
    if lines:
        yield "```python\n" + "\n".join(lines) + "\n```\n"


def signature(method: ast.FunctionDef, is_property: bool) -> str:
    arguments = ast.unparse(method.args).removeprefix("self, ").removeprefix("self").removeprefix("cls, ")
    returns = f" -> {ast.unparse(method.returns)}" if method.returns else ""
    return f"```python\n{method.name}{'' if is_property else f'({arguments})'}{returns}\n```\n"


def text_block(doc: str | None) -> str:
    """A docstring as markdown: lines `name: meaning` become a list."""
    return re.sub(r"^(\w+): ", r"- `\1`: ", doc or "", flags=re.MULTILINE) + "\n"


def configuration() -> str:
    """The presets with the recipe of each part, and the fields of a recipe with their comments."""
    from jukebox.model.presets import PRESETS

    parts = [
        "# Configuration\n",
        "Presets (`--preset`) are in `jukebox/model/presets/`; flags of `jukebox train` change a recipe.\n",
    ]
    parts.append("| preset | part | steps | batch | learning rate | schedule |\n|---|---|---|---|---|---|")
    for name, preset in PRESETS.items():
        recipes = {**preset.codec_recipes, **preset.prior_recipes}
        parts += [f"| {name} | {part} | {r.steps:,} | {r.batch} | {r.lr:g} | {r.schedule} |" for part, r in recipes.items()]
    parts += ["\n## Fields of a recipe\n", "| field | default | |\n|---|---|---|"]
    source = (ROOT / "jukebox/model/recipe.py").read_text("utf-8").partition("class Recipe:")[2]
    for field, default, comment in re.findall(r"^    (\w+): [^=\n]+?(?: = ([^#\n]+?))?(?:  # (.*))?$", source, re.MULTILINE):
        parts.append(f"| `{field}` | {f'`{default}`' if default else 'required'} | {comment} |")
    return "\n".join(parts) + "\n"


def modules() -> str:
    """All modules with the first line of their docstring, by folder."""
    parts = ["# Modules\n", "Made from the docstrings.\n"]
    for folder in sorted({file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")}):
        parts.append(f"\n## {folder.relative_to(ROOT).as_posix()}\n\n| module | |\n|---|---|")
        for file in sorted(folder.glob("*.py")):
            doc = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n\n")[0].replace("\n", " ")
            if file.stem != "__init__" or doc:
                parts.append(f"| `{file.stem}` | {doc.replace('|', chr(92) + '|').replace('<', '&lt;')} |")
    return "\n".join(parts) + "\n"
