"""What a masked prior learned, on windows of held-out songs, every figure beside its control.

half      bits per code where half of all codes are hidden at random, beside the unigram entropy of the songs' own codes
suffix    bits of the last columns of a hole with the music behind it known, and without; the same of its first columns, which
          are far from it; of each level, the coarser ones being known
parents   how far the sound of bottom codes drawn from the true top and middle is from the song's, and from those of another song
passes    middle and bottom drawn from the true top in so many passes; beside them, the same drawn one code after another by the
          priors of these levels, where the model has them

Distances are between the sound of drawn codes and that of the song's own, each decoded from level 0: what the codec loses is in
both. `mel` is the mean distance of log-mel spectra in dB, `frechet` that of all windows' features (`metrics.frechet_distance`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.evaluation import metrics
from jukebox.evaluation.figures import HeldOut, draw_windows
from jukebox.model.folder import Jukebox
from jukebox.sampling.sampler import generator
from jukebox.sampling.windows import windows
from jukebox.song import PreparedSong, prepare_all, song_of, window_conditions
from priors.conditioning.conditions import Conditions, stack
from priors.masked.masks import Keep
from priors.masked.model import MaskedConfig, MaskedPrior
from priors.prior import SamplingParams, Sequences
from vqvae.jukebox.stream import decode_long

LAST = 8  # columns at the end of a hole
ROWS = 8  # windows side by side


@dataclass(frozen=True)
class Clips:
    """Windows of held-out songs: the codes of all levels, their conditions, and the codes of another song."""

    codes: Sequences
    others: Sequences
    cond: Conditions
    songs: list[PreparedSong]
    starts: list[int]

    def __len__(self) -> int:
        return len(self.starts)


def draw_clips(model: Jukebox, held: HeldOut, config: MaskedConfig, count: int, seed: int) -> Clips:
    """`count` windows spread over the songs."""
    top = len(config.hops) - 1
    found = draw_windows([len(codes[top]) for codes in held.codes], config.n_ctx, 1, count, seed)
    songs = prepare_all([song_of(row) for row in held.rows], model.labels, model.vocabulary, model.sample_rate)

    def codes_of(rows: Sequence[int]) -> Sequences:
        made = {}
        for level, ratio in enumerate(config.ratios):
            cut = [
                held.codes[s][level][w.start * ratio :][: config.n_ctx * ratio]
                for s, w in zip(rows, found, strict=True)
            ]
            made[level] = torch.from_numpy(np.stack(cut).astype(np.int64))
        return made

    cond = stack([window_conditions(songs[w.song], config, w.start) for w in found])
    mine, other = codes_of([w.song for w in found]), codes_of([w.other for w in found])
    return Clips(mine, other, cond, [songs[w.song] for w in found], [w.start for w in found])


# ---- in bits


def mean_bits(prior: MaskedPrior, clips: Clips, keep: Keep, level: int, columns: slice = slice(None)) -> float:
    """Bits per hidden code of a level, of those in some columns of every window."""
    ratio, found = prior.config.ratios[level], []
    for i in range(0, len(clips), ROWS):
        some = slice(i, i + ROWS)
        codes, known = ({each: x[some] for each, x in both.items()} for both in (clips.codes, keep))
        bits = prior.bits(codes, clips.cond.rows(some), known)[level]
        found.append(bits.unflatten(1, (-1, ratio))[:, columns].flatten())
    return torch.cat(found).nanmean().item()


def half_figures(prior: MaskedPrior, clips: Clips, seed: int) -> dict[str, dict[str, float]]:
    """Bits of codes of which half are hidden, level by level, beside the unigram entropy."""
    rng, figures = torch.Generator().manual_seed(seed), {}
    keep = {level: torch.rand(x.shape, generator=rng) < 0.5 for level, x in clips.codes.items()}
    for level, codes in clips.codes.items():
        unigram = metrics.codebook_use(codes, prior.config.bins)[1]
        bits = mean_bits(prior, clips, keep, level)
        ratio = bits / unigram if unigram else math.inf  # a codec that has collapsed writes one code
        figures[str(level)] = {"bits": bits, "unigram_bits": unigram, "ratio": ratio}
    return figures


def suffix_figures(prior: MaskedPrior, clips: Clips) -> dict[str, dict[str, float]]:
    """Bits of the last and of the first columns of a hole with and without the music behind it, level by level."""
    figures, n = {}, prior.config.n_ctx
    region = slice(n // 4, n // 2)
    ends = {"last": slice(region.stop - LAST, region.stop), "first": slice(region.start, region.start + LAST)}
    for level in clips.codes:
        figures[str(level)] = {}
        for name, after_region in (("with", slice(region.stop, n)), ("without", slice(0, 0))):
            keep = {each: torch.ones_like(x, dtype=torch.bool) for each, x in clips.codes.items()}
            for each in range(level + 1):  # levels above are known, as when a level is filled
                known = keep[each].unflatten(1, (n, -1))
                known[:, region.start :] = False
                known[:, after_region] = True
            for end, columns in ends.items():
                figures[str(level)][f"{end}_{name}"] = mean_bits(prior, clips, keep, level, columns)
        for end in ends:
            figures[str(level)][f"{end}_ratio"] = (
                figures[str(level)][f"{end}_with"] / figures[str(level)][f"{end}_without"]
            )
    return figures


# ---- in sound


@dataclass(frozen=True)
class SoundDistance:
    """What hears codes of level 0 beside those of the songs: their sound, and its features."""

    model: Jukebox
    true: list[Tensor]
    features: Float[Tensor, "n d"]

    @staticmethod
    def of(model: Jukebox, codes: Tensor) -> SoundDistance:
        waves = _sounds(model, codes)
        return SoundDistance(model, waves, _features(model, waves))

    def figures(self, codes: Tensor) -> dict[str, float]:
        """The distances of drawn codes."""
        made, rate = _sounds(self.model, codes), self.model.sample_rate
        mel = [metrics.mel_distance(a, b, rate) for a, b in zip(self.true, made, strict=True)]
        return {
            "mel": float(np.mean(mel)), "frechet": metrics.frechet_distance(self.features, _features(self.model, made)),
        }  # fmt: skip


def _sounds(model: Jukebox, codes: Tensor) -> list[Tensor]:
    codec = model.codec([0])
    return [decode_long(codec, row[None], 0)[0].mean(0) for row in codes]


def _features(model: Jukebox, waves: Sequence[Tensor]) -> Tensor:
    return torch.cat([metrics.sound_features(wave, model.sample_rate) for wave in waves])


def fill_clips(
    prior: MaskedPrior, clips: Clips, known: Sequences, params: dict[int, SamplingParams], seed: int, rows: int = ROWS
) -> Sequences:
    """All codes of the windows, from those of the levels in `known`."""
    parts = []
    for i in range(0, len(clips), rows):
        some = slice(i, i + rows)
        codes = {level: known.get(level, torch.zeros_like(x))[some] for level, x in clips.codes.items()}
        keep = {level: torch.full_like(x, level in known, dtype=torch.bool) for level, x in codes.items()}
        rngs = [generator(seed, i + k, 0, 0) for k in range(len(codes[0]))]
        parts.append(prior.fill(codes, keep, clips.cond.rows(some), rngs, params))
    return {level: torch.cat([part[level] for part in parts]) for level in clips.codes}


def parents_figures(
    prior: MaskedPrior, clips: Clips, distance: SoundDistance, params: SamplingParams, seed: int
) -> dict[str, float]:
    """The distance of bottom codes drawn from the levels above, the song's own and another song's."""
    figures = {}
    for name, source in (("own", clips.codes), ("other", clips.others)):
        above = {level: codes for level, codes in source.items() if level > 0}
        figures[name] = distance.figures(fill_clips(prior, clips, above, {0: params}, seed)[0])["mel"]
    return figures | {"ratio": figures["own"] / figures["other"]}


def autoregressive_codes(model: Jukebox, clips: Clips, params: SamplingParams, seed: int) -> Tensor:
    """The bottom codes of the windows, drawn from their top codes one after another, level by level."""
    above, top = clips.codes[len(model.hops) - 1], len(model.hops) - 1
    for level in range(top - 1, -1, -1):
        prior, ratio = model.prior(level), model.hops[level + 1] // model.hops[level]
        n_ctx, total = prior.config.n_ctx, above.shape[1] * ratio
        made = torch.zeros(len(clips), 0, dtype=torch.long)
        rngs = [generator(seed, i, level, 0) for i in range(len(clips))]
        column = model.hops[-1] // model.hops[level]
        for window in windows(total, n_ctx, n_ctx // 2 // ratio * ratio):
            need = n_ctx // ratio
            upper = above[:, window.start // ratio :][:, :need]
            upper = torch.cat([upper, upper[:, -1:].expand(-1, need - upper.shape[1])], dim=1).numpy()
            first = [start * column + window.start for start in clips.starts]
            items = [
                window_conditions(s, prior.config, f, u) for s, f, u in zip(clips.songs, first, upper, strict=True)
            ]
            state = prior.start(stack(items), {level: made[:, window.start :]}, rngs, params)
            made = torch.cat([made, *(part[level] for part in prior.sample(state, window.end - window.known))], dim=1)
        above = made
    return above


def masked_figures(
    model: Jukebox, held: HeldOut, *, count: int = 24, seed: int = 0, passes: Sequence[int] = (1, 4, 12, 36),
    params: SamplingParams | None = None, one: SamplingParams | None = None,
) -> dict:  # fmt: skip
    """All figures of the model's masked prior; `params` draws its codes, `one` those of the priors beside it."""
    prior, params, one = model.masked(), params or SamplingParams(), one or SamplingParams(temperature=0.5)
    clips = draw_clips(model, held, prior.config, count, seed)
    distance, top = SoundDistance.of(model, clips.codes[0]), len(model.hops) - 1
    figures = {
        "half": half_figures(prior, clips, seed), "suffix": suffix_figures(prior, clips),
        "parents": parents_figures(prior, clips, distance, _in(params, 12), seed), "passes": {},
    }  # fmt: skip
    for n in passes:
        lower = dict.fromkeys(range(top), _in(params, n))
        made = fill_clips(prior, clips, {top: clips.codes[top]}, lower, seed)
        figures["passes"][str(n)] = distance.figures(made[0])
    if set(range(top)) <= set(model.prior_configs):
        figures["one_by_one"] = distance.figures(autoregressive_codes(model, clips, one, seed))
    figures["other_song"] = distance.figures(clips.others[0])
    return figures


def _in(params: SamplingParams, passes: int) -> SamplingParams:
    return SamplingParams(**{**vars(params), "passes": passes})
