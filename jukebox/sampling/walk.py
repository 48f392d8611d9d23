"""Sampling of songs: one walk over levels and windows, and the verbs that start the walk from a run (Jukebox, section 5).

    branch      keep the first seconds of a run       sample the rest with another seed or other lyrics
    upsample    keep the codes of a level             sample the finer levels
    replay      read a run.json                       sample the same codes again
    resume      read an interrupted run               sample the missing codes

Each verb writes a request (jukebox/runs/request.py) and passes the run to `resume`. `resume` reads the prompt codes, samples
every level, and decodes the audio at the same time. `steps` is the same walk as an iterator of updates. A window is conditioned
on the codes before the window (its prompt), on the codes of the level above, and on labels and lyrics. Existing codes are never
changed. Only one level's prior is in memory at a time, unless the model keeps its priors (`jukebox/api.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.errors import UserError
from data_prep.progress import ProgressBar
from jukebox.device import choose_device, choose_own_device, computing_on
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo, check_weights
from jukebox.report.spectrograms import write_page
from jukebox.runs import request
from jukebox.runs.batches import batches_at
from jukebox.runs.request import RunSettings
from jukebox.runs.run import KNOWN, Run
from jukebox.runs.run_file import REQUEST, read_request, versions
from jukebox.runs.sources import fetch
from jukebox.sampling.encoder import LevelEncoder
from jukebox.sampling.prompt import copy_prompts, write_joined
from jukebox.sampling.sampler import LevelSampler, Written
from jukebox.sampling.wav_writer import WavWriter
from jukebox.sampling.window_checkpoint import forget
from jukebox.sampling.writer_thread import WriterThread
from jukebox.song import PreparedSong, Song
from priors.autoregressive import native
from priors.prior import HasSteps
from priors.registry import PRIOR_PARAMS

PAGE_EVERY = 60.0  # seconds between two updates of the page
Report = Callable[[Written], object]


def branch(
    run: Run, out: str | Path, settings: RunSettings, *, keep_seconds: float = 0.0, take: int = 0, seconds: float = 0.0,
    lyrics: Song | None = None, seed: int | None = None, model: ModelFolder | None = None,
) -> Run:  # fmt: skip
    """Keep the first seconds of a run or of one take, and sample the rest in a new run at `out`; see `request.branched`."""
    asked = request.branched(run, settings, keep_seconds=keep_seconds, take=take, seconds=seconds, lyrics=lyrics, seed=seed)
    return resume(Run.create(out, asked), model)


def upsample(
    run: Run, out: str | Path | None = None, settings: RunSettings | None = None, *, level: int | None = None, seed: int | None = None,
    model: ModelFolder | None = None,
) -> Run:  # fmt: skip
    """Write the missing finer levels of a run, or with `out` resample the levels below `level` in a copy of the run.

    Without `out` only the route and the parameters of `settings` are used.
    """
    settings = settings or RunSettings()
    if out is not None:
        return resume(Run.create(out, request.upsampled(run, settings, level, seed)), model)
    if level is not None or seed is not None:
        raise UserError("another level or seed needs a copy: name it with `out`; a run goes on as it began")
    run.update(**request.extended(run, settings) | {"model": run.request["model"]})
    return resume(run, model)


def replay(path: str | Path, out: str | Path, model: ModelFolder | None = None) -> Run:
    """Sample the codes of a run.json again in a new run at `out`.

    If the original run exists, its codes are compared with the new codes. Raise UserError if the codes differ.
    """
    path = Path(path) / REQUEST if Path(path).is_dir() else Path(path)
    asked = read_request(path)
    if asked.get("inpaints") and not (path.parent / KNOWN).is_file():
        raise UserError(f"{path.parent} has no {KNOWN}, which holds the recording of this edit; give the folder of the run")
    again = Run.create(out, request.replayed(asked | ({"model": str(model.folder)} if model else {})))
    again.copy_known(path.parent)
    if path.name != REQUEST or not (path.parent / "codes").is_dir():
        return resume(again, model)
    original = Run.open(path.parent)
    for level, count in again.request["given"].items():
        if 0 < count <= original.count(int(level)):  # the source of the given codes may not exist any more
            again.append(int(level), range(again.n_samples), 0, original.codes(int(level), stop=count), 0.0)
    compare(original, resume(again, model))
    return again


def compare(a: Run, b: Run) -> None:
    """Print for every level that two runs have the same codes; raise UserError at the first difference."""
    for level in a.request["levels"]:
        length = min(a.count(level), b.count(level))
        differ = a.codes(level, stop=length) != b.codes(level, stop=length)
        if differ.any():
            sample, frame, *_ = np.argwhere(differ)[0]
            raise UserError(
                f"level {level} of sample {sample} differs from frame {frame} on; on the same machine with the same versions it would not "
                f"({a.folder} and {b.folder})"
            )
        print(f"level {level}: the same {length} codes" + (f" of {a.n_samples} samples" if a.n_samples > 1 else ""))


# ---- the walk


def resume(
    run: Run, model: ModelFolder | None = None, device: str = "", rank: int = 0, ranks: int = 1, report: Report | None = None
) -> Run:  # fmt: skip
    """Complete a run as process `rank` of `ranks`. The codes equal those of an uninterrupted run.

    `report` is called with every update and replaces the progress bar. If `report` raises an exception, the run stops. A later
    call can resume the run.
    """
    for written in steps(run, model, device, rank, ranks, bar=report is None):
        if report:
            report(written)
    return run


def steps(
    run: Run, model: ModelFolder | None = None, device: str = "", rank: int = 0, ranks: int = 1, bar: bool = False,
    audio: bool = False,
) -> Iterator[Written]:  # fmt: skip
    """Complete a run and yield each update; with `audio` the wav files are up to date at each update."""
    mine = run.request["batches"][rank::ranks]
    if not mine:  # this process has no batch
        return
    chosen = choose_own_device(device or run.request["device"], rank, ranks)
    with run.lock_samples([i for batch in mine for i in batch]), computing_on(chosen):
        _print_differences(run)
        torch.set_num_threads(run.request["machine"]["threads"])
        model = _begin(run, model, device)
        asked = run.request
        copy_prompts(run)
        for batch in mine:
            write_prompt_codes(model, run, batch, chosen)
        songs = [request.song_of_entry(entry, asked["total_seconds"]) for entry in asked["samples"]]
        for level in asked["levels"]:
            yield from fill_level(model, run, songs, level, mine, chosen, bar, audio)
            if run.has_page:
                write_page(run.folder)
        if write_joined(model, run, [i for batch in mine for i in batch], chosen) and run.has_page:
            write_page(run.folder)


def _begin(run: Run, model: ModelFolder | None, device: str) -> ModelFolder:
    """Check the model of a run, and return the model.

    The first process records its decisions in the request: weight hashes, device, planners, dtype and compilation.
    """
    if model is None:
        model = ModelFolder.from_pretrained(run.request["model"])
    check_weights(run.request, model.info)
    changes: dict[str, Any] = {} if Path(run.request["model"]) == model.folder else {"model": str(model.folder)}
    if "model_hash" not in run.request:
        changes["model_hash"] = model.hashes()
    if run.request["device"] == "auto":
        changes["device"] = choose_device(device or "auto").split(":")[0]
    if "planners" not in run.request:  # a run of version 2 has no planners
        changes |= request.plans_of(model.info, run.request)
    if "compiled" not in run.request:
        asked = run.request | changes | {"dtype": request.dtype_of(run.request)}
        changes |= {"dtype": asked["dtype"], "compiled": to_compile(model.info, asked)}
    if changes:
        run.update(**changes)
    return model


def to_compile(info: ModelInfo, asked: dict) -> bool:
    """Whether decoding steps are compiled (CPU) or captured (GPU); with `auto` only if that is possible and saves time."""
    if asked["compile"] == "auto":
        return request.should_compile(info, asked) and native.why_not(asked["dtype"], asked["device"]) is None
    if asked["compile"] == "on" and (why := native.why_not(asked["dtype"], asked["device"])):
        raise UserError(f"--compile on cannot be: {why}; take --compile off, or auto")
    return asked["compile"] == "on"


def fill_level(
    model: ModelFolder, run: Run, songs: Sequence[Song], level: int, mine: Sequence[Sequence[int]], device: str, bar: bool, audio: bool
) -> Iterator[Written]:  # fmt: skip
    """Sample or encode the missing frames of one level, and decode them at the same time. Finished audio is not changed."""
    asked = run.request
    above = asked["levels"][: asked["levels"].index(level)]
    batches = [part for batch in mine for part in batches_at(list(batch), asked["cuts"], above)]
    samples, total = [i for batch in batches for i in batch], run.total(level)
    done, page_at = sum(run.count(level, [i]) for i in samples), time.monotonic() + PAGE_EVERY
    with WriterThread() as files:
        writers = _wav_writers(model, run, level, samples, device, files)
        for writer in writers.values():
            writer.grow()
        if done < total * len(samples):
            sampler = _sampler(model, run, songs, level, device)
            with _bar(total * len(samples), done, level, bar) as shown:
                for batch in batches:
                    for written in sampler.fill(batch):
                        _show(shown, run, written)
                        for i in written.samples if written.frames else ():
                            if i in writers:
                                writers[i].grow()
                        show_page = time.monotonic() > page_at and run.has_page
                        if show_page or audio:
                            files.flush()
                        if show_page:
                            write_page(run.folder)
                            page_at = time.monotonic() + PAGE_EVERY
                        yield written
            if bar:
                _print_steps(sampler, total * len(samples) - done)
    for i, each in writers.items():  # the writer thread has ended
        run.add_findings(level, i, each.check.finish())
    forget(run, level, samples)


def _bar(total: int, done: int, level: int, shown: bool) -> ProgressBar:
    return ProgressBar(total=total, initial=done, desc=f"level {level}", unit="code", mininterval=0.5, disable=not shown)


def _print_steps(sampler: LevelSampler | LevelEncoder, codes: int) -> None:
    """Print the number of sequential steps or passes, if one step writes several codes of a sample."""
    if isinstance(sampler, LevelSampler) and sampler.steps and (sampler.parallel or sampler.prior.spec.prompt == "any"):
        what = "sequential steps" if sampler.parallel else "passes"
        print(f"level {sampler.level}: {codes} codes in {sampler.steps} {what}")


def _show(shown: ProgressBar, run: Run, written: Written) -> None:
    shown.update(written.frames * len(written.samples))
    if written.took:
        seconds = written.frames * len(written.samples) * run.request["hops"][written.level] / run.request["sample_rate"]
        shown.set_postfix_str(f"{seconds / written.took:.2f} s of music a second", refresh=False)


def _wav_writers(
    model: ModelFolder, run: Run, level: int, samples: Sequence[int], device: str, files: WriterThread
) -> dict[int, WavWriter]:
    """Return wav writers of samples with incomplete audio; none for an edit, or if no codec decodes the stream."""
    if run.request.get("inpaints") or not model.info.codec_of(run.stream(level).name).config.decodes:
        return {}
    codec = model.codec([run.stream(level).name]).to(device)
    return {i: each for i in samples if not (each := WavWriter(run, codec, level, i, device, files)).is_whole()}


def _sampler(model: ModelFolder, run: Run, songs: Sequence[Song], level: int, device: str) -> LevelSampler | LevelEncoder:
    """Return the object that writes a level: a sampler with its prior, or the encoder of another codec."""
    asked = run.request
    if level not in run.sampled_levels:
        return LevelEncoder(run, level, model, device)
    entry = model.entry(asked["priors"].get(str(level), f"prior_{level}"))
    prior = model.prior(entry.name, asked["dtype"]).to(device)
    if isinstance(prior, HasSteps):  # the run may have started on another device
        prior.compiled = asked["compiled"] and native.why_not(asked["dtype"], device) is None
    labels, kind = model.labels_of(entry.name), entry.config.kind
    prepared = [PreparedSong.of(song, labels, model.vocabulary, model.sample_rate) for song in songs]
    params = PRIOR_PARAMS.load(kind)(**asked["params"][str(level)])
    return LevelSampler(run, level, prior, params, prepared)


def write_prompt_codes(model: ModelFolder, run: Run, samples: Sequence[int], device: str) -> None:
    """Write the given codes of the prompt to the run. Recordings are encoded. Existing codes are not changed."""
    missing = {int(level): count for level, count in run.request["given"].items() if run.count(int(level), samples) < count}
    sources = dict.fromkeys(tuple(run.request["sources"][i]) for i in samples) if missing else {}
    for path, row in sources:
        codes = fetch(model, path, row, missing, device)
        for level, count in missing.items():
            new = [i for i in samples if run.request["sources"][i] == [path, row] and run.count(level, [i]) < count]
            if new:
                run.append(level, new, 0, np.repeat(codes[level][None], len(new), axis=0), 0.0)


# ---- small helpers


def _print_differences(run: Run) -> None:
    """Print a line if the run began on another machine or with other versions.

    Codes are bit-equal only on the same machine with the same versions.
    """
    asked, now = run.request, versions()
    old = [f"{name} {was} (now {now.get(name)})" for name, was in asked["versions"].items() if now.get(name) != was]
    before, here = asked["machine"], request.machine(asked["machine"]["threads"])
    old += [f"{name} {before.get(name)}" for name in ("system", "processor") if before.get(name) != here[name]]
    if old:
        print(f"{run.folder} began with {', '.join(old)}; the codes still to come may differ in rounding", file=sys.stderr)
