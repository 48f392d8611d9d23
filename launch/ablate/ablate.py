"""The verb ablate; and what each idea of the codec is worth, by leaving it out (the priors: `launch/ablate/prior.py`,
`launch/ablate/masked.py`, `launch/ablate/prompts.py`; decodings of the spectral codec: `launch/ablate/decodings.py`).

Every variant is a short difference from one base (the demo's widths, 2048 codes, restarts, spectral loss, separate
autoencoders; no warm-up without the quantiser, so that codebooks have to find their codes themselves), trained by the
same loop on the same crops over several seeds, and measured on songs it has not heard. A unit is one variant, level and
seed; finished ones are kept in DIR, so the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from data_prep.errors import UserError
from data_prep.files import write_json
from launch.ablate import decodings, masked, prior, prompts
from launch.ablate.units import mean_and_spread, measure_all, once, run_in_processes, train_whole

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from jukebox.model.recipe import Recipe
    from vqvae.jukebox.config import VQVAEConfig

# variant -> (what it leaves out, levels to train): the top level is where the codec is hardest
VARIANTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "base": ({}, (2, 1, 0)),
    "no restarts": ({"threshold": 0.0}, (2,)),
    "no spectral loss": ({"multispectral": 0.0}, (2, 1, 0)),
    "256 codes": ({"bins": 256}, (2,)),
    "nested": ({}, (-1,)),  # -1: all levels in one model
}
# Crops of 16: a level sees this many codes a step, times 16.
CROPS = {2: 4096, 1: 2048, 0: 2048, -1: 4096}
ABOVE_HZ = 2000.0


class CodecUnit(NamedTuple):
    """One training of the ablation."""

    variant: str
    level: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.replace(' ', '_')}_{'all' if self.level < 0 else self.level}_{self.seed}"


def shape_of(unit: CodecUnit) -> tuple[VQVAEConfig, int]:
    """The configuration of a unit, and its crop in samples."""
    from jukebox.model.presets import find

    changes, _ = VARIANTS[unit.variant]
    codec: Any = find("demo").codec
    config, crop = replace(codec, **{"bins": 2048, **changes}), CROPS[unit.level]
    codes = 16 * crop / config.hops[unit.level]
    # dead is who has a quarter of the mean use: the threshold counts uses a batch
    return replace(config, threshold=changes.get("threshold", 0.25 * codes / config.bins)), crop


def recipe_of(unit: CodecUnit, steps: int) -> Recipe:
    from jukebox.model.presets import find

    return replace(
        find("demo").codec_recipes["vq.2"], steps=steps, batch=16, crop=shape_of(unit)[1], delay_quantiser=0.0,
        max_minutes=0.0, log_every=50, save_every=max(1, steps // 4),
    )  # fmt: skip


def run_unit(unit: CodecUnit, data: Path, out: Path, steps: int, songs: int) -> dict[str, Any]:
    """Train and measure one unit, its words in `log.txt` of its folder; what was measured is kept there too."""
    folder, asked = out / "units" / unit.name, {"steps": steps, "songs": songs}
    return once(folder, asked, lambda: {**unit._asdict(), **_train_and_measure(unit, data, folder, steps, songs)})


def _train_and_measure(unit: CodecUnit, data: Path, folder: Path, steps: int, songs: int) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    from data_prep.audio.audio import write_wav
    from jukebox.evaluation.metrics import codebook_use
    from jukebox.model.folder import ModelFolder
    from launch.training.tasks.codec import VQVAETask
    from launch.training.tasks.task import TaskSetup
    from vqvae.jukebox.nested import NestedVQVAE

    config, _ = shape_of(unit)
    recipe, seed = recipe_of(unit, steps), unit.seed

    class NestedTask(VQVAETask):
        def __init__(self, setup: TaskSetup) -> None:
            super().__init__(setup)
            self.name = "nested"
            torch.manual_seed(seed)
            self.model: Any = NestedVQVAE(config)

        def save(self, model: Any) -> None:
            save_file(model.state_dict(), folder / "nested.safetensors")

    model, nested = ModelFolder.create(folder, config), unit.level < 0
    top = config.spec.names[unit.level]  # -1: the coarsest
    task = (NestedTask if nested else VQVAETask)(TaskSetup(model, top, data, recipe, seed, "cpu"))
    train_whole(task, recipe, folder / "training", seed=seed)
    codec: Any = task.model.eval()
    held = _held_out(data, config, songs)
    if nested:
        codes = [codec.encode(wave) for wave in held]
        made = [codec.decode(each, [top]) for each in codes]
        whole = [codec.decode(each, config.spec.names) for each in codes]
    else:
        codes = [codec.encode_long(wave, [top]) for wave in held]
        made = whole = [codec.decode_long(each[top], top) for each in codes]
    for name, audio in (("true", held[0]), ("made", made[0])):
        write_wav(folder / f"{name}.wav", audio[0].numpy(), config.sample_rate)
    share, entropy = codebook_use(torch.cat([each[top].flatten() for each in codes]), config.bins)
    figures = _errors(held, made, config.sample_rate) | {"codes_used": share * config.bins, "entropy_bits": entropy}
    if nested:
        figures |= {f"whole_{name}": value for name, value in _errors(held, whole, config.sample_rate).items()}
    return figures


def _held_out(data: Path, config: VQVAEConfig, songs: int) -> list[Float[Tensor, "1 c t"]]:
    """The first `songs` songs of the split "test", 10 seconds of each."""
    import torch

    from data_prep.audio.audio import read
    from data_prep.manifest import audio_path, load_manifest

    rows = [row for row in load_manifest(data) if row.split == "test"][:songs]
    if not rows:
        raise UserError(f"{data} has no songs of the split test; prepare it with a larger --test_share")
    waves = []
    for row in rows:
        audio, _ = read(audio_path(data, row), sample_rate=config.sample_rate, channels=config.channels, seconds=10.0)
        waves.append(torch.from_numpy(audio[:, : audio.shape[1] // config.hops[-1] * config.hops[-1]])[None])
    return waves


def _errors(true: Sequence[Tensor], made: Sequence[Tensor], sample_rate: int) -> dict[str, float]:
    """Spectral convergence in dB, and the same ratio of the part above 2 kHz, means over songs."""
    import numpy as np
    import torch

    from jukebox.evaluation.metrics import mono, spectral_convergence
    from vqvae.stft import magnitudes

    whole, high = [], []
    for x, y in zip(true, made, strict=True):
        whole.append(spectral_convergence(x, y).item())
        m_x, m_y = (magnitudes(mono(each), 2048, 512, pad=True) for each in (x, y))
        above = torch.linspace(0, sample_rate / 2, m_x.shape[-2]) >= ABOVE_HZ
        high.append(((m_x - m_y)[:, above].norm() / m_x[:, above].norm().clamp(min=1e-6)).item())
    return {"convergence_db": float(20 * np.log10(np.mean(whole))), "error_above_2khz": float(np.mean(high))}


FIGURES = ("convergence_db", "error_above_2khz", "codes_used", "entropy_bits")


def summarise(units: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds) of every figure, and what each idea is worth, seed by seed."""
    rows = []
    for variant, level in dict.fromkeys((u["variant"], u["level"]) for u in units):
        same = [u for u in units if (u["variant"], u["level"]) == (variant, level)]
        row: dict[str, Any] = {"variant": variant, "level": level, "seeds": len(same)}
        for name in (*FIGURES, *(key for key in same[0] if key.startswith("whole_"))):
            row[name] = mean_and_spread([u[name] for u in same])
        rows.append(row)

    found = {(u["variant"], u["level"], u["seed"]): u for u in units}
    effects: list[dict[str, Any]] = []
    for what, left, right, name, divide, aim in (
        ("restarts: codes used, with / without", ("base", 2), ("no restarts", 2), "codes_used", True, "at least 1.5"),
        *((f"spectral loss: error above 2 kHz, level {level}, with / without", ("base", level), ("no spectral loss", level),
           "error_above_2khz", True, "at most 0.8") for level in (2, 1, 0)),
        ("separate: dB of the top level less than nested", ("base", 2), ("nested", -1), "convergence_db", False, "below 0"),
        ("2048 codes: dB of the top level less than with 256", ("base", 2), ("256 codes", 2), "convergence_db", False,
         "below 0"),
        ("levels: dB of level 0 less than level 1", ("base", 0), ("base", 1), "convergence_db", False, "below 0"),
        ("levels: dB of level 1 less than level 2", ("base", 1), ("base", 2), "convergence_db", False, "below 0"),
    ):  # fmt: skip
        seeds = [seed for variant, level, seed in found if (variant, level) == left and (*right, seed) in found]
        pairs = [(found[(*left, seed)][name], found[(*right, seed)][name]) for seed in seeds]
        if values := [a / max(b, 1e-9) if divide else a - b for a, b in pairs]:
            effects.append({"what": what, **mean_and_spread(values), "aim": aim, "values": values})
    return {"rows": rows, "worth": effects}


def print_tables(summary: dict[str, Any]) -> None:
    from jukebox.evaluation.metrics import table

    def shown(figure: dict[str, Any], digits: int) -> str:
        spread = "" if figure["spread"] is None else f" +- {figure['spread']:.{digits}f}"
        return f"{figure['mean']:.{digits}f}{spread}"

    digits = dict(zip(FIGURES, (2, 3, 0, 2)))
    body = [
        [row["variant"], "top alone" if row["level"] < 0 else row["level"]] + [shown(row[n], d) for n, d in digits.items()]
        for row in summary["rows"]
    ]
    print("\n" + table([["variant", "level", "convergence, dB", "error above 2 kHz", "codes used", "entropy, bits"], *body]))
    for row in summary["rows"]:
        if "whole_convergence_db" in row:
            print(f"{row['variant']}, all its levels together: {shown(row['whole_convergence_db'], 2)} dB")
    print("\n" + table([["", "mean +- spread", "aim"], *([w["what"], shown(w, 2), w["aim"]] for w in summary["worth"])]))


def ablate(
    what: Literal["codec", "prior", "masked", "prompts"],
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
    """Measure what an idea is worth by leaving it out, over several seeds: a table, kept as ablation.json.

    codec: restarts, the spectral loss, separate levels and large codebooks; about 25 minutes on two cores. With MODEL: decodings by its
        spectral codec with other phases and fewer books, and the distance against bit rate and minutes (decodings.json).
    prior: lyrics as characters or as pieces of words, and the time bias, on the codes of MODEL; about 12 minutes.
    masked: trained in copies of MODEL, what music behind a hole, the levels above and more passes are worth to the masked prior.
    prompts: what the masked prior of MODEL makes of held-out songs around columns, levels and beats of theirs, beside noise.

    what: codec, prior (the top one), masked, or prompts
    data: a data folder that `jukebox prepare` made; {seed} in its name stands for the seed (all but codec)
    model: the model folder whose codec wrote the codes in DATA ({seed} likewise); codec: one with a spectral codec, or none
    out: the folder for tables, models and sound
    seeds: how many seeds
    steps: training steps of each model
    songs: held-out songs to measure on
    processes: models trained side by side, a core each; 0: all cores
    preset: sizes and recipe of the prior (prior, masked)
    models: codec with MODEL: further model folders for the curves, such as those of a longer training
    corpus_seed: codec with MODEL: seed of the synthetic corpus that DATA is of, for attacks and vibrato (-1: DATA is of none)
    """
    if seeds < 1 or steps < 10 or songs < 1:
        raise UserError(f"--seeds {seeds}, --steps {steps}, --songs {songs}: expected at least 1, 10 and 1")
    if what != "codec" and not model:
        raise UserError(f"ablate {what} got no MODEL; expected the model folder whose codes are in DATA")
    if (models or corpus_seed >= 0) and not (what == "codec" and model):
        raise UserError(f"--models and --corpus_seed are for ablate codec with a MODEL; got ablate {what} {model}".rstrip())
    if what in ("prior", "masked"):
        arms, kept = {"prior": prior, "masked": masked}[what], Path(out) / "ablation.json"
        units = arms.units_of(data, model, seeds, preset)
        runs = [partial(arms.run_unit, unit, Path(out), steps, songs) for unit in units]
        measure_all(runs, arms.summarise, kept, {"steps": steps, "songs": songs}, processes)
        print(f"\nwritten to {kept}; the models are in {Path(out) / 'units'}")
    elif what == "prompts":
        prompts.ablate_prompts(data, model, Path(out), seeds, songs, processes)
    elif model:
        decodings.ablate_decodings(Path(data), model, models, Path(out), songs, corpus_seed)
    else:
        ablate_codec(Path(data), Path(out), seeds, steps, songs, processes)


def ablate_codec(data: Path, out: Path, seeds: int, steps: int, songs: int, processes: int) -> None:
    """Run what is not there yet, print the tables and keep them as ablation.json."""
    _decode_once(data, songs)
    units = [CodecUnit(v, level, seed) for seed in range(seeds) for v, (_, levels) in VARIANTS.items() for level in levels]
    out.mkdir(parents=True, exist_ok=True)
    figures = run_in_processes([partial(run_unit, unit, data, out, steps, songs) for unit in units], processes)
    summary = summarise(figures)
    write_json(out / "ablation.json", {"steps": steps, "songs": songs, "units": figures, **summary})
    print_tables(summary)
    print(f"\nwritten to {out / 'ablation.json'}; what each model makes of a held-out song is in {out / 'units'}")


def _decode_once(data: Path, songs: int) -> None:
    """The corpus as samples, made before the processes that share it start; UserError where there is none."""
    from launch.corpus.pcm import open_pcm
    from launch.training.tasks.task import training_rows

    config, _ = shape_of(CodecUnit("base", 2, 0))
    _held_out(data, config, min(songs, 1))
    open_pcm(data, training_rows(data), config.sample_rate, config.channels)
