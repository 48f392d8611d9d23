"""Training tasks of codecs on random crops of the training songs. A task trains one stream, or all streams of a codec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.manifest import SILENT
from jukebox.model.folder import build_codec
from launch.cluster.group import print_once, who
from launch.corpus.pcm import Pcm, open_pcm
from launch.training.tasks.examples import codec_examples
from launch.training.tasks.task import FIRST_WEIGHTS, Task, TaskSetup, fold, part, settings, training_rows
from vqvae.jukebox.losses import Bandwidth, measure_bandwidth
from vqvae.spectral.model import Drawn

SILENT_CROPS = 32  # with random gains, one crop in 32 is silent
STATISTICS = 64  # number of crops for the feature statistics of the spectral codec


class CodecTask(Task):
    """Training of a codec on random crops of the training songs. The name of the part is the name of a stream."""

    unit = "seconds"
    together = ""  # a prior that is trained and written with the codec

    def __init__(self, setup: TaskSetup) -> None:
        recipe, self.seed = setup.recipe, setup.seed
        self.cache = setup.cache
        self.jukebox, self.data, self.recipe, self.device = setup.model, setup.data, recipe, torch.device(setup.device)
        self.config = setup.model.info.codec_of(setup.part).config
        self.stream, self.identity = self.config.spec.stream(setup.part), settings(self.config, setup.part)
        if recipe.crop % self.stream.hop or recipe.crop <= self.shortest:
            raise UserError(f"a crop of {recipe.crop} samples; expected a multiple of {self.stream.hop} above {self.shortest}")
        self.amount = recipe.batch * recipe.crop / self.config.spec.sample_rate
        self.key, self.songs = self.stream.seed_key, None
        self.model = self.build()

    def build(self) -> Any:
        """Build the model with its initial weights."""
        torch.manual_seed(fold(self.seed, self.key, FIRST_WEIGHTS))
        return build_codec(self.config, [self.stream.name])

    @property
    def shortest(self) -> int:
        """Length in samples that a crop must exceed."""
        return 0

    def open(self) -> None:
        """Open the decoded corpus, and report silent crops and short songs."""
        spec = self.config.spec
        self.songs: Pcm | None = open_pcm(self.data, training_rows(self.data), spec.sample_rate, spec.channels, self.cache)
        some = [
            self.songs.crop(*place, self.recipe.crop) for place in self.songs.draw((self.seed, self.key), 64, self.recipe.crop)
        ]
        if silent := sum(np.abs(crop).max() < SILENT for crop in some):
            print_once(f"{self.name}: {silent} of {len(some)} crops are silent, of which a codec learns nothing but silence")
        if short := int((self.songs.lengths < self.recipe.crop).sum()):
            print_once(f"{self.name}: {short} of {len(self.songs.lengths)} songs are shorter than a crop and end in silence")

    def batch(self, step: int, rank: int, world: int) -> Float[Tensor, "b c t"]:
        assert self.songs is not None, "open() comes first"
        places = self.songs.draw((self.seed, self.key, step), self.recipe.batch, self.recipe.crop)
        shares = blend_shares(len(places), np.random.default_rng([self.seed, step]))
        mine = part(len(places), rank, world)
        crops = np.stack([self.songs.crop(song, start, self.recipe.crop) for song, start in places[mine]])
        gains = random_gains(len(places), self.recipe.gain_db, np.random.default_rng([self.seed, step, 1]))
        return torch.from_numpy(blend(crops, shares[mine]) * gains[mine, None, None])

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        return self.model.loss(
            batch.to(self.device, non_blocking=True),
            generator=torch.Generator().manual_seed(fold(self.seed, step)),  # the same on every rank
            quantise=step >= self.recipe.delay_quantiser * self.recipe.steps,
        )

    def save(self, model: Any) -> None:
        folder, stream = self.jukebox, self.stream.name
        before = folder.info.codes_hash(stream)
        folder.save_codec(model)
        others = [prior for prior in folder.info.priors.values() if prior.name != self.together]
        readers = [p.name for p in others if stream in (*p.config.spec.reads, *p.config.spec.writes)]
        if readers and folder.info.codes_hash(stream) != before:
            print_once(
                f"{self.name}: {', '.join(readers)} of {folder.folder} were trained on other codes; encode and train them again"
            )

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """Write the reconstructed start of the first training song, and a picture of the codebook."""
        assert self.songs is not None
        return codec_examples(model, self.stream.name, self.songs, self.device, folder, step)


class VQVAETask(CodecTask):
    """Training of one stream of the three-level VQ-VAE."""

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self.name, self.bandwidth = f"vqvae_{self.key}", Bandwidth()

    @property
    def shortest(self) -> int:
        return max(n_fft for n_fft, _, _ in self.config.multispectral_stfts) // 2  # type: ignore[attr-defined]

    def open(self) -> None:
        """Open the corpus, and read or measure the bandwidth."""
        super().open()
        assert self.songs is not None
        self.bandwidth = self._bandwidth(self.songs)

    def _bandwidth(self, songs: Pcm) -> Bandwidth:
        """Return the bandwidth of the corpus. It is measured once on training crops and stored in the model folder."""
        crop, stft = self.recipe.crop, self.config.spectral_stft  # type: ignore[attr-defined]
        path, name = self.jukebox.folder / "bandwidth.json", f"level {self.key}, crops of {crop}, songs {songs.key}"
        with FileLock(self.jukebox.folder / ".lock"):
            kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if name not in kept:
                some = (songs.crop(*place, crop) for place in songs.draw((self.seed, self.key), 256, crop))
                kept[name] = measure_bandwidth(map(torch.from_numpy, some), stft).to_dict()
                write_json(path, kept)
        return Bandwidth(**kept[name])

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        losses = self.model.loss(
            batch.to(self.device, non_blocking=True),
            generator=torch.Generator().manual_seed(fold(self.seed, step)),  # the same on every rank
            quantise=step >= self.recipe.delay_quantiser * self.recipe.steps,
            bandwidth=self.bandwidth,
        )
        return {name: value for name, value in losses.items() if not name.endswith(f"_l{self.key}")}


class SpectralTask(CodecTask):
    """Training of the spectral codec. Latents and tokens are trained together, and the part has the name of the tokens."""

    name = "spectral"

    def drawn(self, samples: int, step: int, quantise: bool = True) -> Drawn:
        """Return the random values for the batch rows of this rank. They do not depend on the number of ranks."""
        generator, rows = torch.Generator().manual_seed(fold(self.seed, step)), self.recipe.batch
        drawn: Drawn = self.codec.draw(rows, samples, quantise, generator)
        return drawn.rows(part(rows, *who()))

    @property
    def codec(self) -> Any:
        return self.model

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        quantise = step >= self.recipe.delay_quantiser * self.recipe.steps
        return self.model.loss(
            batch.to(self.device, non_blocking=True),
            generator=torch.Generator().manual_seed(fold(self.seed, step)),  # the same on every rank
            quantise=quantise, drawn=self.drawn(batch.shape[-1], step, quantise),
        )  # fmt: skip

    def open(self) -> None:
        """Open the corpus, and measure the statistics of the features unless a checkpoint has them."""
        super().open()
        if not self.codec.features.fitted:
            self.codec.initialise(self._some_crops().to(self.device), torch.Generator())

    def _some_crops(self) -> Float[Tensor, "b c t"]:
        assert self.songs is not None
        places = self.songs.draw((self.seed, self.key), STATISTICS, self.recipe.crop)
        return torch.from_numpy(np.stack([self.songs.crop(*place, self.recipe.crop) for place in places]))

    def save(self, model: Any) -> None:
        """Fit the gain per bin on training songs, if configured, and write the codec."""
        if model.config.gain:
            if self.songs is None:  # the training was finished earlier, so `open` was not called
                super().open()
            model.fit_gain(self._some_crops().to(model.device).split(8))
        super().save(model)


def blend_shares(rows: int, rng: np.random.Generator) -> Float[np.ndarray, " b"]:
    """Sample a share of channel mixing for each crop: 0 for half of the crops, else uniform in [0, 1).

    The share 1/2 means mono. The share 1 means swapped channels.
    """
    return np.where(rng.random(rows) < 0.5, 0.0, rng.random(rows)).astype(np.float32)


def random_gains(rows: int, most_db: float, rng: np.random.Generator) -> Float[np.ndarray, " b"]:
    """Sample a gain for each crop, so that the codec learns quiet passages.

    About half of the gains are 1, some are 0, and the others are between 0 and -`most_db` dB. If `most_db` is 0, all are 1.
    """
    if not most_db:
        return np.ones(rows, np.float32)
    gains = np.where(rng.random(rows) < 0.5, 1.0, 10 ** (-most_db / 20 * rng.random(rows)))
    return np.where(rng.random(rows) < 1 / SILENT_CROPS, 0.0, gains).astype(np.float32)


def blend(crops: Float[np.ndarray, "b c t"], shares: Float[np.ndarray, " b"]) -> Float[np.ndarray, "b c t"]:
    """Mix the channels of stereo crops by `shares`, so that the codec is trained on all stereo widths."""
    if crops.shape[1] != 2:
        return crops
    shares = shares[:, None, None]
    return (1 - shares) * crops + shares * crops[:, ::-1]
