"""Jukebox: a model folder, that is a codec and a prior per level with the vocabularies they speak.

    config.json         codec: kind, file, configuration; priors: level, kind, file, reads, writes, configuration (one that
                        writes all levels has none to be named by: kind masked)
    codec.safetensors   every trained level of the codec (names start with `levels.<level>.`)
    prior_2.safetensors .. prior_0.safetensors, prior_masked.safetensors
    labels.json         artists, genres, pace of the lyrics        lyrics.json    the lyric vocabulary (and lyrics.model)
    labels_1.json ..    of a level whose prior has learned other labels (imported models)
    card.md             what this is, for people

A level is read when it is asked for, and only that: safetensors files are memory-mapped, and parameters are built without memory
before they are filled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from data_prep.errors import UserError
from data_prep.files import file_hash, write_json
from data_prep.labels import Labels
from jukebox.model.info import by_level
from priors.autoregressive.int8 import quantise
from priors.autoregressive.model import AutoregressivePrior, PriorConfig
from priors.conditioning.lyrics import PLAIN, Characters, SentencePieceVocabulary, Vocabulary
from priors.masked.model import MaskedConfig, MaskedPrior
from vqvae.jukebox.vqvae import VQVAE, VQVAEConfig

if TYPE_CHECKING:
    from jukebox.sampling.run import Run
    from jukebox.song import Song

CONFIG, CODEC = "config.json", "codec.safetensors"
MASKED, MASKED_FILE = "masked", "prior_masked.safetensors"
# of everything in a prior but its norms, which are float32 at least, and in int8 but the matrices; float64 is for checks
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
    "float64": torch.float64,
}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def is_norm(name: str) -> bool:
    """Whether a tensor belongs to a layer norm: these stay in float32 whatever the dtype of the rest."""
    return bool(re.search(r"(^|\.)ln(_\d)?\.(weight|bias)$", name))


class _Undrawn(TorchFunctionMode):
    """First weights are not drawn: to draw nothing on meta, torch would load its compiler (77 MB, more than a second)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (nn.init.normal_, Tensor.mul):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


@overload
def hollow(config: PriorConfig) -> AutoregressivePrior: ...
@overload
def hollow(config: MaskedConfig) -> MaskedPrior: ...
def hollow(config: PriorConfig | MaskedConfig) -> AutoregressivePrior | MaskedPrior:
    """A prior whose parameters have shapes and no memory (torch's meta device)."""
    with torch.device("meta"), _Undrawn():
        return MaskedPrior(config) if isinstance(config, MaskedConfig) else AutoregressivePrior(config)


def read_state(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a prior's file in `dtype`, its norms in float32 at least: never two copies of the whole.

    What the file has so is mapped, not read. Each tensor has a mapping of its own, which goes with it when it is converted or replaced.
    """
    state = {}
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    for name in names:
        wanted = torch.float32 if is_norm(name) and dtype.itemsize < 4 else dtype
        with safe_open(path, "pt") as file:
            state[name] = file.get_tensor(name).to(wanted)
    return state


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write lyrics.json, and lyrics.model where the vocabulary is one of pieces."""
    if isinstance(vocabulary, SentencePieceVocabulary):
        temporary = folder / f"lyrics.model.{os.getpid()}.tmp"
        temporary.write_bytes(vocabulary.model)
        os.replace(temporary, folder / "lyrics.model")
    write_json(folder / "lyrics.json", vocabulary.to_json())


def read_vocabulary(folder: Path) -> Vocabulary:
    """What `write_vocabulary` wrote."""
    data = json.loads((folder / "lyrics.json").read_text(encoding="utf-8"))
    if data["kind"] == SentencePieceVocabulary.kind:
        if not (folder / "lyrics.model").is_file():
            raise UserError(f"{folder} has no lyrics.model, the pieces of its lyrics; copy it beside lyrics.json")
        return SentencePieceVocabulary((folder / "lyrics.model").read_bytes())
    return Characters(data["symbols"])


class Jukebox:
    """A model folder opened; see the head of this module for what lies in it."""

    def __init__(self, folder: Path, config: dict):
        self.folder, self.config = Path(folder), config
        self.codec_config = VQVAEConfig.from_dict(config["codec"]["config"])
        self.prior_configs = {level: PriorConfig.from_json(p["config"]) for level, p in by_level(config).items()}
        masked = next((p for p in config["priors"] if p.get("kind") == MASKED), None)
        self.masked_config = masked and MaskedConfig.from_json(masked["config"])

    # ---- opening and making

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Jukebox:
        """Open a model folder; nothing heavy is read yet."""
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise UserError(
                f"{folder} holds no {CONFIG}; expected a model folder: train one with `jukebox train`, or give another path"
            )
        try:
            return cls(folder, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / CONFIG} is not a model configuration of this version ({error!r}); train or import it again"
            ) from error

    @classmethod
    def create(cls, folder: str | Path, codec: VQVAEConfig, vocabulary: Vocabulary | None = None) -> Jukebox:
        """Open a model folder, made first where there is none; an existing one must have the same codec configuration."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if (folder / CONFIG).is_file():
                model = cls.from_pretrained(folder)
                if model.codec_config != codec:
                    raise UserError(
                        f"{folder} already holds a codec of another configuration; name another --out, or the same preset"
                    )
                return model
            config = {"format": 1, "codec": {"kind": "vqvae", "file": CODEC, "config": asdict(codec)}, "priors": []}
            if not (folder / "lyrics.json").is_file():  # there if `jukebox lyrics train` came first
                write_vocabulary(folder, vocabulary or Characters(PLAIN))
            write_json(folder / CONFIG, config)
        return cls.from_pretrained(folder)

    # ---- what it speaks

    @property
    def sample_rate(self) -> int:
        return self.codec_config.sample_rate

    @property
    def hops(self) -> tuple[int, ...]:
        return self.codec_config.hops

    @property
    def labels(self) -> Labels:
        path = self.folder / "labels.json"
        return Labels.load(path) if path.is_file() else Labels(("unknown",), ("unknown",), None)

    def labels_of(self, level: int) -> Labels:
        """The labels that the prior of a level knows: of published sets each level may have learned others."""
        path = self.folder / f"labels_{level}.json"
        return Labels.load(path) if path.is_file() else self.labels

    def save_labels(self, labels: Labels, level: int | None = None) -> None:
        """Write the labels of the model, or those of one level that has its own."""
        labels.save(self.folder / ("labels.json" if level is None else f"labels_{level}.json"))

    @property
    def vocabulary(self) -> Vocabulary:
        return read_vocabulary(self.folder)

    # ---- the codec

    def trained_levels(self) -> tuple[int, ...]:
        """Levels of the codec that have weights on disk."""
        path = self.folder / CODEC
        if not path.is_file():
            return ()
        with safe_open(path, "pt") as file:
            return tuple(sorted({int(name.split(".")[1]) for name in file.keys()}))  # noqa: SIM118

    def codec(self, levels: Collection[int] | None = None) -> VQVAE:
        """The codec, ready for use; only the levels asked for are read (default: all that are trained)."""
        trained = self.trained_levels()
        levels = trained if levels is None else tuple(sorted(levels))
        missing = sorted(set(levels) - set(trained))
        if missing or not levels:
            raise UserError(
                f"{self.folder} has no trained codec for level {', '.join(map(str, missing)) or '0, 1 or 2'}; "
                "run `jukebox train vqvae` first"
            )
        codec = VQVAE(self.codec_config, levels)
        with safe_open(self.folder / CODEC, "pt") as file:
            names = [name for name in file.keys() if int(name.split(".")[1]) in levels]  # noqa: SIM118
            codec.load_state_dict({name: file.get_tensor(name) for name in names})
        return codec.eval()

    def save_codec(self, codec: VQVAE) -> None:
        """Write the levels that `codec` holds, keeping the others; safe beside another process that writes other levels."""
        with FileLock(self.folder / ".lock"):
            path, tensors = self.folder / CODEC, dict(codec.state_dict())
            mine = {name.split(".")[1] for name in tensors}
            if path.is_file():
                with safe_open(path, "pt") as file:
                    kept = [name for name in file.keys() if name.split(".")[1] not in mine]  # noqa: SIM118
                    tensors |= {name: file.get_tensor(name).clone() for name in kept}
            write_tensors(path, tensors)
            self.write_card()

    def codec_hash(self) -> str:
        """Names the codec's weights: codes of one codec mean nothing to another."""
        return file_hash(self.folder / CODEC)

    # ---- priors

    def prior(self, level: int, dtype: str = "float32") -> AutoregressivePrior:
        """The prior of a level, ready for use in a dtype of `DTYPES` (its norms in float32); no other file is read.

        In int8 are the weights that every code needs, those of the trunk and of the head, with a scale an output.
        """
        path = self.folder / f"prior_{level}.safetensors"
        if level not in self.prior_configs or not path.is_file():
            raise UserError(
                f"{self.folder} has no prior for level {level}; run `jukebox train prior --level {level}` first"
            )
        prior = hollow(self.prior_configs[level])
        _load_weights(prior, path, dtype)
        if dtype == "int8":
            quantise(prior)
        return prior

    def masked(self, dtype: str = "float32") -> MaskedPrior:
        """The prior that fills holes in all levels, ready for use; int8 is for codes drawn one by one, and bfloat16 here."""
        path = self.folder / MASKED_FILE
        if self.masked_config is None or not path.is_file():
            raise UserError(
                f"{self.folder} has no masked prior; run `jukebox train masked DATA --out {self.folder}` first"
            )
        prior = hollow(self.masked_config)
        _load_weights(prior, path, dtype)
        return prior

    def window(self, level: int, masked: bool = False) -> int:
        """Codes of a level in a window of its prior, or of the masked one."""
        if not masked:
            return self.prior_configs[level].n_ctx
        assert self.masked_config is not None
        return self.masked_config.n_ctx * self.masked_config.ratios[level]

    def save_masked(self, prior: MaskedPrior) -> None:
        """Write the masked prior and name it in the configuration."""
        write_tensors(self.folder / MASKED_FILE, dict(prior.state_dict()))
        writes = list(prior.spec.writes)
        self._name(
            {"kind": MASKED, "file": MASKED_FILE, "reads": writes, "writes": writes, "config": prior.config.to_json()}
        )

    def save_prior(self, level: int, prior: AutoregressivePrior) -> None:
        """Write the prior of a level and name it in the configuration."""
        write_tensors(self.folder / f"prior_{level}.safetensors", dict(prior.state_dict()))
        self.name_prior(level, prior.config)

    def name_prior(self, level: int, prior: PriorConfig) -> None:
        """Name the prior of a level, whose file is there, in the configuration."""
        self._name({
            "level": level, "kind": "autoregressive", "file": f"prior_{level}.safetensors",
            "reads": [level + 1] if prior.above else [], "writes": [level], "config": prior.to_json(),
        })  # fmt: skip

    def _name(self, entry: dict) -> None:
        """Put a prior in place of the one of the same file."""
        with FileLock(self.folder / ".lock"):
            config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            others = [p for p in config["priors"] if p["file"] != entry["file"]]
            config["priors"] = sorted([*others, entry], key=lambda p: p["file"])
            write_json(self.folder / CONFIG, config)
            self.__init__(self.folder, config)
            self.write_card()

    def alignment(self, level: int) -> dict | None:
        """The way by which the prior of a level tells best when words are sung, if one is known (`jukebox/alignment/align.py`)."""
        return by_level(self.config).get(level, {}).get("alignment")

    def save_alignment(self, level: int, way: dict) -> None:
        """Keep such a way with the prior; a prior that is written anew begins without one."""
        with FileLock(self.folder / ".lock"):
            self.config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            by_level(self.config)[level]["alignment"] = way
            write_json(self.folder / CONFIG, self.config)

    # ---- music: the same walk as the verbs, see jukebox/sampling/walk.py

    def sample(self, songs: Song | Sequence[Song], seconds: float, out: str | Path, **options) -> Run:
        """Write songs from nothing into the run folder `out`; `options` as in `jukebox.sampling.walk.sample`."""
        from jukebox.sampling import walk as sample

        return sample.sample(self, _listed(songs), seconds, out, **options)

    def continue_(
        self, songs: Song | Sequence[Song], prompts: str | Path | Sequence[str | Path], prompt_seconds: float, seconds: float,
        out: str | Path, **options,
    ) -> Run:  # fmt: skip
        """Carry on recordings in the run folder `out`; `options` as in `jukebox.sampling.walk.continue_`."""
        from jukebox.sampling import walk as sample

        paths = [prompts] if isinstance(prompts, str | Path) else list(prompts)
        return sample.continue_(self, _listed(songs), paths, prompt_seconds, seconds, out, **options)

    def hashes(self) -> dict[str, str]:
        """Hash of every weight file, for the provenance of a run."""
        return {path.name: file_hash(path) for path in sorted(self.folder.glob("*.safetensors"))}

    def write_card(self) -> None:
        """card.md: sizes and parts, for people."""
        codec = self.codec_config
        lines = [
            "# A Jukebox model", "",
            f"- sound: {codec.sample_rate} Hz, {codec.channels} channel(s); hops {', '.join(map(str, codec.hops))} samples a code",
            f"- codec: {codec.bins} codes a level; trained levels: {', '.join(map(str, self.trained_levels())) or 'none'}",
        ]  # fmt: skip
        for level, prior in sorted(self.prior_configs.items(), reverse=True):
            inputs = [
                name
                for name, part in (
                    ("labels", prior.labels),
                    ("lyrics", prior.lyrics),
                    (f"level {level + 1}", prior.above),
                )
                if part
            ]
            seconds = prior.n_ctx * prior.hop / prior.sample_rate
            lines.append(f"- prior of level {level}: width {prior.trunk.width}, depth {prior.trunk.depth}, window {prior.n_ctx} codes "
                         f"({seconds:.2f} s); hears {', '.join(inputs) or 'nothing'}")  # fmt: skip
        if masked := self.masked_config:
            seconds = masked.n_ctx * masked.hop / masked.sample_rate
            lines.append(f"- masked prior of all levels: width {masked.trunk.width}, depth {masked.trunk.depth}, "
                         f"window {masked.n_ctx} columns ({seconds:.2f} s)")  # fmt: skip
        (self.folder / "card.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _load_weights(prior: nn.Module, path: Path, dtype: str) -> None:
    """Fill a hollow prior from its file, in a dtype of `DTYPES`, for use."""
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    prior.load_state_dict(read_state(path, DTYPES[dtype]), assign=True)
    prior.eval().requires_grad_(False)


def _listed(songs: Song | Sequence[Song]) -> list[Song]:
    return list(songs) if isinstance(songs, Sequence) else [songs]
