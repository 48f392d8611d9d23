"""The default preset of a training: the preset of the model folder, else the largest preset that the machine can train.

    GPU memory     vqvae, prior, masked    spectral, tokens
    32 GB          small                   spectral
    16 GB          demo                    spectral
    less, no GPU   demo                    demo

The number of CPU cores changes the expected time (`expected.py`) but not the preset, because `small` needs a GPU.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.errors import UserError
from jukebox.model.info import CONFIG, ModelInfo
from jukebox.model.presets import PRESETS, Preset, find

GPU_BYTES = {"small": 32e9, "spectral": 16e9}


def kind_of(what: str, preset: Preset) -> str:
    """Return the kind of codec or prior for `what`, a word of the command line or the name of a prior.

    For an unknown word, UserError lists the valid words.
    """
    from launch.training.tasks.registry import ALIASES, TASKS

    if what in preset.priors:
        return preset.priors[what].kind
    kind = ALIASES.get(what, what)
    if kind not in TASKS.kinds():
        words = [*ALIASES, *(each for each in TASKS.kinds() if each not in ALIASES.values())]
        raise UserError(f"there is nothing to train called {what!r}; choose one of {', '.join(words)}")
    return kind


def trains(name: str, what: str) -> bool:
    """Whether the preset `name` has the part `what` to train."""
    from launch.training.tasks.registry import ALIASES

    preset = find(name)
    return what in preset.priors or bool(preset.parts(ALIASES.get(what, what)))


def preset_of_machine(what: str, gpu_bytes: float) -> str:
    """Return the largest preset with `what` for a GPU with `gpu_bytes` of memory (0: no GPU)."""
    fitting = (name for name, needed in GPU_BYTES.items() if gpu_bytes >= needed and trains(name, what))
    return next(fitting, "demo")


def presets_of(folder: Path) -> tuple[str, ...]:
    """Return the recorded presets of a model folder. Without a record, return the presets with all codecs of the folder."""
    if not (folder / CONFIG).is_file():
        return ()
    info = ModelInfo.read(folder)
    return info.presets or tuple(n for n, p in PRESETS.items() if all(each.config in p.codecs for each in info.codecs))


def choose_preset(given: str, what: str, target: Path, old: str, device: str) -> str:
    """Return the preset of a training into `target`: the `given` preset, or a default, which is printed.

    `old` is the model folder of a fine-tuning, else empty. Raises UserError if the given preset has another codec than the
    folder.
    """
    known = presets_of(target) or (presets_of(Path(old)) if old else ())
    if given and not old and known and given not in known and _differs(given, target):
        raise UserError(
            f"{target} was begun with --preset {known[0]}, and {given} has another codec: leave --preset away, or name another --out"
        )
    if given:
        return given
    if mine := [name for name in known if trains(name, what)]:
        print(f"preset {mine[0]}, with which the model was begun", flush=True)
        return mine[0]
    import torch

    gpu = torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0
    name, machine = preset_of_machine(what, gpu), f"a GPU of {gpu / 1e9:.0f} GB" if gpu else "no GPU"
    print(f"preset {name}, for a machine with {machine}; --preset names another", flush=True)
    return name


def preset_for(name: str, folder: Path, bottleneck: str = "") -> Preset:
    """Return the preset `name` with `bottleneck`, or if empty, with the bottleneck of the codec in `folder`.

    Raises UserError if `bottleneck` differs from that of the codec.
    """
    preset, codecs = find(name), ModelInfo.read(folder).codecs if (folder / CONFIG).is_file() else ()
    there = next((entry.config.bottleneck for entry in codecs if hasattr(entry.config, "bottleneck")), "")  # type: ignore[attr-defined]
    if bottleneck and not any(hasattr(codec, "bottleneck") for codec in preset.codecs):
        raise UserError(
            f"--bottleneck {bottleneck} is for the codec vqvae, which the preset {name} does not have; leave it away"
        )
    if bottleneck and there not in ("", bottleneck):
        raise UserError(
            f"{folder} was begun with --bottleneck {there}, now it is {bottleneck}: leave --bottleneck away, or name another --out"
        )
    return preset.with_bottleneck(bottleneck or there) if bottleneck or there else preset


def _differs(preset: str, folder: Path) -> bool:
    """Whether a preset and a folder have a codec of the same kind in different configurations."""
    there = {entry.config.kind: entry.config for entry in ModelInfo.read(folder).codecs}
    return any(there.get(codec.kind, codec) != codec for codec in preset_for(preset, folder).codecs)
