"""Memory and time of jobs before they begin, and what a model offers: from configurations, and from speeds that were measured once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from data_prep.errors import UserError
from jukebox.device import available_memory
from jukebox.editing.job import edit_route
from jukebox.loaded import one_job
from jukebox.model.info import ModelInfo
from jukebox.model.routes import Route
from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from jukebox.planning.sampling import Speed, check_memory, plan_sampling
from jukebox.runs import request as requests
from jukebox.runs.request import RunSettings, StartPoint
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.cli.usage import Argument, field_arguments
from launch.serve.requests import EditSource
from launch.verbs.plan import will_compile
from priors.prior import ScoresLyrics
from priors.registry import PRIOR_PARAMS, PRIORS

MOST_NAMES = 2000  # of artists or genres that the page offers


class Planner:
    """Plans of a model's jobs; `speeds` of its priors are measured by `measure`, without them there are no times."""

    def __init__(self, info: ModelInfo, machine: MachineOptions) -> None:
        self.info, self.machine = info, machine
        self.speeds: dict[str, Speed] = {}  # by prior

    def typed(self, params: SamplingParams) -> SamplingParams:
        """Parameters whose values by name (`more`) are read as those of flags are; UserError for what is no value of its type."""
        if strange := sorted(name for name, value in params.more.items() if not isinstance(value, int | float | str)):
            raise UserError(f"the parameter {strange[0]!r} is no number and no text")
        known = self._arguments([entry.config.kind for entry in self.info.priors.values()])
        values = {name: known[name].parse(str(value)) if name in known else value for name, value in params.more.items()}
        common = {field.name for field in fields(SamplingParams)}
        more = {name: value for name, value in values.items() if name not in common}
        return replace(params, more=more, **{name: value for name, value in values.items() if name in common})

    def plan(self, made: dict[str, Any]) -> dict[str, Any]:
        """What run.json predicts, with `done` (level -> frames) as far as they are there; UserError where it does not fit."""
        done = made.get("done")
        check_memory(self.info, made, done)
        speeds = {int(level): self.speeds[prior] for level, prior in made["priors"].items() if prior in self.speeds}
        plan = plan_sampling(self.info, made, speeds=speeds, done=done)
        weights = {str(level.level): level.seconds or float(level.steps) for level in plan.levels}
        return {
            "seconds": plan.seconds,
            "memory": plan.peak,
            "available": available_memory(),
            "line": plan.line(),
            "weights": weights,
        }

    def rest_of(self, run: Run) -> dict[str, Any]:
        """What is missing of a run."""
        return run.request | {
            "done": {level: run.count(level) for level in run.request["levels"]},
            "device": self.machine.device,
        }

    def edit_request(self, verb: str, seconds: float, asked: EditSource) -> dict[str, Any]:
        """An edit as a song of as many seconds as are resampled; UserError where the model cannot edit."""
        route = edit_route(self.info, bool(asked.lyrics.strip()))
        levels = [self.info.spec.names.index(stream) for stream in route.priors]
        settings = RunSettings(SamplingOptions(seed=asked.seed), self.typed(asked.params), self.machine)
        length = max(seconds, self.info.spec.unit / self.info.sample_rate)
        return requests.new_request(self.info, [Song()], length, settings, StartPoint(verb, levels), route)

    def measure(self) -> None:
        """Measure the speed of each prior of the routes, while nothing else runs."""
        import torch

        from jukebox.planning.speed import measure

        with one_job():
            torch.set_num_threads(self.info.threads(self.machine.threads))
            for route in self.info.routes:
                with suppress(UserError):  # a route whose priors are not trained
                    settings = RunSettings(SamplingOptions(route=route), None, self.machine)
                    made = requests.sampled(self.info, [Song()], 10.0, settings)
                    plan = plan_sampling(self.info, made)
                    compiled = will_compile(self.info, made, plan.dtype)
                    for level in plan.levels:
                        speed = measure(plan.device, plan.dtype, max(1, level.rows), level.parts["weights"], compiled)
                        self.speeds[made["priors"][str(level.level)]] = speed

    def describe(self) -> dict[str, Any]:
        """The model: its routes with their parameters, the names that it knows, and what it can do."""
        info, edits = self.info, None
        with suppress(UserError):
            edits = self._parameters(edit_route(info))
        known = [entry for entry in info.priors.values() if entry.knows_lyrics]
        align = any(issubclass(PRIORS.load(entry.config.kind), ScoresLyrics) for entry in known)
        return {
            "name": info.folder.name, "sample_rate": info.sample_rate, "channels": info.channels, "lyrics": bool(known), "align": align,
            "routes": {name: self._parameters(route) for name, route in info.routes.items()}, "edit": edits, "live": False,
            "artists": list(info.labels.artists[1:MOST_NAMES]), "genres": list(info.labels.genres[1:MOST_NAMES]),
        }  # fmt: skip

    def _parameters(self, route: Route) -> list[dict[str, Any]]:
        """Name, default, type and meaning of each parameter of sampling that the priors of a route have."""
        kinds = [self.info.priors[name].config.kind for name in route.priors.values() if name in self.info.priors]
        shown = {int: "number", float: "number", bool: "yes/no"}
        return [
            {"name": a.name, "default": ",".join(map(str, a.default)) if a.several else a.default, "about": a.about}
            | {"type": "text" if a.several else shown.get(a.kind, "text")}
            for a in self._arguments(kinds).values()
        ]

    def _arguments(self, kinds: Sequence[str]) -> dict[str, Argument]:
        """The flags of the parameters that some kinds of priors have, those that all share as `SamplingParams` has them."""
        own = {a.name: a for kind in kinds for a in field_arguments(PRIOR_PARAMS.load(kind))}
        common = {a.name: a for a in field_arguments(SamplingParams)}
        lower = {"temperature_lower": common["temperature_lower"]} if len(kinds) > 1 and "temperature" in own else {}
        return {name: common.get(name, a) for name, a in own.items()} | lower
