"""`jukebox ablate bottleneck DATA`: ablation of the argmax bottleneck at equal steps.

All arms train the finest level of the codec of --preset: argmax with and without diversity loss, codebook with and without
restarts. The coarsest level has 8 bits for 128 samples, so its codes cannot save more than 0.06 bits per sample.

    perplexity    2 ** entropy of the codes of held-out songs
    own, other    bits of held-out samples by a WaveNet that decodes the codes of the song; control: the codes of another song

The WaveNet has a short receptive field. With a receptive field longer than a note it would predict samples without the codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from jukebox.evaluation.fidelity import BANDS, band_figures
from jukebox.evaluation.held_out import PriorWindows, hold_out, split_rows
from jukebox.evaluation.metrics import codebook_use, mel_distance
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.model.recipe import Recipe
from launch.ablate.experiment import Arm, Comparison, Experiment, Figures, Unit
from launch.corpus.encode import encode
from launch.corpus.pcm import open_pcm
from priors.conditioning.conditions import stack
from priors.wavenet.config import StackConfig, WaveNetConfig
from vqvae.jukebox.config import VQVAEConfig
from vqvae.mulaw.config import BINS, MULAW, SILENCE, MuLawConfig

VARIANTS: Mapping[str, dict[str, Any]] = {
    "argmax": {"bottleneck": "argmax"},
    "argmax without diversity": {"bottleneck": "argmax", "diversity": 0.0},
    "codebook": {},
    "codebook without restarts": {"threshold": 0.0},
}
DECODER = StackConfig(4, 1, 32, 32, 32)  # receptive field of 16 samples
DECODER_RECIPE = Recipe(steps=1, batch=4, lr=4e-3, warmup=20, log_every=50)
FRAMES, WINDOWS, SECONDS = 256, 128, 10.0  # codes in a window of the decoder; held-out windows; seconds of a held-out song


def shape_of(unit: Unit) -> tuple[VQVAEConfig, Recipe]:
    """Return the codec of the preset with the changes of the arm, and its recipe without a warm-up of the encoder."""
    preset: Any = find(unit.preset)
    recipe = preset.codec_recipes[preset.codec.spec.names[0]]
    return replace(preset.codec, **unit.arm.changes), replace(recipe, delay_quantiser=0.0)


def check(unit: Unit) -> None:
    """Decode the corpus to samples before the processes start; UserError if a split is empty."""
    config, _ = shape_of(unit)
    split_rows(unit.data, "test")
    open_pcm(unit.data, split_rows(unit.data, "train"), config.sample_rate, config.channels)


def train_and_measure(unit: Unit) -> Figures:
    (config, recipe), folder = shape_of(unit), unit.folder / "model"
    ModelFolder.create(folder, config)
    model = ModelFolder.create(folder, MuLawConfig(config.sample_rate))
    stream: Any = config.spec.streams[0]
    unit.train(unit.new_task(model, stream.name, recipe))
    held = hold_out(model, unit.data, unit.songs, SECONDS)
    share, entropy = codebook_use(
        torch.cat([torch.from_numpy(codes[stream.name].astype("int64")) for codes in held.codes]), stream.bins
    )
    figures: Figures = {
        "perplexity": 2.0**entropy,
        "codes_used": share * stream.bins,
        **reconstruction_figures(model, stream.name, held),
    }
    encode(str(unit.data), str(folder), split="train", threads=1, device="cpu", cache=str(unit.folder))
    decoder = WaveNetConfig(
        MULAW,
        BINS,
        1,
        config.sample_rate,
        FRAMES * stream.hop,
        SILENCE,
        DECODER,
        stream.hop,
        reads=stream.name,
        read_bins=stream.bins,
    )
    unit.train(unit.new_task(model, "decoder", DECODER_RECIPE, decoder, unit.folder), "training_decoder")
    return figures | {"bits": bits_of(model, decoder, held, unit.seed)}


def reconstruction_figures(model: ModelFolder, stream: str, held: Any) -> Figures:
    """Return the mel distance and the errors by band, averaged over held-out songs."""
    codec, found = model.codec([stream]), []
    for wave, codes in zip(held.waves, held.codes, strict=True):
        made = codec.decode_long(torch.from_numpy(codes[stream].astype("int64"))[None], stream)
        errors = band_figures(wave[None], made, model.sample_rate)["error"]
        found.append([mel_distance(wave.mean(0), made[0].mean(0), model.sample_rate), *errors])
    return dict(zip(["mel_db", *(f"error {band}" for band in BANDS)], torch.tensor(found).mean(0).tolist(), strict=True))


def bits_of(model: ModelFolder, config: WaveNetConfig, held: Any, seed: int) -> Figures:
    """Return the decoder's bits per sample of held-out windows with `own` and with `other` songs' codes, and the ratio."""
    prior: Any = model.prior("decoder")
    drawn = PriorWindows.draw(model, config, held, WINDOWS, seed)
    conditions = {"own": drawn.conditions(), "other": drawn.conditions(above=lambda w: w.other)}
    bits = {name: prior.nll(drawn.sequences(), stack(each))[MULAW].mean().item() for name, each in conditions.items()}
    return bits | {"ratio": bits["own"] / bits["other"]}


EXPERIMENT = Experiment(
    train_and_measure,
    [Arm(name, name.replace(" ", "_"), {"variant": name}, changes) for name, changes in VARIANTS.items()],
    check,
    {
        "perplexity": ("perplexity", 1), "codes_used": ("codes used", 0), "bits.own": ("bits, own codes", 3),
        "bits.other": ("other codes", 3), "bits.ratio": ("ratio", 3), "mel_db": ("mel, dB", 2),
        **{f"error {band}": (f"error {band}", 2) for band in BANDS},
    },
    comparisons=[
        Comparison("A2: perplexity, with / without diversity", "argmax", "argmax without diversity", "perplexity", "at least 1.5", True),
        Comparison("A2: perplexity, argmax / codebook without restarts", "argmax", "codebook without restarts", "perplexity",
                   "at least 2", True),
        Comparison("A3: bits, own / other codes", "argmax", "argmax", "bits.own", "at most 0.9", True, "bits.other"),
        Comparison("mel, dB less than the codebook", "argmax", "codebook", "mel_db", "below 0"),
    ],
)  # fmt: skip
