"""Filling holes in long sequences: which windows stand over them, and drawing what is not kept, window after window.

    columns to draw   ......XXXXXX........................XXXXXXXXXXXXXXXXXXXXXXXXXXX......
    windows              |----- 0 ----|                |----- 1 ----|
                                                               |----- 2 ----|
                                                                       |----- 3 ----|

Only what windows hold is computed, so time grows with the holes and not with the song.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Shaped
from torch import Tensor

from data_prep.errors import UserError
from jukebox.sampling.sampler import generator
from jukebox.song import PreparedSong, window_conditions
from priors.conditioning.conditions import stack
from priors.prior import Inpaints, Mask, Prior
from priors.spec import SamplingParams
from vqvae.codec import as_tensor

CONTEXT_SHARE = 4  # a window contains at least one part in so many of what lies before the masked region, and after it


def windows_over(resampled: Bool[Tensor, " n"], n_ctx: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of at most `n_ctx` columns, in order, that between them hold all columns to draw; none without any.

    A hole that one window can hold with music on both sides stands in its middle. Over a longer one windows stand evenly, the first
    hears what lies before it, each further one the end of its predecessor too, and the last what lies behind.
    """
    n, drawn, made = len(resampled), 0, []
    for first, stop in _regions(resampled, n_ctx // 2):
        for start in _starts(n, first, stop, n_ctx, n_ctx // CONTEXT_SHARE):
            start = max(0, min(start, n - n_ctx))
            end = min(n, start + n_ctx)
            if resampled[max(drawn, start) : end].any():
                made.append((start, end))
                drawn = end
    return made


def _regions(resampled: Bool[Tensor, " n"], apart: int) -> Iterator[tuple[int, int]]:
    """From the first to the last column to draw, of those that lie at most `apart` from each other."""
    todo = resampled.nonzero().flatten().tolist()
    breaks = [i for i in range(1, len(todo)) if todo[i] - todo[i - 1] > apart]
    for begin, end in zip([0, *breaks], [*breaks, len(todo)]):
        if begin < end:
            yield todo[begin], todo[end - 1] + 1


def _starts(n: int, first: int, stop: int, n_ctx: int, beside: int) -> list[int]:
    low, high = max(0, first - beside), min(n, stop + beside) - n_ctx
    if high <= low:
        return [(first + stop - n_ctx) // 2]
    steps = -(-(high - low) // (n_ctx - beside))
    return [low + i * (high - low) // steps for i in range(steps + 1)]


def fill_windows(
    prior: Prior, codes: dict[str, Shaped[np.ndarray, "b t"]], known: Mask, windows: Sequence[tuple[int, int]], first: int,
    songs: Sequence[PreparedSong], seed: int, takes: Sequence[int], params: Mapping[str, SamplingParams],
    done: Callable[[], object] = int,
) -> None:  # fmt: skip
    """Sample what is not known into `codes` and `known`, which begin at column `first`, window by window.

    Each window is conditioned on what is sampled so far.
    A row is one of `songs`, and its generators are those of one of `takes`.
    """
    config, device = prior.config, next(prior.parameters()).device
    if not isinstance(prior, Inpaints):
        raise UserError(f"a prior of kind {prior.kind} cannot inpaint; edit with a model that has a masked prior")
    ratios = {stream: config.frames(stream) // config.n_ctx for stream in config.spec.writes}
    for start, stop in windows:
        part = {stream: slice(start * ratio, stop * ratio) for stream, ratio in ratios.items()}
        window = {stream: as_tensor(codes[stream][:, at]).to(device) for stream, at in part.items()}
        mask = {stream: known[stream][:, at].to(device) for stream, at in part.items()}
        cond = stack([window_conditions(song, config, first + start) for song in songs]).to(device)
        rngs = [generator(seed, take, len(ratios), first + start) for take in takes]
        for stream, new in prior.fill(window, mask, cond, rngs, params).items():
            codes[stream][:, part[stream]] = new.cpu().numpy().astype(codes[stream].dtype)
            known[stream][:, part[stream]] = True
        done()
