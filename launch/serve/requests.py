"""What a job may be: one frozen dataclass per kind, with the names and defaults of the command line. The OpenAPI page shows the same.

Types are checked when a request is read (an unknown field is an error); lengths and numbers, which depend on the server's limits,
when a job is made (`launch/serve/work.py`).
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jukebox.params import KeptPrompt, SamplingParams

STRICT = {"extra": "forbid", "allow_inf_nan": False}  # read by pydantic: no unknown fields, finite numbers


@dataclass(frozen=True)
class Limits:
    """What the server accepts.

    max_seconds: longest song, prompt included, in seconds
    max_takes: most results of one job
    max_jobs: jobs that wait or run at once; further ones are answered with 429
    max_upload: largest recording, in MB; all recordings together take at most ten times that, the oldest go first
    max_live: longest live session, in seconds
    """

    max_seconds: float = 240.0
    max_takes: int = 8
    max_jobs: int = 16
    max_upload: int = 100
    max_live: float = 1800.0


@dataclass(frozen=True)
class SamplingFields(SamplingParams):
    """`SamplingParams` without unknown fields."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class KeptFields(KeptPrompt):
    """`KeptPrompt` without unknown fields."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class SongRequest:
    """What a song is to be: names that the model knows, and lyrics as plain text or with the stamps of an .lrc file."""

    __pydantic_config__ = STRICT
    artist: str = ""
    genre: str = ""
    lyrics: str = ""
    seed: int = 0
    params: SamplingFields = field(default_factory=SamplingFields)


@dataclass(frozen=True, kw_only=True)
class SampleRequest(SongRequest):
    """A song from artist, genre and lyrics."""

    kind: Literal["sample"] = "sample"
    seconds: float = 20.0
    takes: int = 1
    route: str = ""


@dataclass(frozen=True, kw_only=True)
class ContinueRequest(SongRequest):
    """A recording (id of an upload, or name of an edit), its seconds from `start` to `start + prompt_seconds` kept, continued to `seconds`.

    `prompt_seconds` 0: all of it; `seconds` is the finished length, the prompt included.
    """

    kind: Literal["continue"]
    recording: str
    start: float = 0.0
    prompt_seconds: float = 0.0
    seconds: float = 30.0
    takes: int = 1
    route: str = ""


@dataclass(frozen=True, kw_only=True)
class BranchRequest:
    """A run, or an edit, of which take number `take` (0: each) is kept for `keep_seconds` (0: all) and continued.

    Another seed, or other lyrics, make the difference. `seconds` 0: the length of the run; `seed` -1: the next after that of the run.
    """

    __pydantic_config__ = STRICT
    kind: Literal["branch"]
    run: str
    take: int = 1
    keep_seconds: float = 0.0
    seconds: float = 0.0
    takes: int = 1
    seed: int = -1
    lyrics: str = ""


@dataclass(frozen=True, kw_only=True)
class EditSource(SongRequest):
    """A recording that is changed: id of an upload, or name of a run with the number of a take; seconds of cross-fade at its joins."""

    recording: str
    take: int = 1
    fade: float = 0.02


@dataclass(frozen=True, kw_only=True)
class EditRequest(EditSource):
    """A recording whose seconds from `start` to `end` are resampled (inpainting)."""

    kind: Literal["edit"]
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class VaryRequest(EditSource):
    """A recording, or its seconds from `start` to `end`, resampled around what `prompt` keeps."""

    kind: Literal["vary"]
    start: float = 0.0
    end: float | None = None
    prompt: KeptFields


@dataclass(frozen=True, kw_only=True)
class ExtendRequest(EditSource):
    """A recording with `before` seconds more before it and `after` seconds after it."""

    kind: Literal["extend"]
    before: float = 0.0
    after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LiveRequest(SongRequest):
    """Music without end for one client, at most `seconds` of it; its sampling parameters can change while it plays. It leaves no run."""

    kind: Literal["live"]
    seconds: float = 600.0


@dataclass(frozen=True)
class ControlsRequest:
    """Sampling parameters of a live session that are others from its next patch on."""

    __pydantic_config__ = STRICT
    values: dict[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class ResumeRequest:
    """A run that is not finished, to the codes that it would have had."""

    __pydantic_config__ = STRICT
    kind: Literal["resume"]
    run: str


@dataclass(frozen=True, kw_only=True)
class AlignRequest:
    """The times at which the words of a run are sung, found by the model; its lyric files follow."""

    __pydantic_config__ = STRICT
    kind: Literal["align"]
    run: str


JobRequest = (
    SampleRequest
    | ContinueRequest
    | BranchRequest
    | EditRequest
    | VaryRequest
    | ExtendRequest
    | LiveRequest
    | ResumeRequest
    | AlignRequest
)
KINDS = {typing.get_args(typing.get_type_hints(each)["kind"])[0]: each for each in typing.get_args(JobRequest)}


def from_json(data: Mapping[str, Any]) -> JobRequest:
    """The request of a record; the inverse of `dataclasses.asdict`."""
    values = dict(data)
    parts: dict[str, type[Any]] = {"params": SamplingFields, "prompt": KeptFields}
    for name in parts.keys() & values.keys():
        values[name] = parts[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()})
    kind: type[Any] = KINDS[values["kind"]]
    return kind(**values)
