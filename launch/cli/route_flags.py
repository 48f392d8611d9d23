"""Flags of a route: a verb with a model shows and accepts the sampling parameters of the priors of its route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import UserError
from jukebox.params import SamplingParams
from launch.cli.usage import Usage, field_arguments

if TYPE_CHECKING:
    from jukebox.model.info import ModelInfo
    from jukebox.model.routes import Route


def route_flags(usage: Usage, words: Sequence[str]) -> Usage:
    """Return the usage with the sampling parameters of the chosen route. It is unchanged if the words name no model."""
    folder = next((word for word in words if (Path(word) / "config.json").is_file()), "")
    if not folder and usage.verb != "sample" and "shipped" not in words:
        return usage
    from jukebox.model.info import ModelInfo
    from jukebox.runs.params import kinds_of

    try:
        info = ModelInfo.read(folder)
        kinds = kinds_of(info, _route(info, usage.verb, words))
    except UserError:  # the verb will raise this error too
        return usage
    if not kinds:
        return usage
    theirs = {argument.name: argument for kind in kinds.values() for argument in field_arguments(kind)}
    common = {field.name for field in fields(SamplingParams)}
    known = set(theirs) | ({"temperature_lower"} if len(kinds) > 1 and "temperature" in theirs else set())
    shown = [argument for argument in usage.arguments if argument.name not in common or argument.name in known]
    names = {argument.name for argument in usage.arguments}
    return replace(usage, arguments=(*shown, *(argument for name, argument in theirs.items() if name not in names)))


def _route(info: ModelInfo, verb: str, words: Sequence[str]) -> Route:
    """Return the route of --route or --lower. Edits take the route that inpaints, live the route of unbounded length."""
    if verb in ("edit", "vary", "extend", "compress"):
        from jukebox.editing.job import edit_route

        return edit_route(info, any(word.startswith("--lyrics") for word in words))
    if verb == "live":
        return info.live_route()
    from jukebox.runs.run_file import LOWER

    given = dict.fromkeys(("route", "lower"), "")
    for word, after in zip(words, [*words[1:], ""]):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name in given:
            given[name] = value if equals else after
    return info.route(given["route"] or LOWER.get(given["lower"], ""))
