"""Predict the memory of each part and the time of each level of a sampling run, from configurations and the request alone.

    weights       weights of the one level that is in memory
    cache         keys and values of a window, for the context of each attention pattern
    conditions    encoded conditions of a window
    activations   activations of the prompt, or of the upsampling of codes above
    sound         the codec of the level and its decoding
    framework     the interpreter, torch and its libraries

`PriorConfig.decoding_cost` returns the first four parts for any kind of prior. The parameters and operations of the codec come
from `CodecConfig`. Sound and framework use measurements with torch 2.13. Time is predicted from three speeds (`Speed`). A
sequential step reads weights and cache, and every layer has a fixed cost. Prefills, conditions, masked decoding and the codec
are products of large matrices. `fit` changes a request until it fits into a given memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_prep.errors import UserError
from jukebox.device import available_memory, choose_device
from jukebox.model.info import ModelInfo
from jukebox.runs.batches import first_batches
from jukebox.runs.request import PAGE, check_size, dtype_of, prior_of
from jukebox.runs.windows import WindowPlanner, plan_windows
from priors.spec import DecodingCost, DecodingJob
from vqvae.streams import CodecConfig

Request = Mapping[str, Any]  # as in run.json
# Bytes of a process that holds no model: CPU with torch 2.13 and the page's plots; CUDA: its context and libraries on the GPU.
FRAMEWORK = {"cpu": 350_000_000, "cuda": 600_000_000}
PIECES = {"cpu": 16_000_000, "cuda": 512_000_000}  # bytes of the decoder's blocks at any length
WAITING = 8  # copies of the decoder's state in memory
NARROW = 0.3  # speed of the codec's narrow convolutions relative to large products
WINDOWS = 64  # largest number of parallel windows of a song in a batch for --parallel
MOST_WINDOWS = 4096  # largest number of windows of a level that are listed
GB = 1e9
PARTS = ("weights", "cache", "conditions", "activations")  # parts of a prior


@dataclass(frozen=True)
class Speed:
    """Speed of a machine."""

    bandwidth: float  # bytes of weights and cache read per second in sequential steps
    products: float  # operations per second in large matrix products
    layer: float  # fixed seconds per layer of a sequential step


@dataclass(frozen=True)
class LevelPlan:
    """Prediction for one level."""

    level: int
    rows: int  # rows in parallel
    parts: dict[str, int]  # bytes by part
    steps: int  # sequential steps
    codes: int  # codes to sample, of all samples
    seconds: float | None  # None without a known speed

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """Prediction for a run. Bytes count the memory of the device. Seconds are None without a known speed."""

    levels: tuple[LevelPlan, ...]
    framework: int
    dtype: str
    samples: int
    batch: int
    device: str

    @property
    def largest(self) -> LevelPlan:
        return max(self.levels, key=lambda level: level.bytes)

    @property
    def peak(self) -> int:
        return self.framework + self.largest.bytes

    @property
    def seconds(self) -> float | None:
        times = [level.seconds for level in self.levels]
        return None if None in times else sum(time for time in times if time is not None)

    def line(self) -> str:
        """Format memory, time, dtype and batch in one line."""
        time = "" if self.seconds is None else f" and {spell(self.seconds)}"
        return (
            f"predicted: {self.peak / GB:.2f} GB at the most (level {self.largest.level}){time}; {self.dtype}, "
            f"{self.batch} of {self.samples} samples in parallel, one level in memory at a time"
        )


def spell(seconds: float) -> str:
    """Format a time in seconds, minutes or hours, rounded."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---- the plan


def plan_sampling(
    info: ModelInfo, request: Request, *, speeds: Mapping[int, Speed] | None = None, done: Mapping[int, int] | None = None
) -> Plan:  # fmt: skip
    """Predict the run of a request in the form of run.json.

    speeds: speed by level; a level without a speed has no predicted time
    done: number of existing codes by level
    """
    levels = []
    for level in sorted(request["levels"], reverse=True):
        have = max((done or {}).get(level, 0), int(request["given"].get(str(level), 0)))
        levels.append(_plan_level(info, request, level, have, (speeds or {}).get(level)))
    samples, batch, device = len(request["samples"]), max(map(len, batches_of(request))), device_of(request)
    return Plan(tuple(levels), FRAMEWORK[device], dtype_of(request), samples, batch, device)


def batches_of(request: Request) -> list[list[int]]:
    """Return the batches of a request: indices of the samples that are decoded in parallel."""
    return request.get("batches") or first_batches(len(request["samples"]), request["batch"])


def device_of(request: Request) -> str:
    """Return the device whose memory limits a run: "cuda" or "cpu"."""
    return "cuda" if request["device"].startswith("cuda") else "cpu"


def _plan_level(info: ModelInfo, request: Request, level: int, have: int, speed: Speed | None) -> LevelPlan:
    """Predict one level: the cost of decoding all codes to audio and, if codes are missing, the cost of sampling them."""
    stream, samples, total = info.stream(level), len(request["samples"]), info.frames(request["seconds"], level)
    codec = info.codec_of(stream.name).config
    entry = prior_of(info, request, level) if have < total else None
    cost = DecodingCost(0, {}, 0, 0, 0, 0.0)
    if entry:
        planner = plan_windows(request, level, entry.config, stream.name)
        end = total
        if planner.kind == "prefix":  # inner windows cost the same: at most MOST_WINDOWS are counted and scaled
            end -= max(0, (total - have) // planner.step - MOST_WINDOWS) * planner.step
        share = (total - have) / (end - have)
        cost = entry.config.decoding_cost(_job(request, planner, level, stream.name, end, have))
        cost = replace(cost, steps=round(cost.steps * share), products=cost.products * share)
    sound = _sound_bytes(codec, stream.name, total * stream.hop * info.channels, samples, device_of(request))
    parts = dict.fromkeys(PARTS, 0) | cost.parts | {"sound": sound}
    seconds = None
    if speed is not None:
        step = cost.step_bytes / speed.bandwidth + cost.step_layers * speed.layer
        products = 2 * codec.decoder_products(stream.name) * total * stream.hop * samples / NARROW + cost.products
        seconds = cost.steps * step + products / speed.products
    return LevelPlan(level, cost.rows, parts, cost.steps, (total - have) * samples if entry else 0, seconds)


def _job(request: Request, planner: WindowPlanner, level: int, stream: str, total: int, have: int) -> DecodingJob:
    """Return the decoding job of a level. Parallel windows are sampled whole, without a prompt."""
    batches, before = batches_of(request), 0
    if planner.kind == "prefix":  # finished windows are not listed
        before = max(0, have - planner.n_ctx) // planner.step * planner.step
    windows = list(planner.segments(total - before, have - before))
    largest, parallel = max(map(len, batches)), 1
    if planner.kind == "parallel":
        parallel = min(max(1, request["batch"] // largest) if request["batch"] else len(windows), len(windows))
        windows = [window._replace(begin=window.start) for window in windows]
    params, samples, rows = request["params"].get(str(level), {}), len(request["samples"]), largest * parallel
    dtype, device = dtype_of(request), device_of(request)
    return DecodingJob(stream, dtype, samples, len(batches), rows, parallel, windows, params, device)


def _sound_bytes(codec: CodecConfig, stream: str, values: int, samples: int, device: str) -> int:
    """Bytes of the codec of a stream, of the decoders' states and working memory, and of plotting `values` samples."""
    held = (WAITING + samples / 2) * 4 * codec.decoder_state(stream)  # each sample's state is about half full
    return 4 * codec.parameter_count(stream) + round(held) + PIECES[device] + PAGE * values


# ---- fitting a request into memory


def check_memory(info: ModelInfo, request: Request, done: Mapping[int, int] | None = None) -> None:
    """Raise UserError if a run on a CPU needs more memory than is available. A run on a GPU reduces its batches itself."""
    check_size(info, request["seconds"], len(request["samples"]))
    there = available_memory()
    if plan_sampling(info, request, done=done).peak <= there:  # an automatic device counts as CPU here: no torch is needed
        return
    request = on_device(request)
    plan = plan_sampling(info, request, done=done)
    if plan.device == "cpu":
        raise UserError(
            f"this run would take {plan.peak / GB:.2f} GB of memory (level {plan.largest.level}, {plan.dtype}, {plan.batch} samples in "
            f"parallel), of which {there / GB:.2f} GB are available; give --max_memory {there / GB:.1f}GB, which chooses dtype and batch, "
            "fewer --seconds, or another machine"
        )


def fitted(info: ModelInfo, request: Request, max_memory: str, ranks: int = 1) -> dict[str, Any]:
    """Choose dtype and batches of a request for `max_memory` (empty: no limit); raise UserError if it cannot fit."""
    if not max_memory:
        return {"dtype": dtype_of(request)}
    return fit(info, on_device(request), read_size(max_memory), ranks)


def on_device(request: Request) -> dict[str, Any]:
    """Return the request with a concrete device instead of an automatic choice."""
    return {**request, "device": choose_device(request["device"])}


def read_size(text: str) -> int:
    """Parse a --max_memory such as 8GB, 500MB or 7.5GiB to bytes. A number without a unit counts GB."""
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise UserError(f"--max_memory got {text!r}, expected a size such as 8GB or 500MB")
    power = " KMGT".index(match[2].upper()) if match[2] else 3
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def fit(info: ModelInfo, request: Request, max_memory: int, ranks: int = 1) -> dict[str, Any]:
    """Choose dtype and batches of a request so that each process needs at most `max_memory` bytes.

    If the request fits, nothing changes. If it does not and it has no dtype, bfloat16 is tried before int8. For each dtype,
    fewer samples in parallel are tried, which changes codes only by rounding. One level is in memory at a time. UserError
    states a memory that would suffice.
    """
    samples = len(request["samples"])
    windows = samples if not request["parallel"] else WINDOWS * samples  # with --parallel a batch counts windows of samples
    asked = request["batch"] or windows
    dtypes = [dtype_of(request)] if request.get("dtype") else ["float32", "bfloat16", "int8"]
    batches = sorted({-(-asked // passes) for passes in range(1, asked + 1)}, reverse=True)
    choices = [(dtypes[0], request["batch"])] + [(d, b) for d in dtypes[1:] or dtypes for b in batches]
    for dtype, batch in choices:
        chosen = {"dtype": dtype, "batch": batch, "batches": first_batches(samples, batch, ranks)}
        if plan_sampling(info, {**request, **chosen}).peak <= max_memory:
            return chosen
    raise UserError(_what_would_fit(info, request, max_memory))


def _what_would_fit(info: ModelInfo, request: Request, max_memory: int) -> str:
    def alone(dtype: str) -> Plan:
        one = {"dtype": dtype, "batch": 1, "batches": [[i] for i in range(len(request["samples"]))]}
        return plan_sampling(info, {**request, **one})

    least = alone(request.get("dtype") or "int8")
    smaller = "" if least.dtype == "int8" else f", or with --dtype int8 {alone('int8').peak / GB:.2f} GB"
    fitting = [str(plan.level) for plan in least.levels if least.framework + plan.bytes <= max_memory]
    rest = f"; level {', '.join(fitting)} alone would fit" if fitting else ""
    return (
        f"--max_memory {max_memory / GB:g}GB is not enough: level {least.largest.level} takes {least.peak / GB:.2f} GB with {least.dtype} "
        f"and one sample at a time{smaller}{rest}; give that much, or another machine or model"
    )
