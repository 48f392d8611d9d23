"""Sampling songs: one walk over levels and windows, and the verbs that begin it (Jukebox, section 5).

    sample      from nothing                          every level, top first
    continue_   from recordings, codes or runs        their beginning is the prompt of every level
    branch      from the first seconds of a run       another seed, other words, another take
    upsample    from the codes of a level             the levels below it
    replay      from a run.json                       the same codes again
    resume      from a run cut short                  what is missing

Each verb writes a request (jukebox/sampling/request.py) and passes it to `resume`. `resume` fetches the prompt codes, samples
every level, top first, and decodes audio on the way. A window is conditioned on the codes before it (its prompt), the codes of
the level above and its conditions. Codes that exist are never changed. Only one level's prior is in memory at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_prep.errors import UserError
from jukebox.device import choose_device, device_of_rank
from jukebox.model.folder import ModelFolder
from jukebox.model.info import PriorEntry, check_weights
from jukebox.report.spectrograms import write_page
from jukebox.sampling import request
from jukebox.sampling.batches import batches_at, window_prompt
from jukebox.sampling.masked_sampler import MaskedLevelSampler
from jukebox.sampling.request import SamplingOptions
from jukebox.sampling.run import REQUEST, Run, read_request, versions
from jukebox.sampling.sampler import LevelSampler
from jukebox.sampling.sources import fetch
from jukebox.sampling.wav_writer import WavWriter
from jukebox.sampling.window_checkpoint import forget
from jukebox.song import PreparedSong, Song
from priors.autoregressive import native
from priors.prior import HasTrunk
from priors.spec import SamplingParams


def sample(model: ModelFolder, songs: Sequence[Song], seconds: float, out: str | Path, **options) -> Run:
    """Sample `seconds` of music for every song (a batch) into the run folder `out`; `options` as in `request.Choices`."""
    return resume(Run.create(out, request.sampled(model.info, songs, seconds, _sampling_options(model, options))))


def continue_(
    model: ModelFolder, songs: Sequence[Song], prompts: Sequence[str | Path], prompt_seconds: float, seconds: float, out: str | Path,
    **options,
) -> Run:  # fmt: skip
    """Continue recordings, files of codes or runs: the first `prompt_seconds` of each are kept, `seconds` is the finished length."""
    asked = request.continued(model.info, songs, prompts, prompt_seconds, seconds, _sampling_options(model, options))
    return resume(Run.create(out, asked))


def branch(
    run: Run, out: str | Path, *, keep_seconds: float = 0.0, take: int = 0, seconds: float = 0.0, lyrics: Song | None = None,
    seed: int | None = None, **options,
) -> Run:  # fmt: skip
    """Keep the first seconds of a run, or of one take of it, and go on with another seed or other lyrics; see `request.branched`."""
    made = SamplingOptions(**{"threads": torch.get_num_threads(), **options})
    asked = request.branched(run, made, keep_seconds=keep_seconds, take=take, seconds=seconds, lyrics=lyrics, seed=seed)
    return resume(Run.create(out, asked))


def upsample(
    run: Run, out: str | Path | None = None, *, level: int | None = None, seed: int | None = None, lower: str = "",
    passes: Sequence[int] = (), **options,
) -> Run:  # fmt: skip
    """Write the levels that a run does not have yet; with `out` in a copy that keeps `level` and those above, with another seed.

    `lower` says how: one code after another ("autoregressive") or many at once ("masked", in so many `passes` a level).
    """
    if out is not None:
        made = SamplingOptions(**{"threads": torch.get_num_threads(), "lower": lower, "passes": passes, **options})
        return resume(Run.create(out, request.upsampled(run, made, level, seed)))
    if level is not None or seed is not None or options:
        raise UserError("another level, seed or choice needs a copy: name it with `out`; a run goes on as it began")
    run.update(**request.extended(run, lower, passes))
    return resume(run)


def replay(path: str | Path, out: str | Path) -> Run:
    """Draw the codes of a run.json once more; UserError where those of the original, if they are beside it, are others."""
    path = Path(path) / REQUEST if Path(path).is_dir() else Path(path)
    again = Run.create(out, request.replayed(read_request(path)))
    if path.name != REQUEST or not (path.parent / "codes").is_dir():
        return resume(again)
    original = Run.open(path.parent)
    for level, count in again.request["given"].items():
        if 0 < count <= original.count(int(level)):  # what they came from may have gone since
            again.append(int(level), range(again.n_samples), 0, original.codes(int(level), stop=count), 0.0)
    compare(original, resume(again))
    return again


def compare(a: Run, b: Run) -> None:
    """Print for every level whether two runs have the same codes; UserError where they have not."""
    for level in a.request["levels"]:
        length = min(a.count(level), b.count(level))
        differ = a.codes(level, stop=length) != b.codes(level, stop=length)
        if differ.any():
            sample, code = np.argwhere(differ)[0]
            raise UserError(
                f"level {level} of sample {sample} differs from code {code} on; on the same machine with the same versions it would not "
                f"({a.folder} and {b.folder})"
            )
        print(f"level {level}: the same {length} codes" + (f" of {a.n_samples} samples" if a.n_samples > 1 else ""))


# ---- the walk


def resume(run: Run, device: str = "", rank: int = 0, ranks: int = 1) -> Run:
    """Do what is missing of a run, as process `rank` of `ranks`; the codes are those of an uninterrupted one."""
    mine = run.request["batches"][rank::ranks]
    if not mine:  # more processes than batches
        return run
    with run.lock_samples([i for batch in mine for i in batch]):
        asked = run.request
        _print_differences(run)
        torch.set_num_threads(asked["machine"]["threads"])
        model = ModelFolder.from_pretrained(asked["model"])
        check_weights(asked, model.info)
        if "model_hash" not in asked:
            run.update(model_hash=model.hashes())
        chosen = choose_device(device or asked["device"])
        if asked["device"] == "auto":
            run.update(device=chosen.split(":")[0])
        if "compiled" not in asked:
            run.update(dtype=request.dtype_of(asked))
            run.update(compiled=to_compile(model, run))
        for batch in mine:
            write_prompt_codes(model, run, batch)
        songs = [request.song_of_entry(entry, asked["total_seconds"]) for entry in asked["samples"]]
        for level in sorted(asked["levels"], reverse=True):
            fill_level(model, run, songs, level, mine, device_of_rank(chosen, rank))
            write_page(run.folder)
    return run


def writer(model: ModelFolder, run: Run, level: int) -> PriorEntry | None:
    """The prior that a run's request has a level sampled by; None where the model has none."""
    return model.info.writer(run.stream(level).name, window_prompt(run.request, level))


def to_compile(model: ModelFolder, run: Run) -> bool:
    """Whether steps are compiled; `auto`: where that can be done, and the codes to be drawn are worth the seconds it takes."""
    asked = run.request
    if asked["compile"] == "auto":
        depths = {level: entry.config.depth for level in asked["levels"] if (entry := writer(model, run, level))}
        return request.should_compile(asked, depths, asked["sample_rate"]) and native.why_not(asked["dtype"]) is None
    if asked["compile"] == "on" and (why := native.why_not(asked["dtype"])):
        raise UserError(f"--compile on cannot be: {why}; take --compile off, or auto")
    return asked["compile"] == "on"


def fill_level(
    model: ModelFolder, run: Run, songs: Sequence[Song], level: int, mine: Sequence[Sequence[int]], device: str
) -> None:
    """Sample what is missing of one level, and decode it as it grows; finished sound is left alone."""
    batches = [part for batch in mine for part in batches_at(list(batch), run.request["cuts"], level)]
    samples, total = [i for batch in batches for i in batch], run.total(level)
    codec = model.codec([run.stream(level).name])
    writers = {i: each for i in samples if not (each := WavWriter(run, codec, level, i)).is_whole()}
    if run.count(level, samples) == total:
        for each in writers.values():
            each.grow()
        forget(run, level, samples)
        return
    missing = "masked" if window_prompt(run.request, level) == "any" else f"prior_{level}"
    entry = writer(model, run, level) or model.entry(missing)
    prior = model.prior(entry.name, run.request["dtype"]).to(device)
    if isinstance(prior, HasTrunk):
        prior.compiled = run.request["compiled"]
    labels, masked = model.labels_of(entry.name), prior.spec.prompt == "any"
    prepared = [PreparedSong.of(song, labels, model.vocabulary, model.sample_rate) for song in songs]
    done = sum(run.count(level, [i]) for i in samples)
    every = 0.5 if sys.stderr.isatty() else 10.0  # seconds between two lines of the progress bar
    with tqdm(total=total * len(samples), initial=done, desc=f"level {level}", unit="code", mininterval=every) as bar:
        sampler = (MaskedLevelSampler if masked else LevelSampler)(run, level, prior, prepared, writers, bar)
        for batch in batches:
            sampler.fill(batch)
    forget(run, level, samples)
    if sampler.steps and (masked or sampler.parallel):
        what = "passes" if masked else "steps one after another"
        print(f"level {level}: {total * len(samples) - done} codes in {sampler.steps} {what}")


def write_prompt_codes(model: ModelFolder, run: Run, samples: Sequence[int]) -> None:
    """Put the codes that are given in their place, those of a recording by encoding it; what is there already is left."""
    missing = {int(level): count for level, count in run.request["given"].items() if run.count(int(level), samples) < count}
    sources = dict.fromkeys(tuple(run.request["sources"][i]) for i in samples) if missing else {}
    for path, row in sources:
        codes = fetch(model, path, row, missing)
        for level, count in missing.items():
            new = [i for i in samples if run.request["sources"][i] == [path, row] and run.count(level, [i]) < count]
            if new:
                run.append(level, new, 0, np.repeat(codes[level][None], len(new), axis=0), 0.0)


# ---- small helpers


def _sampling_options(model: ModelFolder, options: dict) -> SamplingOptions:
    """Choices of a Python caller: every level has its How, and torch's threads are the caller's."""
    params = {level: (options.get("params") or {}).get(level, SamplingParams()) for level in range(len(model.hops))}
    return SamplingOptions(**{"threads": torch.get_num_threads(), **options, "params": params})


def _print_differences(run: Run) -> None:
    """One line where this run began elsewhere: bit-equal codes are promised on the same machine with the same versions only."""
    asked, now = run.request, versions()
    old = [f"{name} {was} (now {now.get(name)})" for name, was in asked["versions"].items() if now.get(name) != was]
    before, here = asked["machine"], request.machine(asked["machine"]["threads"])
    old += [f"{name} {before.get(name)}" for name in ("system", "processor") if before.get(name) != here[name]]
    if old:
        print(f"{run.folder} began with {', '.join(old)}; the codes still to come may differ in rounding", file=sys.stderr)
