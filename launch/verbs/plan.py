"""`jukebox plan`: predict memory and time of a run from the configurations of a model. No weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from data_prep.errors import UserError
from jukebox.device import computing_on
from jukebox.model.info import ModelInfo
from jukebox.model.presets import read_info
from jukebox.model.routes import Route
from jukebox.params import SamplingParams
from jukebox.planning.sampling import Plan, Request, check_memory, fitted, on_device, plan_sampling, spell
from jukebox.planning.training import Budget
from jukebox.runs.params import params_by_level
from jukebox.runs.request import check_batch, check_size, should_compile
from jukebox.runs.run import Run
from launch.cli.usage import shared_flags
from launch.verbs.plan_train import TrainPlanParams, plan_train


@dataclass(frozen=True)
class SongPlanParams:
    """The songs of a sampling plan.

    seconds: finished length of the song, in seconds
    takes: samples of the song
    prompt_seconds: length of the prompt, in seconds
    levels: levels to write, as in 2,1,0 (empty: all)
    hop_fractions: step from window to window as a share of the window, for levels 0,1,2 (the last one for further levels)
    guidance: weight of the conditions of the coarsest level, as in classifier-free guidance (1: none)
    route: which priors write the levels, by the name that the model gives it (empty: its default route)
    """

    seconds: float = 20.0
    takes: int = 1
    prompt_seconds: float = 0.0
    levels: tuple[int, ...] = ()
    hop_fractions: tuple[float, ...] = (0.5, 0.5, 0.5)
    guidance: float = 1.0
    route: str = ""


@shared_flags
def plan(
    what: Literal["sample", "train"], model: str, *, song: SongPlanParams, dtype: str = "", batch: int = 0,
    parallel: bool = False, max_memory: str = "", bandwidth: float = 0.0, threads: int = 0, device: str = "auto",
    training: TrainPlanParams,
) -> Plan | list[Budget]:  # fmt: skip
    """Print the memory by level and part, and the time by level, that a run is predicted to take; or the training of a prior.

    what: sample (continue, upsample and resume are planned alike when they begin), or train
    model: a model folder, a preset (demo, small, test) or a published set (5b, 5b_lyrics, 1b_lyrics), which need not be
        downloaded
    dtype: float32, bfloat16, float16 or int8 (empty: float32, or what --max_memory chooses)
    batch: samples decoded in parallel, with --parallel samples times windows (0: all, or what --max_memory chooses); train:
        windows per step, of all GPUs together (0: the preset's)
    parallel: below the top level, sample the windows of a song in parallel
    max_memory: memory to stay below, such as 8GB: dtype and batch are chosen so (empty: no limit)
    bandwidth: memory bandwidth of the target machine, GB per second (0: that of this machine, measured)
    threads: CPU threads (0: as a run would take; train: as torch would)
    device: cpu, cuda, or auto: a GPU if there is one
    """
    if what == "train":
        return plan_train(model, training, batch, threads)
    import torch

    if bandwidth < 0:
        raise UserError(f"--bandwidth got {bandwidth:g}, expected GB a second above 0, or 0 for this machine's")
    info = read_info(model)
    route = info.route(song.route)
    chosen = chosen_levels(info, model, route, song, batch)
    torch.set_num_threads(info.threads(threads))
    given = {str(level): info.frames(song.prompt_seconds, level) for level in chosen if song.prompt_seconds}
    request = on_device({
        "seconds": song.seconds, "levels": list(chosen), "samples": [{}] * song.takes, "hop_fractions": song.hop_fractions,
        "given": given, "hops": info.hops, "route": route.name, "dtype": dtype, "batch": batch, "parallel": parallel, "device": device,
        "params": params_by_level(info, route, SamplingParams(guidance=song.guidance)),
    })  # fmt: skip
    request |= fitted(info, request, max_memory)
    made = planned(info, request, bandwidth)
    print(table(made))
    return made


def chosen_levels(info: ModelInfo, model: str, route: Route, song: SongPlanParams, batch: int) -> tuple[int, ...]:
    """Return the levels that a run writes. Levels of the codecs that are not on the route are last.

    Raise UserError if the model has no prior of a level, or for an invalid song.
    """
    own, encoded = info.split_levels(song.levels, route)
    known = [info.spec.names.index(stream) for stream, name in route.priors.items() if name in info.priors][::-1]
    if song.seconds <= 0 or song.takes < 1 or not 0 <= song.prompt_seconds < song.seconds:
        raise UserError(
            f"{song.seconds:g} s, {song.takes} takes, prompt of {song.prompt_seconds:g} s; "
            "expected a length, takes, and a shorter prompt"
        )
    check_size(info, song.seconds, song.takes)
    check_batch(batch)
    chosen = tuple(own) or tuple(known)
    if not chosen or not set(chosen) <= set(known):
        raise UserError(
            f"{model} has priors for level {', '.join(map(str, known)) or '(none)'}; got --levels {','.join(map(str, song.levels))}"
        )
    return (*chosen, *encoded)


def table(plan: Plan) -> str:
    """Format a plan with one line per level. Memory by part is in GB (10^9 bytes)."""
    names = list(plan.levels[0].parts)
    head = [f"{'level':>5}", *(f"{name:>11}" for name in names), f"{'in all':>7} {'steps':>9} {'ms a step':>9} {'time':>9}"]
    lines = [" ".join(head)]
    for level in plan.levels:
        cells = [f"{level.level:>5}", *(f"{level.parts[name] / 1e9:>11.3f}" for name in names)]
        cells.append(f"{(plan.framework + level.bytes) / 1e9:>7.2f} {level.steps:>9,}")
        if level.seconds is not None:
            cells.append(f"{1e3 * level.seconds / max(1, level.steps):>9.2f} {spell(level.seconds):>9}")
        lines.append(" ".join(cells))
    return "\n".join([*lines, f"GB; framework {plan.framework / 1e9:.2f} is counted in all", plan.line()])


def preflight(run: Run, device: str = "") -> None:
    """Set the threads of a run, and print the prediction for the rest of the run in one line."""
    import torch

    torch.set_num_threads(run.request["machine"]["threads"])
    request = on_device(run.request | ({"device": device} if device else {}))
    done = {level: run.count(level) for level in request["levels"]}
    if any(done[level] < run.total(level) for level in done):
        info = read_info(request["model"])
        check_memory(info, request, done)
        print(planned(info, request, done=done).line(), flush=True)


def planned(info: ModelInfo, request: Request, bandwidth: float = 0.0, done: dict[int, int] | None = None) -> Plan:
    """Return the plan of a request at the measured speed of this machine, or with `bandwidth` in GB/s if it is not 0."""
    from jukebox.planning.speed import measure

    plan = plan_sampling(info, request, done=done)
    compiled = will_compile(info, request, plan.dtype)
    speeds = {}
    with computing_on(request["device"]):
        for level in plan.levels:
            speed = measure(plan.device, plan.dtype, max(1, level.rows), level.parts["weights"], compiled)
            speeds[level.level] = replace(speed, bandwidth=bandwidth * 1e9) if bandwidth else speed
    return plan_sampling(info, request, done=done, speeds=speeds)


def will_compile(info: ModelInfo, request: Request, dtype: str) -> bool:
    """Whether a run compiles its sampling steps, by the rule of `jukebox.sampling.walk.to_compile`."""
    if "compiled" in request:
        return request["compiled"]
    choice = request.get("compile", "auto")
    if choice == "off" or (choice == "auto" and not should_compile(info, request)):
        return False
    from priors.autoregressive import native

    return native.why_not(dtype, request["device"]) is None
