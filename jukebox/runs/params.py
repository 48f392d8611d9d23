"""Sampling parameters of each level of a route, from the user's parameters.

Each kind of prior has a dataclass of sampling parameters (`priors/registry.py`). The user passes one object or a mapping from
streams to such objects. Each field of one object applies to every prior that has this field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from data_prep.errors import UserError
from jukebox.model.info import ModelInfo
from jukebox.model.routes import Route
from jukebox.params import SamplingParams
from priors.registry import PRIOR_PARAMS
from priors.spec import TokenParams

Params = Any  # SamplingParams, the parameters of a kind of prior, or a mapping from streams to these or to their fields
PASSES, FINEST_PASSES = 24, 12  # default passes of masked decoding: per level, and at the finest level
MOST_PASSES = 1 << 16


def params_by_level(info: ModelInfo, route: Route, params: Params | None) -> dict[str, dict[str, Any]]:
    """Return the parameters of each level's prior: level -> field -> value.

    Raise UserError for a field that no prior of the route has, and for a value out of range.
    """
    kinds = kinds_of(info, route)
    by_stream = isinstance(params, Mapping)
    common = SamplingParams() if params is None or by_stream else params
    values = _spread(common, kinds, next(iter(route.priors))) if isinstance(common, SamplingParams) else _applied(common, kinds)
    if isinstance(params, Mapping):
        if unknown := sorted(set(params) - set(kinds)):
            raise UserError(f"parameters of {unknown[0]!r}; the route {route.name} writes {', '.join(kinds)}")
        for stream, given in params.items():
            values[stream] |= _of_stream(given, stream, kinds[stream])
    for stream, each in values.items():
        check_values(stream, each)
        try:
            kinds[stream](**each)
        except ValueError as error:  # the kind of prior rejects a value
            raise UserError(f"parameters of {stream}: {error}") from error
    return {str(info.spec.names.index(stream)): each for stream, each in values.items()}


def kinds_of(info: ModelInfo, route: Route) -> dict[str, type]:
    """Return the parameter class of each stream of a route whose prior exists in the model: stream -> class."""
    named = {stream: info.priors[name].config.kind for stream, name in route.priors.items() if name in info.priors}
    return {stream: PRIOR_PARAMS.load(kind, PRIOR_PARAMS.package(kind)) for stream, kind in named.items()}


def _names(kind: type) -> set[str]:
    return {each.name for each in fields(kind)}


def _applied(given: Any, kinds: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """Return the parameters of each stream: the fields of `given` that the prior has, and defaults for the other fields."""
    if not (isinstance(given, Mapping) or is_dataclass(given)):
        raise UserError(f"parameters {given!r}; expected SamplingParams, or the parameters of a kind of prior")
    values = dict(given) if isinstance(given, Mapping) else {each.name: getattr(given, each.name) for each in fields(given)}
    if unknown := sorted(set(values) - set().union(*map(_names, kinds.values()))):
        known = sorted(set().union(*map(_names, kinds.values())))
        raise UserError(f"no prior of this route has the parameter {unknown[0]!r}; it has {', '.join(known)}")
    return {
        stream: asdict(kind()) | {name: value for name, value in values.items() if name in _names(kind)}
        for stream, kind in kinds.items()
    }


def _of_stream(given: Any, stream: str, kind: type) -> dict[str, Any]:
    """Return the parameters given for one stream: all fields of an object, or only the fields of a mapping."""
    if isinstance(given, SamplingParams):
        return {k: v for k, v in _spread(given, {stream: kind}, stream)[stream].items() if k != "passes" or given.passes}
    made = _applied(given, {stream: kind})[stream]
    return {name: made[name] for name in given} if isinstance(given, Mapping) else made


def _spread(given: SamplingParams, kinds: Mapping[str, type], coarsest: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of each stream from a SamplingParams.

    The coarsest stream has a separate temperature, and only this stream has guidance. Each masked stream has separate passes. A
    field with its default value keeps the default of the prior's kind. The temperatures of priors of codes always come from
    `given`.
    """
    plain = SamplingParams(more=given.more)
    values = {each.name: getattr(given, each.name) for each in fields(SamplingParams)}
    asked = {name: value for name, value in values.items() if value != getattr(plain, name)} | dict(given.more)
    known = set().union(*map(_names, kinds.values())) | ({"temperature_lower"} if len(kinds) > 1 else set())
    if kinds and (unknown := sorted(set(asked) - known)):
        raise UserError(f"no prior of this route has --{unknown[0]}; leave it out, or choose another --route")
    made = {}
    for stream, kind in kinds.items():
        first = stream == coarsest
        mine = {name: value for name, value in asked.items() if first or name != "guidance"}
        if issubclass(kind, TokenParams):
            mine["temperature"] = given.temperature if first else given.temperature_lower
        made[stream] = asdict(kind()) | {name: value for name, value in mine.items() if name in _names(kind)}
    masked = [stream for stream, kind in kinds.items() if "passes" in _names(kind)]
    for stream, passes in zip(masked, _passes(given.passes, len(masked)), strict=True):
        made[stream]["passes"] = passes
    return made


def _passes(passes: Sequence[int], count: int) -> Sequence[int]:
    """Return the passes of `count` masked levels, coarsest first."""
    if not passes:
        return [PASSES] * (count - 1) + [FINEST_PASSES] * (count > 0)
    if len(passes) != count or min(passes) < 1:
        raise UserError(f"passes {tuple(passes)}; expected {count} numbers from 1, one for each masked level, as in 24,12")
    return passes


def check_values(stream: str, values: Mapping[str, Any]) -> None:
    """Raise UserError if a parameter of a stream is out of range."""
    low = min(values.get("temperature", 0), values.get("top_k", 0))
    passes = 0 <= values.get("passes", 0) <= MOST_PASSES and 1 <= values.get("steps", 1) <= MOST_PASSES
    if low < 0 or not 0 <= values.get("top_p", 0) <= 1 or not passes:
        raise UserError(
            f"parameters of {stream}: {dict(values)}; temperatures and top_k must not be negative, top_p lies in [0, 1], passes in "
            f"[0, {MOST_PASSES:,}], steps are at least 1: change the one that does not fit"
        )
