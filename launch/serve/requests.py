"""Requests for jobs: one frozen dataclass per kind, with the names and defaults of the command line, as in the OpenAPI page.

Types are checked when a request is read, and an unknown field is an error. Lengths and numbers depend on the limits of the
server. They are checked when a job is created (`launch/serve/work.py`).
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jukebox.params import KeptPrompt, SamplingParams

STRICT = {"extra": "forbid", "allow_inf_nan": False}  # settings for pydantic: no unknown fields, finite numbers


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
    """Conditions of a song: artist and genre that the model knows, and lyrics as plain text or with .lrc time stamps."""

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
    """Continue a recording: its seconds from `start` to `start + prompt_seconds` are the prompt.

    `recording` is the id of an upload or the name of an edit. `prompt_seconds` 0 means all of the recording. `seconds` is the
    length of the result, prompt included.
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
    """Keep the first `keep_seconds` (0: all) of a run or an edit, and continue it differently.

    `take` is the number of the take (0: each take). Another seed or other lyrics make the difference. `seconds` 0 means the
    length of the run. `seed` -1 means the seed of the run plus 1.
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
    """The recording of an edit: id of an upload, or name of a run with the number of a take.

    `fade` is the length of the crossfade at its joins in seconds.
    """

    recording: str
    take: int = 1
    fade: float = 0.02


@dataclass(frozen=True, kw_only=True)
class EditRequest(EditSource):
    """Resample the seconds from `start` to `end` of a recording (inpainting)."""

    kind: Literal["edit"]
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class VaryRequest(EditSource):
    """Resample a recording, or its seconds from `start` to `end`; `prompt` selects the codes that are kept."""

    kind: Literal["vary"]
    start: float = 0.0
    end: float | None = None
    prompt: KeptFields


@dataclass(frozen=True, kw_only=True)
class ExtendRequest(EditSource):
    """Add `before` seconds before a recording and `after` seconds after it."""

    kind: Literal["extend"]
    before: float = 0.0
    after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LiveRequest(SongRequest):
    """Music of unbounded length for one client, at most `seconds` of it.

    Its sampling parameters can be changed while it plays. It leaves no run.
    """

    kind: Literal["live"]
    seconds: float = 600.0


@dataclass(frozen=True)
class ControlsRequest:
    """Sampling parameters of a live session that change from the next patch on."""

    __pydantic_config__ = STRICT
    values: dict[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class ResumeRequest:
    """Finish an unfinished run, to the same codes as without an interruption."""

    __pydantic_config__ = STRICT
    kind: Literal["resume"]
    run: str


@dataclass(frozen=True, kw_only=True)
class AlignRequest:
    """Find the times of the sung words of a run with the model, and write its lyric files again."""

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
    """Create the request of a record; the inverse of `dataclasses.asdict`."""
    values = dict(data)
    parts: dict[str, type[Any]] = {"params": SamplingFields, "prompt": KeptFields}
    for name in parts.keys() & values.keys():
        values[name] = parts[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()})
    kind: type[Any] = KINDS[values["kind"]]
    return kind(**values)
