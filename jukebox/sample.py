"""Sampling a song: one walk over levels and windows, and the verbs that begin it (Jukebox, section 5).

    sample      from nothing             every level, top first
    continue_   from a recording         its codes are the prompt of every level
    upsample    from a run's top codes   the lower levels
    resume      from a run cut short     what is missing

A window hears the codes before it (its prime), the codes above it and its conditions, and writes what is missing of it. Codes
that exist are never changed. Only the prior of one level is in memory at a time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_prep import audio as sound
from data_prep.align import TimedText
from data_prep.errors import UserError
from jukebox.model import Jukebox
from jukebox.report import write_page
from jukebox.run import Run, generator
from jukebox.schedule import codes_of, starts
from jukebox.song import Prepared, Song, window_conditions
from priors import native
from priors.autoregressive import AutoregressivePrior
from priors.conditions import stack
from priors.prior import How
from vqvae.stream import decode_long, encode_long

HOP_FRACTIONS = (0.5, 0.5, 0.5)  # step from window to window, as a share of the window, by level
WORTH_COMPILING = 100_000  # steps of one layer; each gains some 50 microseconds, and compiling takes some seconds


def request(
    model: Jukebox, songs: Sequence[Song], seconds: float, *, verb: str, seed: int, how: dict[int, How], total_seconds: float,
    levels: Sequence[int], hop_fractions: Sequence[float], prompt: dict | None = None, dtype: str = "float32", compile: str = "auto",
) -> dict:  # fmt: skip
    """What run.json says before the first code."""
    return {
        "verb": verb, "model": str(model.folder.resolve()), "model_hash": model.hashes(), "seed": seed, "seconds": seconds,
        "total_seconds": total_seconds, "sample_rate": model.sample_rate, "channels": model.codec_config.channels,
        "hops": list(model.hops), "levels": sorted(levels, reverse=True), "hop_fractions": list(hop_fractions),
        "how": {str(level): asdict(choice) for level, choice in how.items()}, "prompt": prompt,
        "dtype": dtype, "compile": compile,
        "samples": [
            {"artist": s.artist, "genres": list(s.genres), "lyrics": s.lyrics, "word_times": [list(t) for t in s.word_times]} for s in songs
        ],
    }  # fmt: skip


def sample(
    model: Jukebox, songs: Sequence[Song], seconds: float, out: str | Path, *, seed: int = 0, how: dict[int, How] | None = None,
    total_seconds: float = 0.0, levels: Sequence[int] = (), hop_fractions: Sequence[float] = HOP_FRACTIONS, device: str = "auto",
    dtype: str = "float32", compile: str = "auto",
) -> Run:  # fmt: skip
    """Sample `seconds` of music for every song (a batch) into the run folder `out`."""
    levels = checked_levels(model, levels)
    songs = [song.placed(model.labels) for song in _lengthened(songs, total_seconds or seconds)]
    how = how or {}
    asked = request(
        model, songs, seconds, verb="sample", seed=seed, how={level: how.get(level, How()) for level in range(len(model.hops))},
        total_seconds=total_seconds or seconds, levels=levels, hop_fractions=hop_fractions, dtype=dtype, compile=compile,
    )  # fmt: skip
    return walk(model, Run.create(out, asked), device)


def continue_(
    model: Jukebox, songs: Sequence[Song], prompts: Sequence[str | Path], prompt_seconds: float, seconds: float, out: str | Path, *,
    seed: int = 0, how: dict[int, How] | None = None, total_seconds: float = 0.0, levels: Sequence[int] = (),
    hop_fractions: Sequence[float] = HOP_FRACTIONS, device: str = "auto",
    dtype: str = "float32", compile: str = "auto",
) -> Run:  # fmt: skip
    """Continue recordings: the first `prompt_seconds` of each file are kept as codes, `seconds` is the finished length."""
    if not 0 < prompt_seconds < seconds:
        raise UserError(
            f"prompt of {prompt_seconds:g} s in a song of {seconds:g} s; expected 0 < prompt_seconds < seconds, the finished length"
        )
    levels = checked_levels(model, levels)
    top_hop = model.hops[-1]
    length = codes_of(prompt_seconds, model.sample_rate, top_hop, top_hop) * top_hop
    heard = np.stack([_prompt(model, path, length) for path in prompts])
    heard = heard[np.arange(len(songs)) % len(heard)]  # one file may serve several samples
    codes = encode_long(model.codec(levels), torch.from_numpy(heard), levels)
    songs = [song.placed(model.labels) for song in _lengthened(songs, total_seconds or seconds)]
    how = how or {}
    asked = request(
        model, songs, seconds, verb="continue", seed=seed, how={level: how.get(level, How()) for level in range(len(model.hops))},
        total_seconds=total_seconds or seconds, levels=levels, hop_fractions=hop_fractions, dtype=dtype, compile=compile,
        prompt={"path": [str(path) for path in prompts] if len(prompts) > 1 else str(prompts[0]), "seconds": length / model.sample_rate},
    )  # fmt: skip
    run = Run.create(out, asked)
    for level in sorted(levels, reverse=True):
        run.append(level, 0, codes[level].numpy(), 0.0)
    return walk(model, run, device)


def upsample(
    run: Run,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    model: Jukebox | None = None,
    device: str = "auto",
) -> Run:
    """Write the lower levels of a run that has its top codes; with `out`, in a copy, so that another seed can be tried."""
    model = model or Jukebox.from_pretrained(run.request["model"])
    top = max(run.request["levels"])
    if not run.count(top):
        raise UserError(
            f"{run.folder} has no codes of level {top} yet; finish it with `jukebox resume {run.folder}` first"
        )
    if out is not None:
        fresh = Run.create(out, {k: v for k, v in run.request.items() if k not in ("version", "machine", "versions")})
        fresh.append(top, 0, run.codes(top), 0.0)
        run = fresh
    changes: dict = {"levels": list(range(top, -1, -1))}
    if seed is not None:
        changes["seed"] = seed
    run.update(**changes)
    return walk(model, run, device)


def resume(run: Run, device: str = "auto") -> Run:
    """Go on with a run until it is finished; the codes are those of an uninterrupted one."""
    threads = run.request.get("machine", {}).get("threads")
    if threads:
        torch.set_num_threads(threads)
    model = Jukebox.from_pretrained(run.request["model"])
    changed = [name for name, old in run.request["model_hash"].items() if model.hashes().get(name, old) != old]
    if changed:
        raise UserError(
            f"{', '.join(changed)} of {model.folder} changed since this run began; its codes would not fit: sample again"
        )
    return walk(model, run, device)


# ---- the walk


def walk(model: Jukebox, run: Run, device: str = "auto") -> Run:
    """Fill every level of a run, top first, then decode it; everything that is already there is kept."""
    songs = [_song(entry, run.request["total_seconds"]) for entry in run.request["samples"]]
    if "compiled" not in run.request:
        run.update(compiled=to_compile(model, run))
    for level in sorted(run.request["levels"], reverse=True):
        fill_level(
            model, run, songs, level, ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        render(model, run, level)
        write_page(run.folder)
    return run


def to_compile(model: Jukebox, run: Run) -> bool:
    """Whether steps are compiled; `auto`: where that can be done, and the codes to be drawn are worth the seconds it takes."""
    asked = run.request
    if asked.get("compile", "auto") == "auto":
        steps = sum(
            (codes_of(asked["seconds"], model.sample_rate, model.hops[level], model.hops[-1]) - run.count(level))
            * model.prior_configs[level].trunk.depth
            for level in asked["levels"]
        )
        return steps >= WORTH_COMPILING and native.why_not(asked["dtype"]) is None
    if asked["compile"] == "on" and (why := native.why_not(asked["dtype"])):
        raise UserError(f"--compile on cannot be: {why}; take --compile off, or auto")
    return asked["compile"] == "on"


def fill_level(model: Jukebox, run: Run, songs: Sequence[Song], level: int, device: str) -> None:
    """Sample what is missing of one level."""
    asked = run.request
    total = codes_of(asked["seconds"], model.sample_rate, model.hops[level], model.hops[-1])
    if run.count(level) >= total:
        return
    prior = model.prior(level, asked.get("dtype", "float32")).to(device)
    prior.compiled = asked.get("compiled", False)
    prepared = [Prepared.of(song, model.labels_of(level), model.vocabulary, model.sample_rate) for song in songs]
    how = How(**asked["how"][str(level)])
    ratio = model.hops[level + 1] // model.hops[level] if prior.spec.reads else 1
    n_ctx = prior.spec.n_ctx
    hop = max(ratio, int(asked["hop_fractions"][level] * n_ctx) // ratio * ratio)
    rate = model.sample_rate / model.hops[level]
    every = 0.5 if sys.stderr.isatty() else 10.0  # seconds between two lines of the progress bar
    with tqdm(total=total, initial=run.count(level), desc=f"level {level}", unit="code", mininterval=every) as bar:
        for start in starts(total, n_ctx, hop):
            if run.count(level) >= min(start + n_ctx, total):
                continue
            began = time.perf_counter()
            new = fill_window(prior, run, prepared, level, start, min(start + n_ctx, total), ratio, how, bar)
            took = time.perf_counter() - began
            run.append(level, start, new, took)
            bar.set_postfix_str(f"{new.shape[1] / rate / took:.2f} s of music a second", refresh=False)


def fill_window(
    prior: AutoregressivePrior,
    run: Run,
    songs: Sequence[Prepared],
    level: int,
    start: int,
    end: int,
    ratio: int,
    how: How,
    bar: tqdm,
) -> np.ndarray:
    """The codes (b t) that are missing of the window [start, end)."""
    done = run.count(level)
    above: list = [None] * len(songs)
    if prior.spec.reads:
        coarse, need = run.codes(level + 1)[:, start // ratio :], prior.spec.n_ctx // ratio
        coarse = np.pad(coarse[:, :need], ((0, 0), (0, max(0, need - coarse.shape[1]))), mode="edge")
        above = list(coarse)
    device = next(prior.parameters()).device
    cond = stack([window_conditions(s, prior.config, start, a) for s, a in zip(songs, above, strict=True)]).to(device)
    prime = torch.from_numpy(run.codes(level)[:, start:done].astype(np.int64)).to(device)
    rngs = [generator(run.request["seed"], i, level, start) for i in range(len(songs))]
    state = prior.start(cond, {level: prime}, rngs, how)
    parts = []
    for part in prior.sample(state, end - done):
        parts.append(part[level].cpu().numpy())
        bar.update(parts[-1].shape[1])
    return np.concatenate(parts, axis=1)


def render(model: Jukebox, run: Run, level: int) -> None:
    """Decode a level's codes into wav files; files that are there already are left alone if the level is finished."""
    codec = model.codec([level])
    codes = torch.from_numpy(run.codes(level).astype(np.int64))
    for i in range(run.n_samples):
        wave = decode_long(codec, codes[i : i + 1], level)[0].numpy()
        sound.write_wav(run.audio_path(level, i), wave, model.sample_rate)


# ---- small helpers


def checked_levels(model: Jukebox, levels: Sequence[int]) -> tuple[int, ...]:
    """Levels to sample, the top one always among them; default all."""
    known = range(len(model.hops))
    levels = tuple(sorted(set(levels) or set(known), reverse=True))
    if levels != tuple(range(len(known) - 1, levels[-1] - 1, -1)):
        raise UserError(
            f"levels {levels}; expected the top level {len(known) - 1} and those below it without a gap, as in 2,1"
        )
    for level in levels:
        if level not in model.prior_configs:
            raise UserError(
                f"{model.folder} has no prior for level {level}; run `jukebox train prior --level {level}`, or sample --levels above it"
            )
    return levels


def _lengthened(songs: Sequence[Song], seconds: float) -> list[Song]:
    return [Song(s.artist, s.genres, s.lyrics, s.word_times, seconds) for s in songs]


def _song(entry: dict, seconds: float) -> Song:
    times = tuple(TimedText(*item) for item in entry["word_times"])
    return Song(entry["artist"], tuple(entry["genres"]), entry["lyrics"], times, seconds)


def _prompt(model: Jukebox, path: str | Path, samples: int) -> np.ndarray:
    """The first `samples` of a recording at the codec's rate and channels, (C, T)."""
    wave, _ = sound.read(
        path,
        sample_rate=model.sample_rate,
        channels=model.codec_config.channels,
        seconds=(samples + 1) / model.sample_rate,
    )
    if wave.shape[1] < samples:
        raise UserError(
            f"{path} is {wave.shape[1] / model.sample_rate:.2f} s long; the prompt was to be {samples / model.sample_rate:.2f} s: "
            "give a smaller --prompt_seconds"
        )
    return wave[:, :samples]
