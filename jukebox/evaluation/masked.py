"""Evaluation of a masked prior on windows of held-out songs. Every figure has a control.

half      Bits per code if half of all codes are masked at random. Control: the unigram entropy of the songs' codes.
suffix    Bits per code of the last columns of a masked region, with the music after the region and without it. Control: the
          first columns of the region, which are far from this music. Coarser levels are known.
parents   Distance of finest codes that are sampled from the true coarser codes. Control: the coarser codes of another song.
passes    Distance of the finer codes that are sampled from the true top codes, by the number of passes. Controls: the codes of
          another song, and autoregressive sampling if the model has autoregressive priors of these levels.

Distances compare the audio of sampled codes with the audio of the song's codes. Both are decoded from level 0, so that codec
errors are in both. `mel` is the mean distance of log-mel spectra in dB. `frechet` is the Frechet distance of the features of
all windows (`metrics.frechet_distance`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.device import device_of
from jukebox.evaluation import metrics
from jukebox.evaluation.held_out import HeldOut, PriorWindows
from jukebox.model.folder import ModelFolder
from jukebox.runs.windows import prefix_windows
from jukebox.song import PreparedSong, window_conditions
from priors.autoregressive.config import AutoregressiveParams
from priors.conditioning.conditions import Conditions, stack
from priors.masked.config import MaskedParams
from priors.noise import Generators, generator
from priors.prior import Known, Mask, Prior, Sequences, Window, sample_window
from priors.spec import PriorConfig

LAST = 8  # columns at the end of a masked region
ROWS = 8  # windows in parallel


@dataclass(frozen=True)
class Clips:
    """Windows of held-out songs with their conditions. Streams are in order, finest first."""

    codes: Sequences
    others: Sequences  # the codes of another song for each window
    cond: Conditions
    songs: list[PreparedSong]
    starts: list[int]  # in frames of the prior

    def __len__(self) -> int:
        return len(self.starts)


def draw_clips(model: ModelFolder, held: HeldOut, config: PriorConfig, count: int, seed: int) -> Clips:
    """Choose `count` windows, in turn from each song."""
    drawn = PriorWindows.draw(model, config, held, count, seed)
    songs, starts = [drawn.songs[w.song] for w in drawn.windows], [w.start for w in drawn.windows]
    return Clips(drawn.sequences(), drawn.sequences(lambda w: w.other), stack(drawn.conditions()), songs, starts)


# ---- figures in bits


def mean_bits(prior: Prior, clips: Clips, known: Mask, stream: str, columns: slice = slice(None)) -> float:
    """Mean bits per unknown code of a stream in the given columns of all windows."""
    ratio, found = prior.config.frames(stream) // prior.config.n_ctx, []
    for i in range(0, len(clips), ROWS):
        some = slice(i, i + ROWS)
        codes, mask = ({each: x[some] for each, x in both.items()} for both in (clips.codes, known))
        bits = prior.nll(codes, clips.cond.rows(some), mask)
        assert bits is not None, "a prior without likelihood"
        found.append(bits[stream].unflatten(1, (-1, ratio))[:, columns].flatten())
    return torch.cat(found).nanmean().item()


def half_figures(prior: Prior, clips: Clips, seed: int) -> dict[str, dict[str, float]]:
    """Return, by level, the bits per code if half of the codes are masked, and the unigram entropy."""
    rng, figures = torch.Generator().manual_seed(seed), {}
    known = {stream: torch.rand(x.shape, generator=rng) < 0.5 for stream, x in clips.codes.items()}
    for level, (stream, codes) in enumerate(clips.codes.items()):
        unigram = metrics.codebook_use(codes, prior.config.bins)[1]
        bits = mean_bits(prior, clips, known, stream)
        ratio = bits / unigram if unigram else math.inf  # a codec that has collapsed writes one code
        figures[str(level)] = {"bits": bits, "unigram_bits": unigram, "ratio": ratio}
    return figures


def suffix_figures(prior: Prior, clips: Clips) -> dict[str, dict[str, float]]:
    """Return bits per code of the last and first columns of a masked region, with and without the music after it, by level."""
    figures, n, streams = {}, prior.config.n_ctx, list(clips.codes)
    region = slice(n // 4, n // 2)
    ends = {"last": slice(region.stop - LAST, region.stop), "first": slice(region.start, region.start + LAST)}
    for level, stream in enumerate(streams):
        found = figures[str(level)] = {}
        for name, after_region in (("with", slice(region.stop, n)), ("without", slice(0, 0))):
            known = {each: torch.ones_like(x, dtype=torch.bool) for each, x in clips.codes.items()}
            for each in streams[: level + 1]:  # streams above are known, as in inpainting
                columns = known[each].unflatten(1, (n, -1))
                columns[:, region.start :] = False
                columns[:, after_region] = True
            for end, where in ends.items():
                found[f"{end}_{name}"] = mean_bits(prior, clips, known, stream, where)
        for end in ends:
            found[f"{end}_ratio"] = found[f"{end}_with"] / found[f"{end}_without"]
    return figures


# ---- figures of audio


@dataclass(frozen=True)
class SoundDistance:
    """Compares sampled codes of the finest stream with the songs' codes, by decoded audio and by features of this audio."""

    model: ModelFolder
    true: list[Tensor]
    features: Float[Tensor, "n d"]

    @staticmethod
    def of(model: ModelFolder, codes: Tensor) -> SoundDistance:
        waves = _sounds(model, codes)
        return SoundDistance(model, waves, _features(model, waves))

    def figures(self, codes: Tensor) -> dict[str, float]:
        """Return the mel and the Frechet distance of sampled codes."""
        made, rate = _sounds(self.model, codes), self.model.sample_rate
        mel = [metrics.mel_distance(a, b, rate) for a, b in zip(self.true, made, strict=True)]
        return {"mel": float(np.mean(mel)), "frechet": metrics.frechet_distance(self.features, _features(self.model, made))}


def _sounds(model: ModelFolder, codes: Tensor) -> list[Tensor]:
    finest = model.spec.names[0]
    codec = model.codec([finest])
    return [codec.decode_long(row[None], finest)[0].mean(0) for row in codes]


def _features(model: ModelFolder, waves: Sequence[Tensor]) -> Tensor:
    return torch.cat([metrics.sound_features(wave, model.sample_rate) for wave in waves])


def fill_clips(
    prior: Prior, clips: Clips, given: Sequences, params: Mapping[str, MaskedParams], seed: int, rows: int = ROWS
) -> Sequences:
    """Sample the streams in `params` from the streams in `given` for all windows, `rows` windows at a time."""
    parts, n_ctx, device = [], prior.config.n_ctx, device_of(prior)
    for i in range(0, len(clips), rows):
        some = slice(i, i + rows)
        codes = {stream: given.get(stream, torch.zeros_like(x))[some].to(device) for stream, x in clips.codes.items()}
        known = Known(codes, {stream: torch.full_like(x, stream in given, dtype=torch.bool) for stream, x in codes.items()})
        noise = Generators([generator(seed, i + k, 0, 0) for k in range(len(clips.starts[some]))])
        cond = clips.cond.rows(some).to(device)
        parts.append(sample_window(prior, Window(0, n_ctx, n_ctx), known, cond, noise, params))
    return {stream: torch.cat([part[stream] for part in parts]).cpu() for stream in params}


def parents_figures(prior: Prior, clips: Clips, distance: SoundDistance, params: MaskedParams, seed: int) -> dict[str, float]:
    """Return the mel distance of finest codes sampled from the coarser codes of the same song, and of another song."""
    figures, (finest, *coarser) = {}, clips.codes
    for name, source in (("own", clips.codes), ("other", clips.others)):
        above = {stream: source[stream] for stream in coarser}
        figures[name] = distance.figures(fill_clips(prior, clips, above, {finest: params}, seed)[finest])["mel"]
    return figures | {"ratio": figures["own"] / figures["other"]}


def autoregressive_codes(
    model: ModelFolder, clips: Clips, params: AutoregressiveParams, seed: int, device: str = "cpu"
) -> Tensor:
    """Sample the finest codes of the windows from the top codes, stream by stream, with autoregressive priors."""
    *finer, top = (model.spec.stream(name) for name in clips.codes)
    above = clips.codes[top.name]
    for stream in reversed(finer):
        entry = model.info.writer(stream.name)
        assert entry is not None, f"no prior of {stream.name}"
        prior, config, column = model.prior(entry.name).to(device), entry.config, top.hop // stream.hop
        n_ctx, ratio, total = config.n_ctx, config.ratio, above.shape[1] * config.ratio
        made = torch.zeros(len(clips), 0, dtype=torch.long)
        noise = Generators([generator(seed, i, stream.key, 0) for i in range(len(clips))])
        for start, _, end in prefix_windows(total, n_ctx, n_ctx // 2 // ratio * ratio):
            need = n_ctx // ratio
            upper = above[:, start // ratio :][:, :need]
            upper = torch.cat([upper, upper[:, -1:].expand(-1, need - upper.shape[1])], dim=1).numpy()
            first = [clip * column + start for clip in clips.starts]
            items = [window_conditions(s, config, f, u) for s, f, u in zip(clips.songs, first, upper, strict=True)]
            known = Known.prefix(stream.name, made[:, start:].to(device), end - start)
            window, cond = Window(start, end - start, total), stack(items).to(device)
            whole = sample_window(prior, window, known, cond, noise, {stream.name: params})[stream.name]
            made = torch.cat([made[:, :start], whole.cpu()], dim=1)
        above = made
    return above


def masked_figures(
    model: ModelFolder, held: HeldOut, *, count: int = 24, seed: int = 0, passes: Sequence[int] = (1, 4, 12, 36),
    params: MaskedParams | None = None, one: AutoregressiveParams | None = None,
) -> dict:  # fmt: skip
    """Compute all figures of the model's masked prior. It uses `params`, and the autoregressive priors use `one`."""
    prior, params, one = model.prior("masked"), params or MaskedParams(), one or AutoregressiveParams(temperature=0.5)
    assert prior.spec.prompt == "any"
    clips = draw_clips(model, held, prior.config, count, seed)
    *finer, top = clips.codes
    distance = SoundDistance.of(model, clips.codes[finer[0]])
    figures = {
        "half": half_figures(prior, clips, seed), "suffix": suffix_figures(prior, clips),
        "parents": parents_figures(prior, clips, distance, replace(params, passes=12), seed), "passes": {},
    }  # fmt: skip
    for n in passes:
        lower = dict.fromkeys(finer, replace(params, passes=n))
        made = fill_clips(prior, clips, {top: clips.codes[top]}, lower, seed)
        figures["passes"][str(n)] = distance.figures(made[finer[0]])
    if all(model.info.writer(stream) for stream in finer):
        figures["one_by_one"] = distance.figures(autoregressive_codes(model, clips, one, seed))
    figures["other_song"] = distance.figures(clips.others[finer[0]])
    return figures
