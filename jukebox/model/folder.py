"""An opened model directory: codecs, priors, and the labels and lyric vocabulary of their training songs.

    config.json         see jukebox/model/info.py
    codec.safetensors   the trained streams of the codec; a further codec has codec_KIND.safetensors
    prior_2.safetensors .. prior_0.safetensors, masked.safetensors ..   one file per prior, by its name
    labels.json         artists, genres, pace of the lyrics        lyrics.json    the lyric vocabulary (and lyrics.model)
    labels_1.json ..    labels of one prior, if they differ (imported models)
    provenance.json     counts of the training songs         card.md    the model card

Only requested parts are read. Safetensors files are memory-mapped, and parameters are created on the meta device before they
are loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from data_prep.errors import UserError
from data_prep.files import file_hash, named_in_utf_8, replacing, stand_in, write_bytes, write_json
from data_prep.labels import Labels
from jukebox.model.info import CONFIG, CodecEntry, ModelInfo, PriorEntry, open_weights
from jukebox.model.provenance import card_lines
from jukebox.model.routes import Routes
from priors.conditioning.vocabulary import PLAIN, Characters, SentencePieceVocabulary, Vocabulary
from priors.prior import HasTrunk, Prior
from priors.registry import PRIORS
from priors.spec import PriorConfig
from vqvae.codec import Codec
from vqvae.registry import CODECS
from vqvae.streams import CodecConfig, CodecSpec, Stream

CODEC = "codec.safetensors"
M = TypeVar("M", bound="ModelFolder")
# dtype of a prior's tensors; layer norms have at least float32. With int8 only matrices become int8. float64 is for checks.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
    "float64": torch.float64,
}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def is_norm(name: str) -> bool:
    """Whether a tensor belongs to a layer norm; layer norms have at least float32 in every dtype of a prior."""
    return bool(re.search(r"(^|\.)ln(_\d)?\.(weight|bias)$", name))


class _Undrawn(TorchFunctionMode):
    """Skip the weight initialisation, for which torch would load its compiler on the meta device (77 MB, over a second)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (nn.init.normal_, Tensor.mul):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def build_codec(config: CodecConfig, streams: Collection[str] | None = None) -> Codec:
    """Build a codec with random weights; `streams` restricts the codec to the modules that these streams need."""
    return CODECS.load(config.kind)(config, streams)


def build_prior(config: PriorConfig) -> Prior:
    """Build a prior with random weights."""
    return PRIORS.load(config.kind)(config)


def hollow(config: PriorConfig) -> Prior:
    """Build a prior on torch's meta device; its parameters have shapes but occupy no memory."""
    with torch.device("meta"), _Undrawn():
        return build_prior(config)


def read_state(path: Path, dtype: torch.dtype, rename: Callable[[str], str] = str) -> dict[str, Tensor]:
    """Read the tensors of a prior's file in `dtype`, and layer norms in at least float32.

    A tensor that has this dtype in the file is memory-mapped. Each tensor has a separate mapping, which is released when the
    tensor is converted or replaced. So two copies of the whole prior are never in memory.
    """
    state = {}
    with open_weights(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        wanted = torch.float32 if is_norm(name) and dtype.itemsize < 4 else dtype
        with open_weights(path, "pt") as file:
            state[rename(name)] = file.get_tensor(name).to(wanted)
    return state


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write lyrics.json, and also lyrics.model for a SentencePiece vocabulary."""
    if isinstance(vocabulary, SentencePieceVocabulary):
        write_bytes(folder / "lyrics.model", vocabulary.model)
    write_json(folder / "lyrics.json", vocabulary.to_json())


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read a vocabulary that `write_vocabulary` wrote; raise UserError for other files."""
    path = folder / "lyrics.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or "kind" not in data:
            raise ValueError("it names no kind")
    except ValueError as error:
        raise UserError(f"{path} is {stand_in(path) or f'no lyric vocabulary ({error})'}; download or copy it again") from error
    if data["kind"] == SentencePieceVocabulary.kind:
        if not (folder / "lyrics.model").is_file():
            raise UserError(f"{folder} has no lyrics.model, the pieces of its lyrics; copy it beside lyrics.json")
        return SentencePieceVocabulary((folder / "lyrics.model").read_bytes())
    return Characters(data["symbols"])


class ModelFolder:
    """An opened model directory; the docstring of this module lists the files."""

    def __init__(self, info: ModelInfo):
        self.info = info

    # ---- opening and making

    @classmethod
    def from_pretrained(cls: type[M], folder: str | Path = "") -> M:
        """Open a model directory (empty: the model in the package). Weights are read on first use."""
        return cls(ModelInfo.read(folder))

    @classmethod
    def create(
        cls: type[M], folder: str | Path, codec: CodecConfig, vocabulary: Vocabulary | None = None, routes: Routes | None = None
    ) -> M:  # fmt: skip
        """Open or create a model directory, and add a codec of this configuration and these routes.

        Raise UserError if the directory holds a codec of the same kind with another configuration.
        """
        model = cls._with_codec(named_in_utf_8(Path(folder), "a model folder"), codec, vocabulary, routes)
        if not codec.learned and not model.info.codes_hash(codec.spec.names[0]):
            model.save_codec(build_codec(codec))
        return model

    @classmethod
    def _with_codec(cls: type[M], folder: Path, codec: CodecConfig, vocabulary: Vocabulary | None, routes: Routes | None) -> M:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if (folder / CONFIG).is_file():
                model = cls.from_pretrained(folder)
                same_kind = [entry for entry in model.info.codecs if entry.config.kind == codec.kind]
                if same_kind and same_kind[0].config != codec:
                    raise UserError(
                        f"{folder} already holds a codec of another configuration; name another --out, or the same preset"
                    )
                info = model.info
                more = {name: each for name, each in (routes or {}).items() if name not in info.stored_routes}
                if not same_kind:
                    info = replace(info, codecs=(*info.codecs, CodecEntry(codec, f"codec_{codec.kind}.safetensors")))
                if more or not same_kind:
                    model._write(replace(info, stored_routes={**info.stored_routes, **more}))
                return model
            if not (folder / "lyrics.json").is_file():  # `jukebox lyrics train` may have written the vocabulary
                write_vocabulary(folder, vocabulary or Characters(PLAIN))
            write_json(folder / CONFIG, ModelInfo(folder, (CodecEntry(codec, CODEC),), {}, routes or {}).to_json())
        return cls.from_pretrained(folder)

    def _write(self, info: ModelInfo) -> None:
        """Write `info` to config.json; the caller holds the lock of the directory."""
        write_json(self.folder / CONFIG, info.to_json())
        self.info = info

    def add_preset(self, name: str) -> None:
        """Record the preset of a training in config.json; the list of presets begins with the latest preset."""
        with FileLock(self.folder / ".lock"):
            info = ModelInfo.read(self.folder)
            if info.presets[:1] != (name,):
                self._write(replace(info, presets=tuple(dict.fromkeys((name, *info.presets)))))

    # ---- its parts

    @property
    def folder(self) -> Path:
        return self.info.folder

    @property
    def spec(self) -> CodecSpec:
        return self.info.spec

    @property
    def sample_rate(self) -> int:
        return self.spec.sample_rate

    @property
    def hops(self) -> tuple[int, ...]:
        return self.spec.hops

    @property
    def labels(self) -> Labels:
        return self.info.labels

    def labels_of(self, prior: str) -> Labels:
        """Return the labels that a prior was trained on; the priors of a published set may have different labels."""
        path = self.folder / PriorEntry(prior, None).labels_file  # type: ignore[arg-type]
        return Labels.load(path) if path.is_file() else self.labels

    def save_labels(self, labels: Labels, prior: str = "") -> None:
        """Write the labels of the model, or with `prior` the labels of one prior."""
        name = PriorEntry(prior, None).labels_file if prior else "labels.json"  # type: ignore[arg-type]
        labels.save(self.folder / name)

    @property
    def vocabulary(self) -> Vocabulary:
        return read_vocabulary(self.folder)

    # ---- codecs

    def trained_streams(self) -> tuple[str, ...]:
        """Streams whose codec has weights on disk, finest first."""
        found = []
        for entry in self.info.codecs:
            path = self.folder / entry.file
            if path.is_file():
                with open_weights(path, "pt") as file:
                    names = list(file.keys())
                found += [stream for stream in entry.config.spec.names if entry.config.tensors(stream, names)]
        return tuple(found)

    def decodable_streams(self) -> tuple[str, ...]:
        """Trained streams that their codec decodes. Other streams need a prior as the decoder."""
        return tuple(stream for stream in self.trained_streams() if self.info.codec_of(stream).config.decodes)

    def codec(self, streams: Collection[str] | None = None) -> Codec:
        """Load the codec of `streams` (default: all trained streams), and read only the tensors of these streams.

        Raise UserError for untrained streams, and for streams of different codecs.
        """
        trained = self.trained_streams()
        streams = trained if streams is None else tuple(streams)
        missing = sorted(set(streams) - set(trained))
        if missing or not streams:
            raise UserError(
                f"{self.folder} has no trained codec for {', '.join(missing) or 'any stream'}; {self.info.advice('vqvae')}"
            )
        entry = self.info.codec_of(streams[0])
        if others := [stream for stream in streams if stream not in entry.config.spec.names]:
            raise UserError(f"{streams[0]} and {others[0]} are of different codecs of {self.folder}; load one after the other")
        streams = [stream for stream in entry.config.spec.names if stream in streams]
        codec = build_codec(entry.config, streams)
        with open_weights(self.folder / entry.file, "pt") as file:
            all_names = list(file.keys())
            names = dict.fromkeys(name for stream in streams for name in entry.config.tensors(stream, all_names))
            codec.load_state_dict({name: file.get_tensor(name) for name in names})
        return codec.eval()

    def save_codec(self, codec: Codec) -> None:
        """Write the streams of `codec` and keep other streams of the file. Another process may write others meanwhile."""
        entry = next(entry for entry in self.info.codecs if entry.config == codec.config)
        with FileLock(self.folder / ".lock"):
            path, tensors = self.folder / entry.file, dict(codec.state_dict())
            if path.is_file():
                with open_weights(path, "pt") as file:
                    kept = [name for name in file.keys() if name not in tensors]  # noqa: SIM118
                    tensors |= {name: file.get_tensor(name).clone() for name in kept}
            write_tensors(path, tensors)
            self.write_card()

    # ---- priors

    def entry(self, prior: str) -> PriorEntry:
        """Return the entry of a trained prior; raise UserError if the prior is not trained."""
        found = self.info.priors.get(prior)
        if found is None or not (self.folder / found.file).is_file():
            what = f"prior --level {prior[6:]}" if prior.startswith("prior_") else f"{prior} DATA --out {self.folder}"
            raise UserError(f"{self.folder} has no {prior.replace('_', ' of level ')}; {self.info.advice(what)}")
        return found

    def prior(self, prior: str, dtype: str = "float32") -> Prior:
        """Load a prior in a dtype of `DTYPES`, with layer norms in at least float32; no other file is read.

        With int8 the weights that every sequential step reads are int8 with a scale per output. A prior without sequential
        steps is then in bfloat16.
        """
        entry = self.entry(prior)
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
        made = hollow(entry.config)
        made.load_state_dict(read_state(self.folder / entry.file, DTYPES[dtype], entry.config.state_name), assign=True)
        made.eval().requires_grad_(False)
        if dtype == "int8" and isinstance(made, HasTrunk):
            made.quantise()
        return made

    def save_prior(self, name: str, prior: Prior, without_lyrics: bool = False) -> None:
        """Write the weights of a prior and add the prior to config.json; `without_lyrics`: no training song had lyrics."""
        write_tensors(self.folder / PriorEntry(name, prior.config).file, dict(prior.state_dict()))
        self.name_prior(name, prior.config, without_lyrics)

    def name_prior(self, name: str, config: PriorConfig, without_lyrics: bool = False) -> None:
        """Add a prior with an existing file to config.json, and drop the alignment method of an earlier prior of this name."""
        self._update(PriorEntry(name, config, without_lyrics=without_lyrics))
        self.write_card()

    def save_alignment(self, prior: str, way: dict) -> None:
        """Store the best alignment method of a prior in config.json; a new `save_prior` removes the method."""
        self._update(replace(self.info.priors[prior], alignment=way))

    def _update(self, entry: PriorEntry) -> None:
        """Add or replace the entry of a prior in config.json, and preserve concurrent changes of other processes."""
        with FileLock(self.folder / ".lock"):
            self._write(ModelInfo.read(self.folder).with_prior(entry))

    def hashes(self) -> dict[str, str]:
        """Return the hash of every weight file by file name; a run records these hashes."""
        return {path.name: file_hash(path) for path in sorted(self.folder.glob("*.safetensors"))}

    def write_card(self) -> None:
        """Write the model card card.md: streams, priors, their sizes, and the training songs."""
        spec, trained = self.spec, self.trained_streams()
        lines = [
            "# A Jukebox model", "",
            f"- audio: {spec.sample_rate} Hz, {spec.channels} channel(s)",
            *(f"- {_stream_line(stream, stream.name in trained)}" for stream in spec.streams),
            *(f"- {_prior_line(entry)}" for _, entry in sorted(self.info.priors.items(), reverse=True)),
            *(f"- {line}" for line in card_lines(self.folder)),
        ]  # fmt: skip
        (self.folder / "card.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _stream_line(stream: Stream, trained: bool) -> str:
    frame = f"{stream.books} of {stream.bins} codes" if stream.bins else f"{stream.width} numbers"
    return f"stream {stream.name}: {frame} every {stream.hop} samples{'' if trained else ', not trained'}"


def _prior_line(entry: PriorEntry) -> str:
    config, spec = entry.config, entry.config.spec
    inputs = [name for name, part in (("labels", config.labels), ("lyrics", config.lyrics)) if part]
    inputs += [stream for stream in spec.reads if stream not in spec.writes]
    seconds = config.n_ctx * config.hop / config.sample_rate
    return (
        f"prior {entry.name} ({config.kind}) of {', '.join(spec.writes)}: {config.parameters().all:,} parameters, "
        f"window {config.n_ctx} frames ({seconds:.2f} s); conditioned on {', '.join(inputs) or 'nothing'}"
    )
