"""A model directory's config.json, read without torch: codecs, streams, priors and their configurations.

    format 2    codecs: kind, file, config; priors: name, kind, file, reads, writes, config, alignment; routes, the default first;
                names of the training presets
    format 1    one codec; priors by level; converted to format 2 when read

A kind is a name in the registries of `vqvae` and `priors`. The entry of a kind from another package also names that package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError
from data_prep.files import file_hash, named_in_utf_8, stand_in
from data_prep.labels import Labels
from data_prep.pool import usable_cores
from jukebox.model.routes import Route, Routes, assumed_routes, derive_routes
from priors.registry import PRIOR_CONFIGS
from priors.spec import PriorConfig
from vqvae.registry import CODEC_CONFIGS
from vqvae.spectral.config import STACKED
from vqvae.streams import CodecConfig, CodecSpec, Stream, frame_count, hash_tensors

CONFIG, FORMAT = "config.json", 2
SHIPPED, SHIPPED_WORD = Path(__file__).resolve().parents[1] / "assets" / "demo", "shipped"  # written by `make model`


def shipped_folder(folder: Path = SHIPPED) -> Path:
    """Return the folder of the model in the package; raise UserError if the package has no model."""
    if not (folder / CONFIG).is_file():
        raise UserError(
            "this package comes without a trained model; name a MODEL: `make model` trains the one that is missing (90 minutes), "
            "`jukebox learn MUSIC --out MODEL` one of your own music"
        )
    return folder


def plain_name(name: str) -> str:
    """Return `name` if it is a plain file name; raise ValueError for a path to another folder."""
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in this folder")
    return name


@dataclass(frozen=True)
class CodecEntry:
    """A codec of a model: its configuration and its file of tensors."""

    config: CodecConfig
    file: str

    def to_json(self) -> dict[str, Any]:
        kind = self.config.kind
        package = {"package": name} if (name := CODEC_CONFIGS.package(kind)) else {}
        return {"kind": kind, "file": self.file, **package, "config": self.config.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CodecEntry:
        config = CODEC_CONFIGS.load(data["kind"], data.get("package", ""))
        return CodecEntry(config.from_json(data["config"]), plain_name(data["file"]))


@dataclass(frozen=True)
class PriorEntry:
    """A prior of a model; `alignment` is the best measured method of lyric alignment with this prior (jukebox/alignment).

    `without_lyrics` means that no training song of the prior had lyrics.
    """

    name: str
    config: PriorConfig
    alignment: dict[str, Any] | None = None
    without_lyrics: bool = False

    @property
    def knows_lyrics(self) -> bool:
        return self.config.lyrics is not None and not self.without_lyrics

    @property
    def file(self) -> str:
        return f"prior_{self.name.removeprefix('prior_')}.safetensors"

    @property
    def labels_file(self) -> str:
        """File of this prior's labels, if they differ from the model's."""
        return f"labels_{self.name.removeprefix('prior_')}.json"

    def to_json(self) -> dict[str, Any]:
        kind, spec = self.config.kind, self.config.spec
        package = {"package": name} if (name := PRIOR_CONFIGS.package(kind)) else {}
        more: dict[str, Any] = {"alignment": self.alignment} if self.alignment else {}
        more |= {"without_lyrics": True} if self.without_lyrics else {}
        return {"name": self.name, "kind": kind, "file": self.file, "reads": list(spec.reads), "writes": list(spec.writes),
                **package, "config": self.config.to_json(), **more}  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PriorEntry:
        config = PRIOR_CONFIGS.load(data["kind"], data.get("package", ""))
        return PriorEntry(
            plain_name(data["name"]), config.from_json(data["config"]), data.get("alignment"), data.get("without_lyrics", False)
        )


def open_weights(path: Path, framework: str = "pt") -> Any:
    """Open a safetensors file; for an existing file of another kind, UserError describes the file."""
    try:
        return safe_open(path, framework)
    except (SafetensorError, OSError) as error:
        if not path.is_file():
            raise
        instead = stand_in(path) or f"no whole safetensors file ({error})"
        raise UserError(f"{path} is {instead}; download or copy it again") from error


def as_format_2(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the content of a config.json from format 1 to format 2; format 2 stays the same."""
    if "codec" not in data:
        return data
    priors = [prior | {"name": f"prior_{prior['level']}" if "level" in prior else prior["kind"]} for prior in data["priors"]]
    return {"format": FORMAT, "codecs": [data["codec"]], "priors": priors}


@dataclass(frozen=True)
class ModelInfo:
    """Content of config.json."""

    folder: Path
    codecs: tuple[CodecEntry, ...]
    priors: Mapping[str, PriorEntry]
    stored_routes: Mapping[str, Route] = field(default_factory=dict)
    presets: tuple[str, ...] = ()

    @staticmethod
    def read(folder: str | Path = "") -> ModelInfo:
        """Read the config.json of a model directory; raise UserError for other folders.

        An empty name or `shipped` means the model in the package.
        """
        if str(folder) == "" or (str(folder) == SHIPPED_WORD and not Path(folder).is_dir()):
            folder = shipped_folder()
        path = named_in_utf_8(Path(folder), "a model folder") / CONFIG
        if not path.is_file():
            raise UserError(
                f"{folder} holds no {path.name}; expected a model folder: train one with `jukebox train`, or give another path"
            )
        try:
            return ModelInfo.from_json(path.parent.resolve(), json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ValueError) and "unknown kind" in str(error):
                raise UserError(f"{path}: {error}") from error
            instead = stand_in(path) or f"not a model configuration of this version ({error!r})"
            raise UserError(f"{path} is {instead}; train or import it again") from error

    @staticmethod
    def from_json(folder: Path, data: Mapping[str, Any]) -> ModelInfo:
        data = as_format_2(data)
        priors = [PriorEntry.from_json(prior) for prior in data["priors"]]
        chains, default = data.get("routes", {}), data.get("default_route", "")
        routes = {name: Route(name, dict(chains[name])) for name in sorted(chains, key=lambda name: name != default)}
        codecs, presets = tuple(map(CodecEntry.from_json, data["codecs"])), tuple(data.get("presets", ()))
        return ModelInfo(folder, codecs, {p.name: p for p in priors}, routes, presets)

    @staticmethod
    def of_shapes(codecs: Sequence[CodecConfig], priors: Mapping[str, PriorConfig]) -> ModelInfo:
        """Build the info of a model without a directory, for planning."""
        entries = {name: PriorEntry(name, config) for name, config in priors.items()}
        routes = derive_routes([codec.spec.streams for codec in codecs], priors)
        return ModelInfo(Path(), tuple(CodecEntry(codec, "") for codec in codecs), entries, routes)

    def to_json(self) -> dict[str, Any]:
        priors = [self.priors[name].to_json() for name in sorted(self.priors)]
        routes = {name: dict(route.priors) for name, route in self.stored_routes.items()}
        named = {"routes": routes, "default_route": next(iter(routes))} if routes else {}
        presets = {"presets": list(self.presets)} if self.presets else {}
        return {"format": FORMAT, "codecs": [codec.to_json() for codec in self.codecs], "priors": priors, **named, **presets}

    def advice(self, what: str) -> str:
        """Return advice for a missing part; `what` are the arguments with which `jukebox train` trains the part."""
        if self.folder.resolve() == SHIPPED:
            return (
                "the shipped model has spectral tokens alone: train a model of your own with `jukebox learn` or `jukebox demo`"
            )
        return f"run `jukebox train {what}` first"

    # ---- streams

    @property
    def spec(self) -> CodecSpec:
        """The streams of all codecs, which share one sample rate and number of channels."""
        first = self.codecs[0].config.spec
        return CodecSpec(first.sample_rate, first.channels, tuple(s for c in self.codecs for s in c.config.spec.streams))

    @property
    def sample_rate(self) -> int:
        return self.spec.sample_rate

    @property
    def channels(self) -> int:
        return self.spec.channels

    @property
    def hops(self) -> tuple[int, ...]:
        return self.spec.hops

    def stream(self, level: int) -> Stream:
        """Return the stream of a level. A level is an index into the streams; level 0 is the finest."""
        return self.spec.streams[level]

    def names(self, levels: Iterable[int]) -> list[str]:
        """Return the stream names of `levels`."""
        return [self.stream(level).name for level in levels]

    def codec_of(self, stream: str) -> CodecEntry:
        """Return the codec of a stream; ValueError lists the existing streams."""
        self.spec.stream(stream)
        return next(codec for codec in self.codecs if stream in codec.config.spec.names)

    def frames(self, seconds: float, level: int) -> int:
        """Number of frames of a level in `seconds`, rounded down to whole frames of every level (at least one)."""
        return frame_count(seconds, self.sample_rate, self.hops[level], self.spec.unit)

    def codes_hash(self, stream: str) -> str:
        """Hash of the encoder and quantiser of a stream, equal to `Codec.codes_hash`; empty if the stream is not trained."""
        entry = self.codec_of(stream)
        path = self.folder / entry.file
        if not path.is_file():
            return ""
        with open_weights(path, "np") as file:
            names = entry.config.codes_tensors(stream, list(file.keys()))
            tensors = ((f"{stream} {name}", np.asarray(file.get_tensor(name))) for name in names)
            # a file of float16 is loaded as float32
            return hash_tensors((name, x.astype(np.float32) if x.dtype == np.float16 else x) for name, x in tensors)

    def old_codes_hash(self, stream: str) -> str:
        """Codes hash of version 1: the hash of the codec's whole file, including decoder and moving averages."""
        path = self.folder / self.codec_of(stream).file
        return file_hash(path) if path.is_file() else ""

    # ---- priors

    def writer(self, stream: str, prompt: str = "prefix") -> PriorEntry | None:
        """Return the prior that writes a stream and supports this kind of prompt; None if the model has none.

        A prior with prompt "any" also supports a prefix. For a prefix such a prior must write no other stream, and a prior
        with prompt "prefix" has priority.
        """
        found = [prior for prior in self.priors.values() if stream in prior.config.spec.writes]
        exact = [prior for prior in found if prior.config.spec.prompt == prompt]
        alone = [prior for prior in found if prompt == "prefix" and len(prior.config.spec.writes) == 1]
        return next(iter(exact + alone), None)

    @property
    def levels_with_prior(self) -> list[int]:
        """Levels for which `writer` finds a prior, finest first."""
        return [level for level, stream in enumerate(self.spec.streams) if self.writer(stream.name)]

    @property
    def labels(self) -> Labels:
        path = self.folder / "labels.json"
        return Labels.load(path) if path.is_file() else Labels()

    def threads(self, asked: int) -> int:
        """Number of CPU threads: `asked`, or for 0 the default for the widest prior with sequential steps (`threads_for`)."""
        configs = [prior.config for prior in self.priors.values()]
        return threads_for(max((config.width for config in configs if config.depth), default=0), asked)

    @property
    def routes(self) -> Routes:
        """Routes by name; the default route is first."""
        return dict(self.stored_routes) or self._assumed_routes()

    def _assumed_routes(self) -> Routes:
        streams = [entry.config.spec.streams for entry in self.codecs]
        return assumed_routes(streams, {name: prior.config for name, prior in self.priors.items()})

    def with_prior(self, entry: PriorEntry) -> ModelInfo:
        """Return the info with a prior added or replaced, and with the routes that this prior makes possible."""
        made = replace(self, priors={**self.priors, entry.name: entry})
        return replace(
            made,
            stored_routes={
                **self.stored_routes,
                **{k: r for k, r in made._assumed_routes().items() if k not in self.stored_routes},
            },
        )

    def route(self, name: str = "") -> Route:
        """Return the route of a name (empty: the default route); UserError lists the existing routes."""
        routes = self.routes
        if name in routes:
            return routes[name]
        if name or not routes:
            known = name in PRIOR_CONFIGS.kinds() or self.folder == SHIPPED
            advice = f"; {self.advice(f'{name} DATA --out {self.folder}')}" if known else ""
            listed = ", ".join(routes) or "none"
            raise UserError(f"{self.folder} has no route {name or 'to sample by'!r}; it has {listed}{advice}")
        return next(iter(routes.values()))

    def live_route(self) -> Route:
        """Return the first route of unbounded length; raise UserError if the model has none."""
        for route in self.routes.values():
            last = self.priors.get(list(route.priors.values())[-1])
            if last and last.config.patch:
                return route
        raise UserError(f"{self.folder} has no route of unbounded length; {self._live_advice()}")

    def _live_advice(self) -> str:
        """Name the first missing part of a route of unbounded length, and the command that trains this part."""
        if STACKED not in self.spec.names:
            return (
                f"no codec of it has the stream {STACKED}: train a model that has one, first by "
                "`jukebox train spectral DATA --out NEW --preset musika` (docs/musika.md)"
            )
        if not self.codes_hash(STACKED):
            return f"the autoencoder of its stream {STACKED} is not trained: run `jukebox train stacked DATA --out {self.folder}` first"
        return f"it has no latent GAN: {self.advice(f'gan DATA --out {self.folder}')}"

    def patch_seconds(self, route: Route) -> float:
        """Length in seconds of the patches that the last prior of a route of unbounded length generates."""
        stream, name = list(route.priors.items())[-1]
        return self.priors[name].config.patch * self.spec.stream(stream).hop / self.sample_rate

    def split_levels(self, levels: Sequence[int], route: Route) -> tuple[list[int], list[int]]:
        """Split `levels` into levels that a route samples, and levels into which the route's audio is encoded.

        Levels of other codecs, and levels finer than the finest stream of the route, are encoded. The encoded levels
        are ordered coarsest first. An unknown level is in the first part.
        """
        own = {name for stream in route.priors for name in self.codec_of(stream).config.spec.names}
        finest = min(self.spec.stream(name).hop for name in route.priors)
        streams = {level: self.stream(level) for level in levels if level in range(len(self.hops))}
        other = {level for level, stream in streams.items() if stream.name not in own or stream.hop < finest}
        return [level for level in levels if level not in other], sorted(other, reverse=True)

    def check_levels(self, levels: Sequence[int], route: Route, given: int | None = None) -> list[int]:
        """Return the levels that a route samples, coarsest first; empty `levels` mean all levels of the route.

        The result begins with the first level of the route, or with `given`, a level with existing codes. Raise UserError for a
        gap between levels, for a level of another route, and for a level without a trained prior.
        """
        order = [self.spec.names.index(stream) for stream in route.priors]
        if given is not None and given not in order:
            raise UserError(
                f"level {given} ({self.stream(given).name}) is not of the route {route.name}, which samples levels "
                f"{','.join(map(str, order))}; choose one of these, or another --route"
            )
        first = order.index(given) if given in order else 0
        chosen = [level for level in order[first:] if not levels or level in levels]
        if set(levels) - set(chosen) or chosen != order[first : first + len(chosen)]:
            raise UserError(
                f"levels {sorted(levels, reverse=True)}; expected level {order[first]} and those below it without a gap, as in "
                f"{','.join(map(str, order[first : first + 2]))}"
            )
        for level in chosen:
            name = route.priors[self.stream(level).name]
            if level != given and name not in self.priors:
                raise UserError(f"{self.folder} has no {self._how_to_train(name, level)}")
        return chosen

    def _how_to_train(self, name: str, level: int) -> str:
        """Message about an untrained prior of a route, with the command that trains the prior."""
        if name != f"prior_{level}":
            return f"{name} prior; {self.advice(f'{name} DATA --out {self.folder}')}"
        other = [route.name for route in self.routes.values() if route.priors.get(self.stream(level).name, "") in self.priors]
        also = f", or give --route {other[0]}" if other else ""
        return f"prior for level {level}; run `jukebox train prior --level {level}`, sample --levels above it{also}"


def threads_for(width: int, asked: int) -> int:
    """Number of CPU threads: `asked`, or for 0 a default for priors of this width.

    A wide prior gets all cores. Other priors get one thread, because their steps are too short to divide.
    """
    return asked or (1 if width < 512 else int(os.environ.get("OMP_NUM_THREADS") or usable_cores()))


def check_weights(request: Mapping[str, Any], info: ModelInfo) -> None:
    """Raise UserError if a weight file differs from the file that sampled the existing codes of a request."""
    known = request.get("model_hash") or {}
    if changed := [name for name, old in known.items() if not (path := info.folder / name).is_file() or file_hash(path) != old]:
        raise UserError(
            f"{', '.join(changed)} of {info.folder} changed since this run was sampled; its codes would not fit: sample again"
        )
