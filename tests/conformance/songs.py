"""The whole system, greedily: windows over all levels, with and without a prompt, to codes, audio and alignment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from jukebox.importers.prior_keys import from_published
from jukebox.importers.vqvae_keys import vqvae_state
from jukebox.model.settings import prior_config, vqvae_config
from jukebox.runs.windows import prefix_windows, starts
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.vocabulary import PUBLISHED, Characters, linear_window
from priors.prior import Window
from tests.conformance.golden import Check, Golden, apart, apart_of_largest
from tests.conformance.priors import conditions, sample_greedily
from vqvae.jukebox.vqvae import VQVAE


@dataclass
class Pipeline:
    """A golden of the whole system as ours: codec, priors, labels and full lyrics of each item."""

    golden: Golden

    def __post_init__(self):
        json, state = self.golden.json, self.golden.state

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

        config = vqvae_config(json["vqvae_hps"])
        self.codec = VQVAE(config)
        self.codec.load_state_dict(vqvae_state(part("vqvae."), config))
        self.codec.eval()
        self.priors: dict[int, AutoregressivePrior] = {}
        for hps in json["prior_hps"]:
            level, shape = hps["level"], prior_config(hps, json["vqvae_hps"])
            self.priors[level] = AutoregressivePrior(shape).eval()
            self.priors[level].load_state_dict(from_published(part(f"prior_level_{level}."), shape))
        self.hps = {hps["level"]: hps for hps in json["prior_hps"]}
        version = "v3" if self.hps[max(self.hps)]["labels_v3"] else "v2"
        self.lyrics = [Characters(PUBLISHED[version]).encode(meta["lyrics"]).ids for meta in json["metas"]]

    @property
    def top(self) -> AutoregressivePrior:
        return self.priors[max(self.priors)]

    def hop(self, level: int) -> int:
        """Codes from window to window."""
        return int(self.golden.json["sample_hps"]["hop_fraction"][level] * self.priors[level].config.n_ctx)

    def first_letters(self, level: int, start: int) -> list[int]:
        config = self.priors[level].config
        rows = self.golden.io[f"in.labels.level{level}.y"][:, :2].tolist()
        return [
            linear_window(
                len(ids), config.n_tokens, total, offset + start * config.hop, config.n_ctx * config.hop, published=True
            )
            for ids, (total, offset) in zip(self.lyrics, rows, strict=True)
        ]

    def labels(self, level: int, start: int) -> Tensor:
        """The label rows of a window."""
        config = self.priors[level].config
        y = self.golden.io[f"in.labels.level{level}.y"].clone()
        if not config.labels:
            return y
        y[:, 1] += start * config.hop
        y[:, 2] = config.n_ctx * config.hop
        for row, ids, first in zip(y, self.lyrics, self.first_letters(level, start), strict=True):
            if config.n_tokens:
                lyric_tokens = torch.zeros(config.n_tokens, dtype=torch.long)
                lyric_tokens[max(0, -first) :] = torch.from_numpy(ids[max(0, first) : first + config.n_tokens])
                row[-config.n_tokens :] = lyric_tokens
        return y

    @torch.no_grad()
    def sample(self, level: int, codes: dict[str, Tensor], total: int, hop: int) -> Iterator[tuple[int, Tensor]]:
        """Fill a level, greedily; yields every window's start and label rows."""
        prior, stream = self.priors[level], self.priors[level].stream
        n_ctx, ratio, reads = prior.config.n_ctx, prior.config.ratio, prior.config.reads
        for start, _, end in prefix_windows(total, n_ctx, hop, codes[stream].shape[1], published=True):
            above = codes[reads][:, start // ratio : (start + n_ctx) // ratio] if reads else None
            y = self.labels(level, start)
            window = Window(start, end - start, total)
            made = sample_greedily(prior, window, codes[stream][:, start:], conditions(prior, y, above))
            codes[stream] = torch.cat([codes[stream][:, :start], made], dim=1)
            yield start, y

    def alignment(self, codes: Tensor, hop: int) -> list[Tensor]:
        """Attention of each top code to each character of the whole lyrics; in an overlap of windows the earlier one is used."""
        level = max(self.priors)
        prior, hps = self.priors[level], self.hps[level]
        n_ctx, n = prior.config.n_ctx, prior.config.n_tokens
        whole = [torch.zeros(codes.shape[1], len(ids)) for ids in self.lyrics]
        for start in reversed(starts(codes.shape[1], n_ctx, hop)):
            cond = conditions(prior, self.labels(level, start), None)
            attention = prior.lyric_attention(codes[:, start : start + n_ctx], cond, hps["alignment_layer"])
            for item, first in enumerate(self.first_letters(level, start)):
                window = attention[item, hps["alignment_head"], :, max(0, -first) :]
                whole[item][start : start + n_ctx, max(0, first) : first + n] = window
        return whole


def check_pipeline(golden: Golden) -> Iterator[Check]:
    """Greedy windowed sampling of all levels, with and without a prompt: labels, codes, audio, alignment."""
    if find_spec("unidecode") is None:
        yield Check("skipped, Unidecode is not installed")
        return
    made, io = Pipeline(golden), golden.io
    for run in golden.json["runs"]:
        codes = {prior.stream: io[f"in.{run}.z_start.level{level}"] for level, prior in made.priors.items()}
        if codes[made.top.stream].numel():
            prompt = made.codec.encode(io["in.prompt_audio"].mT, codes)
            wrong = sum(apart(prompt[stream], codes[stream]) > 0 for stream in codes)
            yield Check(f"{run}: levels whose codes of the prompt differ", wrong, 0)
        for level in sorted(made.priors, reverse=True):
            yield from check_level(made, run, codes, level)
        yield from check_alignment(made, run, codes)


def check_level(made: Pipeline, run: str, codes: dict[str, Tensor], level: int) -> Iterator[Check]:
    """Fill a level of `codes`; its windows, labels, codes and sound."""
    config = made.priors[level].config
    io, total = made.golden.io, made.golden.json["sample_hps"]["sample_length"] // config.hop
    rows = dict(made.sample(level, codes, total, made.hop(level)))
    expected = {int(n.rpartition("start")[2]): y for n, y in io.items() if n.startswith(f"out.{run}.y.level{level}.")}
    wrong = len(rows.keys() ^ expected.keys())
    wrong += sum(apart(rows[start], expected[start]) > 0 for start in rows.keys() & expected.keys())
    yield Check(f"{run}, level {level}: windows whose labels differ, of {len(rows)}", wrong, 0)
    wrong = apart(codes[config.stream], io[f"out.{run}.z.level{level}"])
    yield Check(f"{run}, level {level}: codes that differ", wrong, 0)
    audio = made.codec.decode(codes, config.stream).mT
    error = apart_of_largest(audio, io[f"out.{run}.audio.level{level}"])
    yield Check(f"{run}, level {level}: audio (of the largest)", error, 1e-5)


def check_alignment(made: Pipeline, run: str, codes: dict[str, Tensor]) -> Iterator[Check]:
    recorded = {n for n in made.golden.io if n.startswith(f"out.{run}.alignment.item")}
    if recorded:
        for item, ours in enumerate(made.alignment(codes[made.top.stream], made.hop(max(made.priors)))):
            error = apart(ours, made.golden.io[f"out.{run}.alignment.item{item}"])
            yield Check(f"{run}, item {item}: alignment of lyrics", error, 2e-5)
