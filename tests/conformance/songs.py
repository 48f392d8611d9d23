"""The whole system, greedily: windows over all levels, from nothing and from a prompt, to codes, sound and alignment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from jukebox.openai import vqvae_config, vqvae_state
from jukebox.openai_priors import from_published, prior_config
from jukebox.schedule import starts
from priors.autoregressive import AutoregressivePrior
from priors.lyrics import PUBLISHED, Characters, linear_window
from priors.prior import How
from tests.conformance.golden import Check, Golden, apart
from tests.conformance.priors import conditions
from vqvae.vqvae import VQVAE


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
        version = "v3" if json["prior_hps"][-1]["labels_v3"] else "v2"
        self.lyrics = [Characters(PUBLISHED[version]).encode(meta["lyrics"]).ids for meta in json["metas"]]

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
        y[:, 1] += start * config.hop
        y[:, 2] = config.n_ctx * config.hop
        for row, ids, first in zip(y, self.lyrics, self.first_letters(level, start), strict=True):
            if config.n_tokens:
                letters = torch.zeros(config.n_tokens, dtype=torch.long)
                letters[max(0, -first) :] = torch.from_numpy(ids[max(0, first) : first + config.n_tokens])
                row[-config.n_tokens :] = letters
        return y

    @torch.no_grad()
    def sample(self, level: int, codes: dict[int, Tensor], total: int, hop: int) -> Iterator[tuple[int, Tensor]]:
        """Fill a level, greedily; yields every window's start and label rows."""
        prior = self.priors[level]
        n_ctx, ratio = prior.config.n_ctx, prior.config.above.ratio if prior.config.above else 1
        for start in starts(total, n_ctx, hop):
            done = codes[level].shape[1]
            if done >= start + n_ctx:
                continue
            above = codes[level + 1][:, start // ratio : (start + n_ctx) // ratio] if prior.config.above else None
            y = self.labels(level, start)
            prime, rngs = {level: codes[level][:, start:]}, [torch.Generator()] * len(y)
            state = prior.start(conditions(prior, y, above), prime, rngs, How(temperature=0.0, published=True))
            new = [part[level] for part in prior.sample(state, start + n_ctx - done)]
            codes[level] = torch.cat([codes[level], *new], dim=1)
            yield start, y

    def alignment(self, codes: Tensor, hop: int) -> list[Tensor]:
        """Attention of each top code to each letter of the whole lyrics; where windows overlap the earlier one tells."""
        level = max(self.priors)
        prior, hps = self.priors[level], self.golden.json["prior_hps"][level]
        n_ctx, n = prior.config.n_ctx, prior.config.n_tokens
        whole = [torch.zeros(codes.shape[1], len(ids)) for ids in self.lyrics]
        for start in reversed(starts(codes.shape[1], n_ctx, hop)):
            cond = conditions(prior, self.labels(level, start), None)
            heard = prior.alignment(codes[:, start : start + n_ctx], cond, hps["alignment_layer"])
            for item, first in enumerate(self.first_letters(level, start)):
                window = heard[item, hps["alignment_head"], :, max(0, -first) :]
                whole[item][start : start + n_ctx, max(0, first) : first + n] = window
        return whole


def check_pipeline(golden: Golden) -> Iterator[Check]:
    """Greedy windowed sampling of all levels, from nothing and from a prompt: labels, codes, audio, alignment."""
    if find_spec("unidecode") is None:
        yield Check("not checked, Unidecode is not installed")
        return
    made, io, shape = Pipeline(golden), golden.io, golden.json["sample_hps"]
    prompt = made.codec.encode(io["in.prompt_audio"].mT, range(shape["levels"]))
    wrong = sum((prompt[level] != io[f"in.primed.z_start.level{level}"]).sum().item() for level in prompt)
    yield Check("codes of the prompt that differ", wrong, 0)
    for run in golden.json["runs"]:
        codes = {level: io[f"in.{run}.z_start.level{level}"] for level in made.priors}
        for level in sorted(made.priors, reverse=True):
            config = made.priors[level].config
            hop = int(shape["hop_fraction"][level] * config.n_ctx)
            rows = dict(made.sample(level, codes, shape["sample_length"] // config.hop, hop))
            recorded_rows = {int(n.rpartition("start")[2]) for n in io if n.startswith(f"out.{run}.y.level{level}.")}
            wrong = float(rows.keys() != recorded_rows)
            wrong += sum(
                (y != io[f"out.{run}.y.level{level}.start{s}"]).sum().item() for s, y in rows.items() if not wrong
            )
            yield Check(f"{run}, level {level}: labels of {len(rows)} windows that differ", wrong, 0)
            wrong = apart(codes[level], io[f"out.{run}.z.level{level}"])
            yield Check(f"{run}, level {level}: codes that differ", wrong, 0)
            heard = made.codec.decode(codes, level).mT
            yield Check(f"{run}, level {level}: audio", apart(heard, io[f"out.{run}.audio.level{level}"]), 2e-5)
        top = max(made.priors)
        hop = int(shape["hop_fraction"][top] * made.priors[top].config.n_ctx)
        for item, ours in enumerate(made.alignment(codes[top], hop)):
            expected = io[f"out.{run}.alignment.item{item}"]
            yield Check(f"{run}, item {item}: alignment of lyrics", apart(ours, expected), 2e-5)
