"""Parameters of a run as frozen dataclasses: their fields are arguments of the Python API and flags of the command line.

A line with a field's name in a docstring is the help of the flag. This module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters; each parameter applies to all priors of the route that have it.

    temperature: temperature of the coarsest level; 0 always takes the most likely code
    temperature_lower: temperature of the finer levels
    top_k: sample among the k most likely codes only (0: among all codes)
    top_p: sample among the most likely codes with this total probability (0: among all codes)
    guidance: weight of classifier-free guidance by the conditions, at the coarsest level (1: no guidance)
    passes: passes of masked decoding at each level, coarsest first, as in 24,12 (empty: 24, and 12 at the finest level)
    noise: weight of the Gumbel noise on the confidence of codes in masked decoding
    more: values of further parameters of the route's priors, by name; each name is a flag
    """

    temperature: float = 0.98
    temperature_lower: float = 0.9
    top_k: int = 0
    top_p: float = 0.0
    guidance: float = 1.0
    passes: tuple[int, ...] = ()
    noise: float = 4.5
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TakeOptions:
    """Number of takes, seed, and length of the whole song.

    takes: number of results per song, which differ in their random numbers
    seed: seed of all random numbers
    total_seconds: length in seconds of the whole song, a condition of the model (0: length of the result)
    """

    takes: int = 1
    seed: int = 0
    total_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(TakeOptions):
    """Route, levels and windows of sampling.

    route: name of the model's route, which selects the prior of each level (empty: the model's default route)
    lower: earlier flag for two routes: masked means --route masked, autoregressive means --route jukebox
    levels: levels to write, as in 2,1,0 (empty: all of the route); the route's audio is encoded into levels of other codecs
    hop_fractions: step between windows as a share of the window, for levels 0,1,2 (further levels use the last share)
    """

    route: str = ""
    lower: Literal["", "autoregressive", "masked"] = ""
    levels: tuple[int, ...] = ()
    hop_fractions: tuple[float, ...] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Threads, device and dtype.

    threads: number of CPU threads (0: one for a small model, all for a large model)
    device: cpu, cuda, or auto (a GPU if the machine has one)
    dtype: float32, bfloat16, float16 or int8 (weights in int8, other tensors in bfloat16); empty: float32
    """

    threads: int = 0
    device: str = "auto"
    dtype: Literal["", "float32", "bfloat16", "float16", "int8"] = ""


@dataclass(frozen=True, kw_only=True)
class MachineOptions(DeviceOptions):
    """Threads, device, dtype, batch and memory.

    batch: number of samples decoded in parallel; with --parallel, samples times windows (0: all)
    parallel: sample the windows of finer levels in parallel; each window begins with warm-up frames that are dropped
    dtype: float32, bfloat16, float16 or int8 (weights in int8, other tensors in bfloat16); empty: float32, or the dtype that
        --max_memory requires
    compile: compile (CPU) or capture (GPU) the decoding steps; auto does so if possible, and on a GPU only if many codes are
        sampled
    max_memory: memory limit of each process, such as 8GB; dtype and batch are chosen to fit (empty: no limit)
    """

    batch: int = 0
    parallel: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    max_memory: str = ""


@dataclass(frozen=True)
class EditOptions:
    """Length of the cross-fades of an edit, and the edited sample of a run.

    fade: length in seconds of the cross-fade between old and new audio, at both ends inside the range
    sample: number of the sample to edit if the recording is a run folder, counted from 1 as on the page
    """

    fade: float = 0.02
    sample: int = 1


@dataclass(frozen=True)
class KeptPrompt:
    """Prompt of a variation: the codes that are kept.

    A column is kept if any option keeps it. Then `dropout` drops kept columns. Then `keep_levels` and `redraw_levels` apply.

    periodic: keep every n-th column (0: none)
    width: number of columns kept around each periodic column, an odd number
    roll: index of the first periodic column
    random: share of the columns that is resampled at random; the others are kept (1: none is kept)
    prefix: seconds kept at the start of the range
    suffix: seconds kept at the end of the range
    beat: keep the columns at beats
    before_beat: seconds kept before each beat
    after_beat: seconds kept after each beat
    every_beat: keep every n-th beat only
    onset: keep the columns with note onsets, and this number of columns on both sides (-1: none)
    dropout: share of the kept columns that is dropped at random
    keep_levels: levels kept completely, from the coarsest on, as in 2 or 2,1
    redraw_levels: levels resampled completely, even where options keep columns, as in 0
    """

    periodic: int = 0
    width: int = 1
    roll: int = 0
    random: float = 1.0
    prefix: float = 0.0
    suffix: float = 0.0
    beat: bool = False
    before_beat: float = 0.0
    after_beat: float = 0.075
    every_beat: int = 1
    onset: int = -1
    dropout: float = 0.0
    keep_levels: tuple[int, ...] = ()
    redraw_levels: tuple[int, ...] = ()

    @property
    def keeps_something(self) -> bool:
        asked = (self.periodic, self.random != 1, self.prefix, self.suffix, self.beat, self.onset >= 0)
        return any(asked) or bool(self.keep_levels)
