"""The verb ablate: ablation studies. A new ablation is one entry of `EXPERIMENTS`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

from data_prep.errors import UserError

# argument of the command -> module:Experiment, imported on use
EXPERIMENTS = {
    "codec": "launch.ablate.codec:EXPERIMENT",
    "prior": "launch.ablate.prior:EXPERIMENT",
    "masked": "launch.ablate.masked:EXPERIMENT",
    "treble": "launch.ablate.treble:EXPERIMENT",
    "decoder": "launch.ablate.decoder:EXPERIMENT",
    "prompts": "launch.ablate.prompts:EXPERIMENT",
    "musika": "launch.ablate.musika:EXPERIMENT",
    "bottleneck": "launch.ablate.bottleneck:EXPERIMENT",
    "wavenet": "launch.ablate.wavenet:EXPERIMENT",
    "melody": "launch.ablate.melody:EXPERIMENT",
}
WITHOUT_MODEL = ("codec", "treble", "bottleneck", "wavenet")  # they train codecs from scratch
if TYPE_CHECKING:
    What = str
else:
    What = Literal[tuple(EXPERIMENTS)]


def ablate(
    what: What,
    data: str,
    model: str = "",
    *,
    out: str,
    seeds: int = 3,
    steps: int = 1000,
    songs: int = 8,
    processes: int = 0,
    preset: str = "demo",
    models: Sequence[str] = (),
    corpus_seed: int = -1,
) -> None:
    """Run an ablation study over several seeds; print a table and write ablation.json.

    codec: restarts, the spectral loss, separate levels and large codebooks; about 25 minutes on two cores. With MODEL:
        decodings by its spectral codec with other phases and fewer books, and the distance against bit rate and minutes.
    prior: lyrics as characters or as SentencePiece tokens, and the time bias, on the codes of MODEL; about 12 minutes.
    masked: the effect of music after a masked region, of the levels above and of more passes on a masked prior, trained in
        copies of MODEL.
    treble: how the three-level codec preserves tones, hi-hats and quiet passages of recordings, with and without changes of its
        upsampling and losses, at equal CPU time; with --steps 2500 about 15 minutes of CPU time per seed.
    decoder: the effect of discriminators on the decoder of MODEL's spectral codec, at equal CPU time; 10 minutes per seed.
    prompts: variations of held-out songs by the masked prior of MODEL with kept columns, levels and beats, compared with noise.
    musika: a latent GAN trained in copies of MODEL: latents, seams, style and controls, each with a control (preset musika).
    melody: a latent diffusion trained in copies of MODEL, with chunks of several angles and without (preset melody): how it
        follows tokens, schedules and steps, continuation by chunks, each with a control.
    bottleneck: argmax with and without its diversity loss, a codebook with and without restarts, at equal steps.
    wavenet: WaveNet and NSynth on signals of known structure, each figure with a control, and a table of held-out songs that
        five models reconstruct after equal CPU time (preset wavenet).

    what: codec, treble, bottleneck, wavenet, prior (the top one), masked, decoder, prompts, musika, or melody
    data: a data folder that `jukebox prepare` made; {seed} in its name is replaced by the seed
    model: the model folder whose codec wrote the codes in DATA ({seed} likewise); codec: one with a spectral codec, or none;
        treble, bottleneck and wavenet: none
    out: the folder for tables, models and sound
    seeds: how many seeds
    steps: training steps of each model
    songs: held-out songs to measure on
    processes: models trained in parallel, one core each; 0: all cores
    preset: sizes and recipe of the prior (prior, masked) or of the codec (treble, bottleneck,
        wavenet)
    models: codec with MODEL: further model folders for the curves, such as those of a longer training
    corpus_seed: codec with MODEL: seed of the synthetic corpus in DATA, for attacks and vibrato (-1: DATA is not synthetic)
    """
    if seeds < 1 or steps < 10 or songs < 1:
        raise UserError(f"--seeds {seeds}, --steps {steps}, --songs {songs}: expected at least 1, 10 and 1")
    if what not in WITHOUT_MODEL and not model:
        raise UserError(f"ablate {what} got no MODEL; expected the model folder whose codes are in DATA")
    decodings = what == "codec" and model
    if (models or corpus_seed >= 0) and not decodings:
        raise UserError(f"--models and --corpus_seed are for ablate codec with a MODEL; got ablate {what} {model}".rstrip())
    if decodings:
        from launch.render.decodings import ablate_decodings

        ablate_decodings(Path(data), model, models, Path(out), songs, corpus_seed)
    else:
        experiment = resolve_name(EXPERIMENTS[what])
        experiment.run_all(experiment.units(data, model, Path(out), seeds, steps, songs, preset), Path(out), processes)
