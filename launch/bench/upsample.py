"""Speed of sampling the middle and bottom levels: autoregressively, or by masked (parallel) decoding.

Both arms run alternately in one process, from the same random top codes of one window of 512 columns. Width, depth and dtype
are equal. The weights are random, with the published codebook (2048 codes per level, hops 8, 32, 128). The first row has the
fastest autoregressive form without overlapping windows: steps are compiled if possible. The second row samples the windows in
parallel, as `--parallel` does, with fewer steps. The third row computes the steps in torch, like the passes of masked decoding.
With MODEL and --data the two arms of a trained model are compared by audio distances instead.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep.errors import UserError
from launch.bench.alternate import Times, wait_for_gpu, write_rows

if TYPE_CHECKING:
    from priors.autoregressive.model import AutoregressivePrior
    from priors.masked.model import MaskedPrior

HOPS, BINS, RATE = (8, 32, 128), 2048, 44100
COLUMNS, DEPTH, CODES = 512, 4, 2048  # columns of a window; layers; codes of an autoregressive window
WARM_UP = CODES // 4  # number of warm-up codes of a parallel window, which are dropped, as with --parallel


class Shape(NamedTuple):
    """A case of the benchmark, equal for both arms."""

    width: int
    dtype: str
    columns: int = COLUMNS
    depth: int = DEPTH
    bins: int = BINS


SHAPES = tuple(Shape(width, dtype) for width in (256, 512) for dtype in ("float32", "bfloat16"))
PASSES = ((24, 12), (12, 12), (8, 4), (36, 36))


def bench_upsample(
    repeats: int, threads: int, seed: int, out: str, device: str, shapes: Sequence[Shape] = SHAPES,
    passes: Sequence[tuple[int, int]] = PASSES,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the rows of the table, one per shape and arm."""
    import torch

    if repeats < 1:
        raise UserError(f"--repeats {repeats}: expected at least 1")
    if threads:
        torch.set_num_threads(threads)
    print(f"levels 1 and 0 under {shapes[0].columns} columns ({shapes[0].columns * HOPS[-1] / RATE:.2f} s), depth {shapes[0].depth}, "
          f"{device}, {torch.get_num_threads()} threads, {repeats} repeats; load average before {os.getloadavg()[0]:.2f}")  # fmt: skip
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        arms = arms_of(shape, passes, seed, device)
        times: dict[str, Times] = {name: [] for name in arms}
        steps = {}
        for turn in range(repeats + 1):  # the first turn is a warm-up
            for name in list(arms)[:: 1 if turn % 2 else -1]:
                wall, cpu = time.perf_counter(), time.process_time()
                steps[name] = arms[name]()
                wait_for_gpu()
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
                done = f"{shape.width} {shape.dtype}, turn {turn} of {repeats}: {name} {times[name][-1][0]:.2f} s"
                print(done, file=sys.stderr, flush=True)
        rows += _rows(shape, steps, {name: some[1:] for name, some in times.items()}, torch.get_num_threads())
    _print_rows(rows)
    return write_rows(rows, out)


def arms_of(shape: Shape, passes: Sequence[tuple[int, int]], seed: int, device: str = "cpu") -> dict[str, Callable[[], int]]:
    """Return the arms: name -> a function that samples both levels once and returns the number of passes."""
    import torch

    torch.manual_seed(seed)
    top = torch.randint(shape.bins, (1, shape.columns)).to(device)
    ones, plain = ([upsampler_of(shape, level, steps, device) for level in (1, 0)] for steps in (True, False))
    masked = masked_of(shape).to(device)
    arms: dict[str, Callable[[], int]] = {
        "autoregressive": lambda: _autoregressive(ones, top, False),
        "parallel windows": lambda: _autoregressive(ones, top, True),
        "steps of torch": lambda: _autoregressive(plain, top, False),
    }
    for middle, bottom in passes:
        arms[f"masked {middle},{bottom}"] = lambda middle=middle, bottom=bottom: fill_levels(masked, top, middle, bottom)
    return arms


def upsampler_of(shape: Shape, level: int, compiled: bool = True, device: str = "cpu") -> AutoregressivePrior:
    """Return a prior of a level with random weights. Steps are compiled if requested and possible."""
    from priors.autoregressive import native
    from priors.autoregressive.config import AutoregressiveConfig
    from priors.autoregressive.model import AutoregressivePrior
    from priors.conditioning.config import UpsamplerConfig

    n_ctx = min(CODES, shape.columns * HOPS[-1] // HOPS[level])
    above = UpsamplerConfig(shape.bins, 1, 4, min(shape.width, 128), depth=4, growth=3, cycle=None)
    prior = AutoregressivePrior(AutoregressiveConfig(
        f"vq.{level}", shape.bins, HOPS[level], RATE, _trunk(shape, n_ctx, "dense"), above=above, reads=f"vq.{level + 1}",
        tied=False,
    ))  # fmt: skip
    prior.compiled = compiled and native.why_not(shape.dtype, device) is None
    return _ready(prior, shape.dtype).to(device)


def masked_of(shape: Shape) -> MaskedPrior:
    """Return a masked prior of the same width and depth."""
    from priors.masked.config import MaskedConfig
    from priors.masked.model import MaskedPrior

    config = MaskedConfig(
        shape.bins, HOPS, RATE, _trunk(shape, shape.columns, "full"), vector=64, head_width=shape.width // 4, local=4
    )
    return _ready(MaskedPrior(config), shape.dtype)


def _trunk(shape: Shape, n_ctx: int, pattern: str) -> Any:
    from priors.transformer.config import TrunkConfig

    return TrunkConfig(n_ctx, shape.width, shape.depth, max(1, shape.width // 64), (pattern,), m_attn=1.0, m_mlp=4.0)


def _ready(prior: Any, dtype: str) -> Any:
    """Convert the prior to a dtype, except the norms, which stay float32 as in a model folder."""
    import torch

    from jukebox.model.folder import is_norm

    for name, parameter in prior.named_parameters():
        parameter.requires_grad_(False)
        if not is_norm(name):
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return prior.eval()


def _autoregressive(ones: Sequence[AutoregressivePrior], top: Any, parallel: bool) -> int:
    """Sample both levels autoregressively, the windows in sequence or as one batch. Return the number of steps."""
    import torch

    from launch.bench.sample import start_window
    from priors.conditioning.conditions import Conditions

    above, steps = top, 0
    for prior in ones:
        total, n_ctx = above.shape[1] * 4, prior.config.n_ctx
        early = WARM_UP if parallel and total > n_ctx else 0  # a parallel window has warm-up codes that are dropped
        starts = [min(start, total - n_ctx) for start in (0, *range(n_ctx - early, total - early, n_ctx - early))]
        upper = torch.cat([above[:, start // 4 : (start + n_ctx) // 4] for start in starts])
        made = []
        for some in [upper] if parallel else upper.split(1):
            state = start_window(prior, top.new_zeros(len(some), 0), Conditions(above=some), n_ctx)
            made.append(torch.cat([update.values for update in prior.sample(state)], dim=1))
            steps += n_ctx
        codes = torch.cat(made)
        above = torch.cat([codes[0], *(row[early:] for row in codes[1:])])[None, :total]
    return steps


def fill_levels(masked: MaskedPrior, top: Any, middle: int, bottom: int) -> int:
    """Sample both levels below the codes `top` (b, t), and return the number of passes. Each pass yields one update."""
    import torch

    from priors.conditioning.conditions import Conditions
    from priors.masked.config import MaskedParams
    from priors.noise import Generators
    from priors.prior import Known, Window

    codes = {stream: torch.zeros_like(top).repeat(1, ratio) for stream, ratio in masked.config.ratios.items()} | {"vq.2": top}
    known = {stream: torch.full_like(x, stream == "vq.2", dtype=torch.bool) for stream, x in codes.items()}
    params = {"vq.1": MaskedParams(passes=middle), "vq.0": MaskedParams(passes=bottom)}
    noise = Generators([torch.Generator().manual_seed(i) for i in range(len(top))])
    state = masked.start(Window(0, top.shape[1], top.shape[1]), Known(codes, known), Conditions(), noise, params)
    return sum(1 for _ in masked.sample(state))


def _rows(shape: Shape, steps: Mapping[str, int], times: Mapping[str, Times], threads: int) -> list[dict[str, Any]]:
    rows, base = [], "autoregressive"
    for name, runs in times.items():
        walls, cpus = zip(*runs, strict=True)
        pairs = list(zip(times[base], runs, strict=True))  # runs of the same turn
        seconds = statistics.median(walls)
        rows.append({
            **shape._asdict(), "arm": name, "passes": steps[name], "passes_ratio": steps[base] / steps[name], "walls": list(walls),
            "seconds": seconds, "ratio": statistics.median(a[0] / b[0] for a, b in pairs), "cpu": statistics.median(cpus),
            "cpu_ratio": statistics.median(a[1] / b[1] for a, b in pairs), "threads": threads,
            "music_seconds_per_second": shape.columns * HOPS[-1] / RATE / seconds,
        })  # fmt: skip
    return rows


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'width':>5} {'dtype':<9} {'arm':<21}{'passes':>7}{'fewer':>7}{'seconds':>9}{'spread':>14}{'faster':>8}{'CPU s':>8}{'less':>7}"
          f"{'music s/s':>11}")  # fmt: skip
    for r in rows:
        spread = f"{min(r['walls']):.2f}-{max(r['walls']):.2f}"
        print(f"{r['width']:>5} {r['dtype']:<9} {r['arm']:<21}{r['passes']:>7}{r['passes_ratio']:>7.1f}{r['seconds']:>9.2f}{spread:>14}"
              f"{r['ratio']:>8.2f}{r['cpu']:>8.2f}{r['cpu_ratio']:>7.2f}{r['music_seconds_per_second']:>11.3f}")  # fmt: skip


# ---- by audio distance


def compare_sound(model: str, data: str, seed: int, out: str, device: str) -> list[dict[str, Any]]:
    """Return the seconds of both arms of a trained model, and distances of their audio from the same held-out songs."""
    from jukebox.evaluation.held_out import hold_out
    from jukebox.evaluation.masked import SoundDistance, autoregressive_codes, draw_clips, fill_clips
    from jukebox.evaluation.metrics import table
    from jukebox.model.folder import ModelFolder
    from priors.autoregressive.config import AutoregressiveParams
    from priors.masked.config import MaskedParams

    opened = ModelFolder.from_pretrained(model)
    prior, held = opened.prior("masked").to(device), hold_out(opened, Path(data), 8, 20.0)
    clips = draw_clips(opened, held, prior.config, 16, seed)
    bottom, middle, top = clips.codes
    distance, rows = SoundDistance.of(opened, clips.codes[bottom]), []

    def filled(passes: tuple[int, int]) -> Any:
        params = {middle: MaskedParams(passes=passes[0]), bottom: MaskedParams(passes=passes[1])}
        return fill_clips(prior, clips, {top: clips.codes[top]}, params, seed, len(clips))[bottom]

    one = AutoregressiveParams(temperature=0.5)
    arms = {"autoregressive": lambda: autoregressive_codes(opened, clips, one, seed, device)}
    arms |= {f"masked {a},{b}": lambda a=a, b=b: filled((a, b)) for a, b in PASSES}
    for name, draw in arms.items():
        began = time.perf_counter()
        codes = draw()
        rows.append({"arm": name, "seconds": time.perf_counter() - began, **distance.figures(codes)})
    rows.append({"arm": "another song", "seconds": None, **distance.figures(clips.others[bottom])})
    print(table([["arm", "seconds", "mel, dB", "frechet"], *[[r["arm"], r["seconds"], r["mel"], r["frechet"]] for r in rows]]))
    return write_rows(rows, out)
