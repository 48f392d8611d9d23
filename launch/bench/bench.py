"""Decoding speed of a model, compared with the speed of the matrix products alone on the same machine (as in gpt-fast).

The speed of the products is the limit of plain decoding. One decoding step is recorded. Then torch runs only its matrix-vector
products, and reads the weights from memory as in decoding. The rest of a step is attention, small operations and Python. Steps
are compiled if this machine has a compiler, as in runs. So they can be faster than torch's products. If a peer's environment is
given, the peer samples too. The peer is transformers' port of the published architecture, in float32, with the same width,
depth, window, codebook and number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from jukebox.device import choose_device, device_of
from launch.bench.alternate import best_seconds, check_peer, run_peer, write_rows
from launch.cli.commands import load

if TYPE_CHECKING:
    import torch

    from priors.autoregressive.model import AutoregressivePrior
    from priors.conditioning.conditions import Conditions

PEER = Path(__file__).parent / "peers" / "timing.py"


def bench(
    what: Literal["sample", "song", "codec", "prior", "attention", "train", "upsample", "wavenet", "live", "render"],
    model: str = "",
    *,
    batch: int = 1,
    seconds: float = 0.0,
    repeats: int = 5,
    threads: int = 0,
    seed: int = 0,
    peer: str = "",
    data: str = "",
    out: str = "",
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Measure the codes per second of each prior of a model and the limit of this machine; or codec, training, memory.

    what: sample (decoding of codes, with the priors of MODEL), song (from a request to wav files, by the default route of
        MODEL); without MODEL, random weights: sample (every dtype, compiled), codec (the published one), prior (a training
        step), attention (memory of training it), train (on ranks, by stage of ZeRO), upsample (the lower levels
        autoregressively, and by masked decoding; with MODEL and --data by audio distance), wavenet (samples by whole passes,
        from ring buffers, and by compiled steps), live (music of unbounded length, with MODEL its own) or render (passes and
        seconds of each route, with MODEL its own; with --data also the quality of held-out songs)
    model: the model folder, for sample, song, upsample, live and render
    batch: songs in parallel (1; for song: 12, and a single song)
    seconds: sample: minimum time of each measurement, seconds (0: 5); codec, song: seconds of audio (0: 20); render (0: 10)
    repeats: codec, prior, train, upsample, wavenet, live, render, song, sample without MODEL: runs of each case and side; the median is
        used
    threads: CPU threads; 0 takes what torch would take, song: 1 and 2
    seed: seed of the random numbers
    peer: the python of an environment with transformers 4.46 to compare with (make bench builds one)
    data: the data folder of MODEL; sample: measure the bits per held-out code of each dtype instead; upsample, render: compare audio
    out: a json file to write the table to; by default it is only printed
    device: cpu, cuda, or auto: a GPU if there is one; song decodes audio on the CPU in any case
    """
    device = choose_device(device)
    if what == "upsample" and bool(model) != bool(data):
        raise UserError("bench upsample by audio distance takes both, MODEL and --data; without them random weights are timed")
    measurements: dict[str, tuple[Any, ...]] = {
        "sample": ("sample:bench_sample", peer, repeats, threads, seed, out, device),
        "sample MODEL": ("bench:bench_priors", model, data, batch, seconds or 5.0, threads, seed, peer, out, device),
        "song": ("song:bench_song", model, batch, seconds or 20.0, repeats, threads, seed, out, device),
        "codec": ("codec:bench_codec", peer, seconds or 20.0, repeats, threads, out, device),
        "prior": ("prior:bench_prior", peer, repeats, threads, seed, out, device),
        "attention": ("attention:bench_attention", threads, out, device),
        "train": ("train:bench_train", repeats, threads, seed, out, device),
        "live": ("live:bench_live", model, repeats, threads, seed, out),
        "render": ("render:bench_render", model, data, seconds or 10.0, repeats, threads, seed, out),
        "upsample": ("upsample:bench_upsample", repeats, threads, seed, out, device),
        "wavenet": ("wavenet:bench_wavenet", repeats, threads, seed, out, device),
        "upsample MODEL": ("upsample:compare_sound", model, data, seed, out, device),
    }
    name, *values = measurements[f"{what} MODEL" if model and f"{what} MODEL" in measurements else what]
    return load(f"launch.bench.{name}")(*values)


def bench_priors(
    model: str, data: str, batch: int, seconds: float, threads: int, seed: int, peer: str, out: str, device: str
) -> list[dict[str, Any]]:
    """Return one row per prior of a model folder, coarsest first. With `data` it has the bits per code of each dtype."""
    if batch < 1 or seconds < 0:
        raise UserError(f"--batch got {batch} and --seconds {seconds:g}, expected at least 1 and more than 0")
    import torch

    from jukebox.model.folder import ModelFolder
    from priors.autoregressive import native
    from priors.autoregressive.model import AutoregressivePrior

    if threads:
        torch.set_num_threads(threads)
    opened = ModelFolder.from_pretrained(model)
    if not opened.info.levels_with_prior:
        raise UserError(f"{model} has no priors yet; train one with `jukebox train prior`, then measure it")
    if data:
        from launch.bench.sample import bits_of_dtypes

        return bits_of_dtypes(opened, data, device)
    check_peer(peer, device)
    rows, why_not = [], native.why_not("float32", device)
    steps = f"plain steps ({why_not})" if why_not else "compiled steps"
    print(f"{device}, {torch.get_num_threads()} CPU threads, float32, {steps}, batch {batch}; windows from empty to full")
    print(f"{'level':>5} {'codes/s':>9} {'limit':>9} {'share':>6} {'music s/s':>9}" + (f" {'peer':>9}" if peer else ""))
    for level in reversed(opened.info.levels_with_prior):
        prior = opened.prior(f"prior_{level}").to(device)
        assert isinstance(prior, AutoregressivePrior)
        prior.compiled = why_not is None
        rows.append(bench_level(prior, level, batch, seconds, seed, peer))
    return write_rows(rows, out)


def bench_level(prior: AutoregressivePrior, level: int, batch: int, seconds: float, seed: int, peer: str) -> dict[str, Any]:
    """Return the row of one prior. It is printed during the measurement."""
    import torch

    rate, limit = measure(prior, batch, seconds, seed)
    config, trunk = prior.config, prior.config.trunk
    row = {
        "level": level,
        "codes_per_second": rate,
        "limit_codes_per_second": limit,
        "music_seconds_per_second": rate * config.hop / config.sample_rate,
        **{"width": trunk.width, "depth": trunk.depth, "n_ctx": config.n_ctx, "bins": config.bins},
        **{"batch": batch, "threads": torch.get_num_threads(), "compiled": prior.compiled, "torch": torch.__version__},
    }
    line = f"{level:>5} {rate:>9.0f} {limit:>9.0f} {rate / limit:>6.0%} {row['music_seconds_per_second']:>9.2f}"
    print(line, end="", flush=True)
    if peer:
        size = row | {"heads": trunk.heads, "seconds": seconds}
        row["peer_codes_per_second"] = float(run_peer(peer, PEER, size).split()[-1])
        print(f" {row['peer_codes_per_second']:>9.0f}", end="")
    print(flush=True)
    return row


def measure(prior: AutoregressivePrior, batch: int, seconds: float, seed: int = 0) -> tuple[float, float]:
    """Return two rates in codes per second of all samples together: of sampling a song, and of the matrix products alone."""
    import torch

    from launch.bench.sample import start_window

    n_ctx, device = prior.config.n_ctx, device_of(prior)
    cond, nothing = conditions_of(prior, batch, seed).to(device), torch.zeros(batch, 0, dtype=torch.long, device=device)

    def window(length: int = n_ctx - 1) -> None:
        for _ in prior.sample(start_window(prior, nothing, cond, length, seed)):
            pass

    window(2)  # a warm-up, because the first call allocates memory
    rate = batch * (n_ctx - 1) / best_seconds(window, seconds)
    products = _products_of_a_step(prior, cond, nothing)

    def replay() -> None:
        for function, args in products:
            function(*args)

    with torch.no_grad():
        return rate, batch / best_seconds(replay, min(seconds, 2.0))


def conditions_of(prior: AutoregressivePrior, batch: int, seed: int) -> Conditions:
    """Return the conditions of a prior: random codes of the level above if the prior needs them, and nothing else."""
    import torch

    from priors.conditioning.conditions import Conditions

    if not prior.config.above:
        return Conditions()
    config = prior.config.above
    length = -(-prior.config.n_ctx // config.ratio)
    rng = torch.Generator().manual_seed(seed)
    return Conditions(above=torch.randint(config.bins, (batch, length), generator=rng))


def _products_of_a_step(prior: AutoregressivePrior, cond: Conditions, nothing: torch.Tensor) -> list[tuple[Callable, tuple]]:
    """Return the matrix products with weights of one plain decoding step, recorded by torch's dispatch."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from launch.bench.sample import start_window

    aten, recorded = torch.ops.aten, []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (aten.mm.default, aten.addmm.default):
                recorded.append((func, args))
            return func(*args, **(kwargs or {}))

    state = start_window(prior, nothing, cond, prior.config.n_ctx)
    with torch.no_grad(), Recorder():
        code = torch.zeros(len(nothing), dtype=torch.long, device=nothing.device)
        position = torch.tensor([state.position], device=nothing.device)
        prior.step(state.conditioning, state.caches, code, position)
    if not recorded:
        raise RuntimeError("one decoding step ran no matrix product that could be recorded")
    return recorded
