"""Evaluation of prompts of a masked prior on held-out songs, with a noise baseline.

dial     Prompts keep every 2nd, 4th .. 32nd column of a song, or whole levels. Figures: kept bits per second, audio distance.
tempo    Prompts keep the columns at beats, an equal number of evenly spread columns, or nothing. Figure: share of clips whose
         tempo stays within 4 per cent.
noise    A share of the codes is replaced by random codes, so that the mel distance equals the distance of sampled codes.
         Figure: Frechet distance.

Distances are those of `jukebox/evaluation/masked.py`: to the audio decoded from the song's codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from data_prep.beats import pulse_of
from data_prep.errors import UserError
from jukebox.evaluation.held_out import HeldOut
from jukebox.evaluation.masked import SoundDistance
from jukebox.model.folder import ModelFolder
from jukebox.runs.windows import WindowPlanner
from jukebox.song import PreparedSong, prepare_all, song_of, window_conditions
from priors.conditioning.conditions import stack
from priors.masked import masks
from priors.masked.config import MaskedParams
from priors.noise import Generators, generator
from priors.prior import Known, Mask, Prior, Sequences, Window, sample_window
from vqvae.codec import as_tensor

PERIODS = (2, 4, 8, 16, 32)
LEVELS = {"top and middle": (2, 1), "top": (2,), "nothing": ()}
AROUND_BEAT = 0.075  # seconds kept after each beat
WITHIN = 0.04  # tolerance of the tempo
TEMPERATURES = (0.7, 0.5, 0.5)  # by level, coarsest first; they keep the tempo best (docs/log.md)
HALVINGS = 9  # steps of the search for the share of noise
Keeper = Callable[[str, Tensor], object]  # is called with the name of a prompt and its sampled finest codes


@dataclass(frozen=True)
class Prompted:
    """The first seconds of held-out songs, with the prior and the sampling parameters that resample them.

    Codes are (b, t * ratio) for each stream, with t columns.
    """

    model: ModelFolder
    prior: Prior
    codes: Sequences
    songs: Sequence[PreparedSong]
    params: Mapping[str, MaskedParams]
    seed: int

    @property
    def finest(self) -> str:
        return self.model.spec.names[0]

    @property
    def columns(self) -> int:
        return self.codes[self.model.spec.names[-1]].shape[1]

    @property
    def per_second(self) -> float:
        return self.model.sample_rate / self.model.hops[-1]

    def around(self, keep: Mask) -> Tensor:
        """Resample all clips given the kept codes and return their finest codes."""
        known = {stream: kept.expand(len(self.songs), -1).clone() for stream, kept in keep.items()}
        return resampled(self.prior, Known(dict(self.codes), known), self.songs, self.seed, self.params)[self.finest]

    def rate(self, keep: Mask) -> float:
        """Kept bits per second, averaged over clips."""
        return float(np.mean(masks.bits_per_second(keep, self.prior.config.bins, self.columns / self.per_second)))


def resampled(
    prior: Prior, known: Known, songs: Sequence[PreparedSong], seed: int, params: Mapping[str, MaskedParams]
) -> Sequences:
    """Return the sequences (b, t, ..) of whole clips with all unknown frames sampled.

    Windows and their order are those of an edit.
    """
    config, codes, mask = prior.config, {s: x.clone() for s, x in known.sequences.items()}, dict(known.mask)
    columns = codes[config.spec.writes[-1]].shape[1]
    per = {stream: config.frames(stream) // config.n_ctx for stream in codes}
    for stream in sorted(codes, key=per.__getitem__):  # coarsest first
        planner, unknown = WindowPlanner("mask", config.frames(stream), column=per[stream]), ~mask[stream].all(0).numpy()
        for start, begin, end in list(planner.segments(columns * per[stream], 0, unknown)):
            first, stop = start // per[stream], end // per[stream]
            part = Known(*({s: x[:, first * per[s] : stop * per[s]] for s, x in each.items()} for each in (codes, mask)))
            cond = stack([window_conditions(song, config, first) for song in songs])
            noise = Generators([generator(seed, i, stream, begin) for i in range(len(songs))])
            new = sample_window(prior, Window(first, stop - first, columns), part, cond, noise, {stream: params[stream]})
            codes[stream][:, start:end] = new[stream]
            mask[stream] = mask[stream].clone()
            mask[stream][:, start:end] = True
    return codes


def prompt_figures(
    model: ModelFolder, held: HeldOut, *, seconds: float = 8.0, seed: int = 0, passes: Sequence[int] = (12, 12, 4),
    temperatures: Sequence[float] = TEMPERATURES, kept: Keeper | None = None,
) -> dict:  # fmt: skip
    """Compute all figures of the model's masked prior.

    `passes` and `temperatures` are by level, coarsest first. `kept` is called with each prompt's name and sampled codes.
    """
    prior, given = model.prior("masked"), zip(reversed(model.spec.names), temperatures, passes, strict=True)
    params = {stream: MaskedParams(each, passes=n) for stream, each, n in given}
    clips = _clips(model, prior, held, seconds, params, seed)
    distance = SoundDistance.of(model, clips.codes[clips.finest])
    per, n = masks.per_column(model.spec.streams), clips.columns
    prompts = {f"every {period}": masks.expand_to_levels(masks.periodic(n, period), per) for period in PERIODS}
    for name, levels in LEVELS.items():
        prompts[name] = masks.combined([masks.nothing(n)], keep_levels=model.info.names(levels), per=per)
    made = {name: clips.around(keep) for name, keep in prompts.items()}
    figures = {name: {"bits_per_second": clips.rate(keep), **distance.figures(made[name])} for name, keep in prompts.items()}
    mel = [figures[f"every {period}"]["mel"] for period in PERIODS]
    tempo, beats = _tempo(clips, distance, made["nothing"])
    for name, codes in (made | beats).items():
        if kept:
            kept(name, codes)
    noise = {name: _noise(clips, distance, figures[name]["mel"], seed) for name in prompts}
    return {"dial": figures, "spearman": spearman(PERIODS, mel), "tempo": tempo, "noise": noise}


def _clips(
    model: ModelFolder, prior: Prior, held: HeldOut, seconds: float, params: Mapping[str, MaskedParams], seed: int
) -> Prompted:
    top, columns = model.spec.names[-1], int(seconds * model.sample_rate / model.hops[-1])
    if short := [row.path for row, codes in zip(held.rows, held.codes) if len(codes[top]) < columns]:
        raise UserError(f"{short[0]} is shorter than {seconds:g} s; give fewer seconds, or longer held-out songs")
    codes = {
        stream: as_tensor(np.stack([song[stream][: columns * ratio] for song in held.codes]))
        for stream, ratio in masks.per_column(model.spec.streams).items()
    }
    songs = prepare_all([song_of(row) for row in held.rows], model.labels, model.vocabulary, model.sample_rate)
    return Prompted(model, prior, codes, songs, params, seed)


# ---- tempo


def even(n: int, count: int) -> Bool[Tensor, " n"]:
    """Mask of `n` columns that keeps `count` evenly spread columns."""
    columns = masks.nothing(n)
    columns[torch.arange(count) * n // max(count, 1)] = True
    return columns


def _tempo(clips: Prompted, distance: SoundDistance, unprompted: Tensor) -> tuple[dict, dict[str, Tensor]]:
    """Return the figures of the tempo by prompt, and the sampled codes.

    The prompts keep the columns at beats, an equal number of evenly spread columns, or nothing (`unprompted`).
    """
    rate, n, per = clips.model.sample_rate, clips.columns, masks.per_column(clips.model.spec.streams)
    pulses = [pulse_of(wave.numpy(), rate) for wave in distance.true]
    beats = [masks.beats(n, pulse.beats.tolist(), clips.per_second, after=AROUND_BEAT) for pulse in pulses]
    rows = {"beats": beats, "as many, evenly": [even(n, int(columns.sum())) for columns in beats]}
    keeps = {name: masks.stack([masks.expand_to_levels(columns, per) for columns in each]) for name, each in rows.items()}
    made = {name: clips.around(keep) for name, keep in keeps.items()}
    codec, finest, figures = clips.model.codec([clips.finest]), clips.finest, {}
    for name, codes in (made | {"nothing": unprompted}).items():
        tempi = [pulse_of(codec.decode_long(row[None], finest)[0].mean(0).numpy(), rate).tempo for row in codes]
        near = [abs(tempo / pulse.tempo - 1) <= WITHIN if pulse.tempo else False for tempo, pulse in zip(tempi, pulses)]
        figures[name] = {"share_within": float(np.mean(near)), "tempi": tempi, **distance.figures(codes)}
    kept = float(np.mean([columns.float().mean().item() for columns in beats]))
    return {"source": [pulse.tempo for pulse in pulses], "kept_columns": kept, "prompts": figures}, made


# ---- noise


def _noise(clips: Prompted, distance: SoundDistance, mel: float, seed: int) -> dict[str, float]:
    """Replace a share of the songs' finest codes by random codes so that the mel distance is `mel`.

    The result is this share and the distances.
    """
    rng = torch.Generator().manual_seed(seed)
    true = clips.codes[clips.finest]
    order = torch.rand(true.shape, generator=rng)
    other = torch.randint(clips.prior.config.bins, true.shape, generator=rng)
    low, high, share, found = 0.0, 1.0, 1.0, distance.figures(other)
    for _ in range(HALVINGS if found["mel"] > mel else 0):  # even random codes alone may have a smaller distance
        share = (low + high) / 2
        found = distance.figures(torch.where(order < share, other, true))
        low, high = (share, high) if found["mel"] < mel else (low, share)
    return {"share": share, **found}


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of two sequences of numbers without ties."""
    a, b = (np.argsort(np.argsort(each)) for each in (x, y))
    return float(np.corrcoef(a, b)[0, 1])


def verdicts(figures: Mapping) -> dict[str, bool]:
    """Return each criterion for the figures of one seed, and whether it is met."""
    dial, noise = figures["dial"], figures["noise"]
    within = {name: each["share_within"] for name, each in figures["tempo"]["prompts"].items()}
    top_and_middle, top, nothing = (dial[name]["mel"] for name in LEVELS)
    further = [dial[name]["frechet"] < noise[name]["frechet"] for name in dial if noise[name]["share"] < 1]
    return {
        "distance rises with the period, rank correlation at least 0.9": figures["spearman"] >= 0.9,
        "distance: top and middle kept < top < nothing": top_and_middle < top < nothing,
        "beats kept: tempo within 4 % on at least 8 of 10 clips": within["beats"] >= 0.8,
        "beats kept: tempo on no fewer clips than with as many columns, evenly": within["beats"] >= within["as many, evenly"],
        "noise as far in mel is further in Frechet distance, each prompt": all(further),
    }
