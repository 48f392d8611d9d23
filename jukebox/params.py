"""The user's parameters of a run as frozen dataclasses; the fields are arguments of the Python API and flags of the command
line.

A line of a docstring is the help of a flag. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of sampling, for every prior of a route that has them.

    temperature: of the coarsest level; 0 always takes the most likely code
    temperature_lower: of the levels below
    top_k: sample among the k most likely codes only (0: among all)
    top_p: sample among the most likely codes that together have this probability (0: among all)
    guidance: weight of the conditions of the coarsest level, as in classifier-free guidance (1: none)
    passes: of masked decoding, passes of each level, coarsest first, as in 24,12 (empty: 24, and 12 of the finest)
    noise: of masked decoding, weight of the random numbers added to the confidence of codes
    more: values of other parameters that the priors of the route have, by name; each is a flag
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
    """Number, seed and length of results.

    takes: results for each song, which differ in their random numbers
    seed: seed of all random numbers
    total_seconds: length of the whole song that the model is conditioned on, in seconds (0: that of the result)
    """

    takes: int = 1
    seed: int = 0
    total_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(TakeOptions):
    """Route, levels and windows of sampling.

    route: which priors write the levels, by the name that the model gives it (empty: the model's default route)
    lower: earlier name of two routes: masked, and autoregressive, which is jukebox
    levels: levels to write, as in 2,1,0 (empty: all of the route); into those of another codec the route's audio is encoded
    hop_fractions: step from window to window as a share of the window, for levels 0,1,2 (the last one for further levels)
    """

    route: str = ""
    lower: Literal["", "autoregressive", "masked"] = ""
    levels: tuple[int, ...] = ()
    hop_fractions: tuple[float, ...] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Threads, device and dtype.

    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    dtype: float32, bfloat16, float16 or int8 (weights in int8, the rest in bfloat16); empty: float32
    """

    threads: int = 0
    device: str = "auto"
    dtype: Literal["", "float32", "bfloat16", "float16", "int8"] = ""


@dataclass(frozen=True, kw_only=True)
class MachineOptions(DeviceOptions):
    """Threads, device, dtype, batch and memory.

    batch: samples decoded in parallel, with --parallel samples times windows (0: all)
    parallel: below the coarsest level, sample the windows of a song in parallel, each after a warm-up that is dropped
    dtype: float32, bfloat16, float16 or int8 (weights in int8, the rest in bfloat16); empty: float32, or what --max_memory
        chooses
    compile: whether decoding steps are compiled (CPU) or captured (GPU); auto: where that is possible, on a GPU if many codes
        are sampled
    max_memory: memory that each process stays below, such as 8GB: dtype and batch are chosen so (empty: no limit)
    """

    batch: int = 0
    parallel: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    max_memory: str = ""


@dataclass(frozen=True)
class EditOptions:
    """Cross-fade and sample of an edit.

    fade: seconds at both ends of a range, inside it, in which old and new audio cross-fade
    sample: of a run folder, number of the sample to edit, counted from 1 as on the page
    """

    fade: float = 0.02
    sample: int = 1


@dataclass(frozen=True)
class KeptPrompt:
    """Prompt of a variation: the columns that any option keeps; then dropout; then whole levels, in this order.

    periodic: keep every n-th column (0: none)
    width: columns kept at each of these, an odd number
    roll: number of the first of these columns
    random: share of the columns that is not kept, at random (1: none is kept)
    prefix: keep the first seconds of the range
    suffix: keep its last seconds
    beat: keep the beats
    before_beat: seconds kept before each beat
    after_beat: seconds kept after it
    every_beat: keep every n-th beat only
    onset: keep the columns with note onsets, and so many columns on both sides (-1: do not)
    dropout: random share of the kept columns that is dropped again
    keep_levels: levels kept everywhere, from the coarsest on, as in 2 or 2,1
    redraw_levels: levels resampled everywhere, whatever the prompts keep, as in 0
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
