"""What a sampling run will take, before it begins: memory by part and time by level, from the configuration and the request alone.

    weights       of the one level that is in memory            cache        keys and values of a window, as long as they reach
    conditions    what the window was told, step by step        activations  of its prime, or of bringing the codes above to its rate
    sound         the codec of the level and its decoding       framework    the interpreter, torch and its libraries

The first three are counted exactly, the others follow what was measured of torch 2.13. Time is a prediction from three speeds (`Speed`):
a decoding step reads the weights and what it sees of the cache, and every layer costs something of its own; primes, conditions
and sound are products of large matrices. `fit` changes a request until it fits into a given memory. Nothing is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.errors import UserError
from jukebox.model.info import by_level
from jukebox.planning import sizes
from jukebox.sampling.batches import first_batches, is_masked, windows_of
from jukebox.sampling.windows import codes_of

Request = Mapping[str, Any]  # as run.json has it
# dtype -> bytes of a number in the layers' matrices, and in everything else but the norms
BYTES = {"float64": (8, 8), "float32": (4, 4), "bfloat16": (2, 2), "float16": (2, 2), "int8": (1, 2)}
# Bytes of a process that holds no model: CPU with torch 2.13 and the page's plots; CUDA: its context and libraries on the GPU.
FRAMEWORK = {"cpu": 350_000_000, "cuda": 600_000_000}
PIECES = {"cpu": 16_000_000, "cuda": 512_000_000}  # bytes that the decoder's pieces take, whatever the length
WAITING = 8  # copies of what a decoder waits for that are alive at once
PAGE = 14  # bytes a sample of sound while its spectrogram is drawn
NARROW = 0.3  # share of the speed of large products that the codec's narrow convolutions reach
COMPILE_THRESHOLD = 100_000  # steps of one layer; each gains some 50 microseconds, and compiling takes some seconds
WINDOWS = 64  # of a song side by side, at most, when a batch is chosen for --parallel
GB = 1e9


@dataclass(frozen=True)
class Speed:
    """What a machine does: bytes of weights read and numbers multiplied a second, seconds a layer costs whatever its size."""

    bandwidth: float
    products: float
    layer: float


@dataclass(frozen=True)
class LevelPlan:
    """One level: bytes by part, steps of decoding one after another, codes to write (of all samples), and seconds."""

    level: int
    rows: int
    parts: dict[str, int]
    steps: int
    codes: int
    seconds: float | None

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """A run predicted; bytes are of the device's memory, seconds of None mean that no speed was known."""

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
        """The run in one line."""
        time = "" if self.seconds is None else f" and {spell(self.seconds)}"
        return (
            f"predicted: {self.peak / GB:.2f} GB at the most (level {self.largest.level}){time}; {self.dtype}, "
            f"{self.batch} of {self.samples} samples side by side, one level in memory at a time"
        )


def spell(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def config_of(codec: Any, priors: Mapping[int, Any]) -> dict[str, Any]:
    """config.json of shapes that no folder holds: a VQVAEConfig, and PriorConfigs by level."""
    entries = [{"level": level, "config": asdict(prior)} for level, prior in priors.items()]
    return {"codec": {"config": asdict(codec)}, "priors": entries}


# ---- the plan


def plan_sampling(
    config: Mapping[str, Any], request: Request, *, speeds: Mapping[int, Speed] | None = None, done: Mapping[int, int] | None = None
) -> Plan:  # fmt: skip
    """The plan of a request (run.json's form) to a model (config.json's form); `done` says how many codes of a level there are."""
    priors = {level: prior["config"] for level, prior in by_level(config).items()}
    masked, levels = next((prior for prior in config["priors"] if prior.get("kind") == "masked"), None), []
    for level in sorted(request["levels"], reverse=True):
        have = max((done or {}).get(level, 0), int(request["given"].get(str(level), 0)))
        speed = (speeds or {}).get(level)
        if masked and is_masked(request, level):
            levels.append(_plan_masked_level(config["codec"]["config"], masked["config"], request, level, have, speed))
            continue
        levels.append(_plan_level(config["codec"]["config"], priors.get(level), request, level, have, speed))
    batch = max(len(samples) for samples in batches_of(request))
    return Plan(
        tuple(levels),
        FRAMEWORK[device_of(request)],
        dtype_of(request),
        len(request["samples"]),
        batch,
        device_of(request),
    )


def batches_of(request: Request) -> list[list[int]]:
    """Samples that are decoded side by side."""
    return request.get("batches") or first_batches(len(request["samples"]), request["batch"])


def dtype_of(request: Request) -> str:
    """The request's dtype; UserError if there is none of that name."""
    dtype = request.get("dtype") or "float32"
    if dtype not in BYTES:
        raise UserError(f"--dtype got {dtype!r}, expected one of {', '.join(BYTES)}")
    return dtype


def device_of(request: Request) -> str:
    """Whose memory counts: cuda's, or the machine's."""
    return "cuda" if request["device"].startswith("cuda") else "cpu"


def should_compile(request: Request, depths: Mapping[int, int], sample_rate: int) -> bool:
    """Whether the codes that a request draws one by one, with priors so many layers deep by level, pay for compiling a step."""
    hops, steps = request["hops"], 0
    for level in request["levels"]:
        if not is_masked(request, level):
            total = codes_of(request["seconds"], sample_rate, hops[level], hops[-1])
            steps += (total - int(request["given"].get(str(level), 0))) * depths.get(level, 0)
    return steps >= COMPILE_THRESHOLD


def weight_bytes(prior: sizes.Config, dtype: str) -> int:
    """Bytes of a prior in memory: its norms in float32 at least; int8 keeps a scale for every column, and its own head."""
    if "hops" in prior:  # the masked one, which in int8 is in bfloat16
        counted, (_, item) = sizes.masked_weights(prior), BYTES[dtype]
        return (counted.matrices + counted.others) * item + counted.norms * max(4, item)
    counted, (matrix, other) = sizes.prior_weights(prior), BYTES[dtype]
    total = counted.matrices * matrix + counted.others * other + counted.norms * max(4, other)
    if dtype == "int8":
        rows = counted.table // prior["trunk"]["width"]
        total += other * (counted.columns + rows) + counted.table * (matrix if prior["tied"] else matrix - other)
    return total


def _plan_level(
    codec: sizes.Config, prior: sizes.Config | None, request: Request, level: int, have: int, speed: Speed | None
) -> LevelPlan:  # fmt: skip
    samples, batches, hop = len(request["samples"]), batches_of(request), sizes.hops(codec)
    total = codes_of(request["seconds"], codec["sample_rate"], hop[level], hop[-1])
    sound = _sound_bytes(codec, level, total * hop[level], samples, device_of(request))
    products = 2 * sizes.codec_products(codec, level) * total * hop[level] * samples / NARROW
    if prior is None or have >= total:  # there are its codes already: they are only decoded
        parts = dict.fromkeys(("weights", "cache", "conditions", "activations"), 0) | {"sound": sound}
        return LevelPlan(level, 0, parts, 0, 0, None if speed is None else products / speed.products)
    windows = list(windows_of(request, level, sizes.window(prior), total, have))
    side, most = 1, max(map(len, batches))
    if request["parallel"] and prior["above"]:
        side = min(max(1, request["batch"] // most) if request["batch"] else len(windows), len(windows))
        windows = [
            window._replace(begin=window.start) for window in windows
        ]  # the whole of each is drawn, from nothing
    guided = 2 if request["how"].get(str(level), {}).get("guidance", 1.0) != 1.0 else 1
    tokens = [window.begin - window.start + 1 + sizes.lyric_prefix(prior) for window in windows]
    rows, dtype = most * side * guided, dtype_of(request)
    parts = _window_bytes(prior, dtype, rows, max(tokens)) | {"sound": sound}
    steps = len(batches) * sum(window.end - window.begin for window in windows[::side])
    seconds = None
    if speed is not None:
        primes = 2 * sizes.prior_weights(prior).matrices * sum(tokens)
        products += samples * guided * (primes + len(windows) * _upsampler_products(prior))
        seconds = steps * step_seconds(prior, dtype, rows, speed) + products / speed.products
    return LevelPlan(level, rows, parts, steps, (total - have) * samples, seconds)


def _plan_masked_level(
    codec: sizes.Config, masked: sizes.Config, request: Request, level: int, have: int, speed: Speed | None
) -> LevelPlan:  # fmt: skip
    """As `_plan_level`, of a level that the masked prior fills; its steps are passes."""
    batches, hop, column = batches_of(request), sizes.hops(codec), sizes.ratios(masked)[level]
    samples, rows, (_, item) = len(request["samples"]), max(map(len, batches)), BYTES[dtype_of(request)]
    total, n_ctx = codes_of(request["seconds"], codec["sample_rate"], hop[level], hop[-1]), masked["trunk"]["n_ctx"]
    windows = list(windows_of(request, level, n_ctx * column, total, have))
    passes = request["how"][str(level)]["passes"]
    columns = max((window.end - window.start) // column for window in windows) if windows else 0
    parts = {
        "weights": weight_bytes(masked, dtype_of(request)), "cache": 0,
        "conditions": rows * n_ctx * masked["trunk"]["width"] * item,
        "activations": sizes.pass_bytes(masked, level, rows, columns, item),
        "sound": _sound_bytes(codec, level, total * hop[level], samples, device_of(request)),
    }  # fmt: skip
    seconds = None
    if speed is not None:
        whole, code = sizes.pass_products(masked, level)
        seen = sum((window.end - window.start) // column * whole for window in windows)
        products = 2 * passes * samples * (seen + 2 / math.pi * (total - have) * code)  # the cosine's mean is 2 / pi
        products += 2 * sizes.codec_products(codec, level) * total * hop[level] * samples / NARROW
        seconds = products / speed.products
    return LevelPlan(level, rows, parts, len(batches) * len(windows) * passes, (total - have) * samples, seconds)


def _window_bytes(prior: sizes.Config, dtype: str, rows: int, tokens: int) -> dict[str, int]:
    """Parts of what a window needs whose first `tokens` steps are heard at once."""
    (_, item), (stream, wide) = BYTES[dtype], sizes.condition_numbers(prior)
    cache = rows * item * sum(sizes.cache_numbers(prior).values())
    conditions = rows * (item * stream + 4 * wide)
    # the codes above are heard before there is a cache; a draw needs its logits in three widths
    before = rows * sizes.upsampler_bytes(prior, item) - cache - conditions
    draws = rows * sizes.vocabulary(prior) * (item + 4 + 24)
    activations = max(rows * tokens * sizes.prefill_bytes(prior, item), before, draws)
    return {"weights": weight_bytes(prior, dtype), "cache": cache, "conditions": conditions, "activations": activations}


def _sound_bytes(codec: sizes.Config, level: int, length: int, samples: int, device: str) -> int:
    """The level's codec, what decoding holds of every sample and works with, and a sound of `length` while its page is written."""
    waits = 4 * sizes.codec_reach(codec, level) * codec["emb_width"]
    held = (WAITING + samples / 2) * waits  # of each sample its layers' pasts, about half of what they wait for
    return 4 * sizes.codec_weights(codec, level) + round(held) + PIECES[device] + PAGE * length * codec["channels"]


# ---- time


def step_seconds(prior: sizes.Config, dtype: str, rows: int, speed: Speed) -> float:
    """Seconds of one step of decoding `rows` side by side."""
    counted, (matrix, item) = sizes.prior_weights(prior), BYTES[dtype]
    read = counted.matrices * matrix + counted.table * item + rows * item * sizes.seen_numbers(prior)
    layers = prior["trunk"]["depth"] + 2  # embedding and drawing are like two
    return read / speed.bandwidth + layers * speed.layer


def _upsampler_products(prior: sizes.Config) -> int:
    """Numbers multiplied and added to hear the codes above a window, nearly all below this level's rate."""
    above = prior["above"]
    if not above:
        return 0
    return 2 * sizes.upsampler_weights(above, prior["trunk"]["width"]) * sizes.window(prior) // above["stride"]


# ---- making it fit


def fit(config: Mapping[str, Any], request: Request, max_memory: int, ranks: int = 1) -> dict[str, Any]:
    """What to change in a request so that each process of it stays below `max_memory` bytes; UserError says in one line what would.

    As asked if it fits. Else, where no dtype was asked for, bfloat16; then fewer samples side by side, which changes no song but
    for rounding; then int8. One level is in memory at a time whatever is chosen.
    """
    samples = len(request["samples"])
    windows = samples if not request["parallel"] else WINDOWS * samples  # side by side, where a batch counts both
    asked = request["batch"] or windows
    dtypes = [dtype_of(request)] if request.get("dtype") else ["float32", "bfloat16", "int8"]
    batches = sorted({-(-asked // passes) for passes in range(1, asked + 1)}, reverse=True)
    choices = [(dtypes[0], request["batch"])] + [(d, b) for d in dtypes[1:] or dtypes for b in batches]
    for dtype, batch in choices:
        chosen = {"dtype": dtype, "batch": batch, "batches": first_batches(samples, batch, ranks)}
        if plan_sampling(config, {**request, **chosen}).peak <= max_memory:
            return chosen
    raise UserError(_what_would_fit(config, request, max_memory))


def _what_would_fit(config: Mapping[str, Any], request: Request, max_memory: int) -> str:
    def alone(dtype: str) -> Plan:
        one = {"dtype": dtype, "batch": 1, "batches": [[i] for i in range(len(request["samples"]))]}
        return plan_sampling(config, {**request, **one})

    least = alone(request.get("dtype") or "int8")
    smaller = "" if least.dtype == "int8" else f", or with --dtype int8 {alone('int8').peak / GB:.2f} GB"
    fitting = [str(plan.level) for plan in least.levels if least.framework + plan.bytes <= max_memory]
    rest = f"; level {', '.join(fitting)} alone would fit" if fitting else ""
    return (
        f"--max_memory {max_memory / GB:g}GB is not enough: level {least.largest.level} takes {least.peak / GB:.2f} GB with {least.dtype} "
        f"and one sample at a time{smaller}{rest}; give that much, or another machine or model"
    )
