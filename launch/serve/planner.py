"""Memory and time of jobs before they begin, and the description of a model, from its configuration and measured speeds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from data_prep.errors import UserError
from data_prep.metadata.lyrics import MAX_CHARACTERS, ParsedLyrics, describe, parse_lyrics
from jukebox.device import available_memory
from jukebox.editing.job import edit_route
from jukebox.editing.recording import LONGEST_FADE
from jukebox.loaded import one_job
from jukebox.model.info import ModelInfo
from jukebox.model.routes import Route
from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from jukebox.planning.sampling import Speed, check_memory, plan_sampling
from jukebox.runs import request as requests
from jukebox.runs.request import RunSettings, StartPoint
from jukebox.runs.run import Run
from jukebox.song import Song, left_out, unknown_names, without_effect
from launch.cli.usage import LARGEST, Argument, field_arguments
from launch.serve.requests import BranchRequest, EditSource, JobRequest, Limits, LiveRequest, SongRequest
from launch.verbs.plan import will_compile
from priors.conditioning.vocabulary import Vocabulary
from priors.prior import ScoresLyrics
from priors.registry import PRIOR_PARAMS, PRIORS

MOST_NAMES = 2000  # number of artists or genres that the page offers
MOST_TEXT = 500  # characters of a name or a value; lyrics have a separate limit


def check_length(seconds: float, asked: JobRequest, limits: Limits) -> None:
    """Raise UserError if a song or a live session is longer than the server allows."""
    if seconds > longest(asked, limits):
        raise UserError(f"{seconds:.6g} s in all; expected up to {longest(asked, limits):g}")


def longest(asked: JobRequest, limits: Limits) -> float:
    return limits.max_live if isinstance(asked, LiveRequest) else limits.max_seconds


def check_ranges(asked: JobRequest, limits: Limits) -> None:
    """Raise UserError if a number or a text of a request exceeds the limits of the server."""
    lengths = ("seconds", "start", "end", "before", "after", "prompt_seconds", "keep_seconds")
    ranges = {"takes": (1, limits.max_takes), "take": (0, LARGEST), "fade": (0.0, LONGEST_FADE)}
    ranges |= {"seed": (-isinstance(asked, BranchRequest), LARGEST), **dict.fromkeys(lengths, (0.0, longest(asked, limits)))}
    for name, (low, high) in ranges.items():
        value = getattr(asked, name, None)
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} is {value:.6g}; expected from {low:g} to {high:g}")
    more = asked.params.more if isinstance(asked, SongRequest) else {}
    texts = {name: text for name, text in (vars(asked) | dict(more)).items() if isinstance(text, str) and name != "lyrics"}
    for name, text in texts.items():
        if len(name) + len(text) > MOST_TEXT:
            raise UserError(f"{name[:40]} has {len(text)} characters; expected up to {MOST_TEXT}")


def lyrics_of(asked: JobRequest | SongRequest) -> ParsedLyrics:
    """Parse the lyrics of a request, with their times if they have any."""
    text = getattr(asked, "lyrics", "")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"the lyrics have {len(text)} characters; expected up to {MAX_CHARACTERS}")
    return parse_lyrics(text)


def words_of(asked: JobRequest | SongRequest) -> Song | None:
    """Return the song that a request describes; None if it has neither artist, genre nor lyrics."""
    parsed, artist, genre = lyrics_of(asked), getattr(asked, "artist", ""), getattr(asked, "genre", "")
    song = Song(artist or None, (), parsed.text or None, tuple(parsed.times), genre=genre)
    return song if artist or genre or parsed.text else None


class Planner:
    """Plans the jobs of a model; without `speeds`, which `measure` fills, plans have no times."""

    def __init__(self, info: ModelInfo, machine: MachineOptions) -> None:
        self.info, self.machine = info, machine
        self.speeds: dict[str, Speed] = {}  # prior -> its speed

    def typed(self, params: SamplingParams) -> SamplingParams:
        """Return parameters with the values of `more` parsed like flags; UserError for a value of the wrong type."""
        if strange := sorted(name for name, value in params.more.items() if not isinstance(value, int | float | str)):
            raise UserError(f"the parameter {strange[0]!r} is no number and no text")
        known = self._arguments([entry.config.kind for entry in self.info.priors.values()])
        values = {name: known[name].parse(str(value)) if name in known else value for name, value in params.more.items()}
        common = {field.name for field in fields(SamplingParams)}
        more = {name: value for name, value in values.items() if name not in common}
        return replace(params, more=more, **{name: value for name, value in values.items() if name in common})

    def plan(self, made: dict[str, Any]) -> dict[str, Any]:
        """Return the predicted memory and time of run.json (`made`); raise UserError if there is not enough memory.

        `made` may have `done`: level -> frames that exist already.
        """
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

    def notes(self, asked: JobRequest, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Return warnings: names and characters that the model does not know, and parts of the lyrics that are not sung."""
        song = words_of(asked) if isinstance(asked, SongRequest | BranchRequest) else None
        if song is None:
            return ()
        lines = unknown_names(song, self.info.labels) + without_effect(song, self.info)
        return (*lines, *left_out(vocabulary, [song.lyrics or ""]), *filter(None, [describe(lyrics_of(asked).left_out)]))

    def rest_of(self, run: Run) -> dict[str, Any]:
        """Return run.json of a run with the frames that exist (`done`), so that `plan` predicts the rest."""
        return run.request | {
            "done": {level: run.count(level) for level in run.request["levels"]},
            "device": self.machine.device,
        }

    def edit_request(self, verb: str, seconds: float, asked: EditSource) -> dict[str, Any]:
        """Return run.json of a song that is as long as the resampled part of an edit; UserError if the model cannot edit."""
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
                with suppress(UserError):  # a route with priors that are not trained
                    settings = RunSettings(SamplingOptions(route=route), None, self.machine)
                    made = requests.sampled(self.info, [Song()], 10.0, settings)
                    plan = plan_sampling(self.info, made)
                    compiled = will_compile(self.info, made, plan.dtype)
                    for level in plan.levels:
                        speed = measure(plan.device, plan.dtype, max(1, level.rows), level.parts["weights"], compiled)
                        self.speeds[made["priors"][str(level.level)]] = speed

    def describe(self) -> dict[str, Any]:
        """Describe the model: its routes with their parameters, its artists and genres, and its abilities."""
        info, edits = self.info, None
        live: dict[str, Any] = {"live": False}
        with suppress(UserError):
            edits = self._parameters(edit_route(info))
        try:
            route = info.live_route()
            live = {"live": True, "live_route": route.name, "patch_seconds": info.patch_seconds(route)}
        except UserError as error:
            live["live_missing"] = str(error).replace(str(info.folder), "MODEL").replace("MODEL has", "This model has", 1)
        known = [entry for entry in info.priors.values() if entry.knows_lyrics]
        align = any(issubclass(PRIORS.load(entry.config.kind), ScoresLyrics) for entry in known)
        return {
            "name": info.folder.name, "sample_rate": info.sample_rate, "channels": info.channels, "lyrics": bool(known), "align": align,
            "routes": {name: self._parameters(route) for name, route in info.routes.items()}, "edit": edits,
            "artists": list(info.labels.artists[1:MOST_NAMES]), "genres": list(info.labels.genres[1:MOST_NAMES]),
        } | live  # fmt: skip

    def _parameters(self, route: Route) -> list[dict[str, Any]]:
        """Return name, default, type and description of each sampling parameter of the priors of a route."""
        kinds = [self.info.priors[name].config.kind for name in route.priors.values() if name in self.info.priors]
        shown = {int: "number", float: "number", bool: "yes/no"}
        return [
            {"name": a.name, "default": ",".join(map(str, a.default)) if a.several else a.default, "about": a.about}
            | {"type": "text" if a.several else shown.get(a.kind, "text")}
            for a in self._arguments(kinds).values()
        ]

    def _arguments(self, kinds: Sequence[str]) -> dict[str, Argument]:
        """Return the flags of the sampling parameters of some kinds of priors.

        A parameter that `SamplingParams` also has is described as there.
        """
        own = {a.name: a for kind in kinds for a in field_arguments(PRIOR_PARAMS.load(kind))}
        common = {a.name: a for a in field_arguments(SamplingParams)}
        lower = {"temperature_lower": common["temperature_lower"]} if len(kinds) > 1 and "temperature" in own else {}
        return {name: common.get(name, a) for name, a in own.items()} | lower
