"""A toy codec in one file, as another package would bring it: one stream of codes with two books, one of latents.

A frame of 64 samples becomes four numbers by a learned linear map. The latents are these; the codes are the first two of
them, rounded to 16 steps each. It exists to show that a codec needs no change to the project.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from toy_prior import ToyPriorConfig

from jukebox.model.folder import build_codec
from jukebox.model.presets import Preset
from jukebox.model.recipe import Recipe
from launch.corpus.pcm import open_pcm
from launch.training.tasks.task import Task, TaskSetup, fold, part, settings, training_rows
from vqvae.codec import Codec, Sequences
from vqvae.streams import CodecConfig, CodecSpec, Stream

HOP, BINS = 64, 16


@dataclass(frozen=True)
class ToyCodecConfig(CodecConfig):
    """Its rate, and the number of values per frame."""

    kind = "toy-codec"
    sample_rate: int = 8000
    width: int = 4

    @property
    def spec(self) -> CodecSpec:
        codes = Stream("toy.codes", HOP, books=2, bins=BINS, dtype="uint8")
        latents = Stream("toy.latents", 2 * HOP, width=2 * self.width, dtype="float32")
        return CodecSpec(self.sample_rate, 1, (codes, latents))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ToyCodecConfig:
        return cls(**data)

    def codes_tensors(self, stream: str, names: Collection[str]) -> list[str]:
        return [name for name in names if name.startswith("encoder.")]

    def parameter_count(self, stream: str) -> int:
        return 2 * HOP * self.width + HOP + self.width

    def receptive_field(self, stream: str) -> int:
        return 2 * HOP

    def decoder_state(self, stream: str) -> int:
        return 2 * HOP

    def decoder_products(self, stream: str) -> float:
        return self.width


class ToyCodec(Codec):
    """Frames to numbers and back, linearly."""

    def __init__(self, config: ToyCodecConfig, streams: Collection[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = nn.Linear(HOP, config.width), nn.Linear(config.width, HOP)

    def _latents(self, audio: Tensor) -> Tensor:
        frames = audio[..., : audio.shape[-1] // HOP * HOP].reshape(len(audio), -1, HOP)
        return self.encoder(frames)  # (B, T, W)

    def loss(self, audio: Tensor) -> dict[str, Tensor]:
        error = (self.decoder(self._latents(audio)).flatten(1) - audio.flatten(1)).square().mean()
        return {"loss": error}

    @torch.no_grad()
    def encode(self, audio: Tensor, streams: Collection[str]) -> Sequences:
        latents = self._latents(audio)
        codes = ((latents[..., :2].tanh() + 1) / 2 * (BINS - 1)).round().long()
        pairs = latents[:, : latents.shape[1] // 2 * 2].reshape(len(audio), -1, 2 * self.config.width)
        return {name: {"toy.codes": codes, "toy.latents": pairs}[name] for name in streams}

    @torch.no_grad()
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Tensor:
        values = sequences[stream]
        if stream == "toy.codes":
            near = (values.float() / (BINS - 1) * 2 - 1).clamp(-0.99, 0.99).atanh()
            latents = torch.cat([near, near.new_zeros(*near.shape[:2], self.config.width - 2)], dim=2)
        else:
            latents = values.reshape(len(values), -1, self.config.width)
        return self.decoder(latents).flatten(1)[:, None]

    def encoder_stream(self, blocks: Iterable[Tensor], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        held, unit = torch.zeros(1, 0), self.spec.unit
        for block in blocks:
            held = torch.cat([held.to(block), block], dim=1)
            whole = held.shape[1] // unit * unit
            yield {name: x[0] for name, x in self.encode(held[None, :, :whole], streams).items()}
            held = held[:, whole:]
        if held.shape[1] >= HOP:  # the last codes have no whole latent
            yield {name: x[0] for name, x in self.encode(held[None], streams).items()}

    def decoder_stream(self, stream: str) -> _Decoder:
        return _Decoder(self, stream)


@dataclass
class _Decoder:
    codec: ToyCodec
    stream: str

    def push(self, values: Tensor, last: bool = False) -> Iterator[Tensor]:
        yield self.codec.decode({self.stream: values[None]}, self.stream)[0]


class ToyCodecTask(Task):
    """The codec on random crops of audio; all of its streams learn at once."""

    unit = "seconds"

    def __init__(self, setup: TaskSetup) -> None:
        self.setup, self.config = setup, setup.model.info.codec_of(setup.part).config
        self.name, self.identity = "toy-codec", settings(self.config, setup.part)
        self.amount = setup.recipe.batch * setup.recipe.crop / self.config.spec.sample_rate
        torch.manual_seed(fold(setup.seed, 0))
        self.model: Any = build_codec(self.config)

    def open(self) -> None:
        spec = self.config.spec
        self.songs = open_pcm(self.setup.data, training_rows(self.setup.data), spec.sample_rate, spec.channels)

    def batch(self, step: int, rank: int, world: int) -> Tensor:
        setup = self.setup
        places = self.songs.draw((setup.seed, step), setup.recipe.batch, setup.recipe.crop)
        crops = [
            torch.from_numpy(self.songs.crop(*place, setup.recipe.crop)) for place in places[part(len(places), rank, world)]
        ]
        return torch.stack(crops)

    def loss(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        return self.model.loss(batch)

    def save(self, model: Any) -> None:
        self.setup.model.save_codec(model)


_RECIPE = Recipe(steps=40, batch=8, lr=1e-2, crop=1024, warmup=5, log_every=10, save_every=20)
PRESET = Preset(
    ToyCodecConfig(),
    {"toy.codes": _RECIPE},
    {"toy": ToyPriorConfig()},
    {"toy": Recipe(steps=60, batch=8, lr=1e-2, warmup=5, log_every=10, save_every=30)},
)
