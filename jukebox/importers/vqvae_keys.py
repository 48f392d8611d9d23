"""Mapping between the tensor names of published VQ-VAE checkpoints and ours.

The released files are state dicts of the 2020 code ("Jukebox: A Generative Model for Music", arXiv:2005.00341). Each table is a
list of pairs (published pattern, our pattern) with named fields. The mapping is one-to-one and works in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE

# Fields: L level, S stage, I step (one halving), D residual block, W weight or bias. A published stage is one list. In an
# encoder the last entry is the output projection. In a decoder entry 0 is the input projection, so steps count from 1.
_ENCODER, _OUR_ENCODER = "encoders.{L}.level_blocks.{S}.model.", "levels.{L}.encoder.stages.{S}."
_DECODER, _OUR_DECODER = "decoders.{L}.level_blocks.{S}.model.", "levels.{L}.decoder.stages.{S}."
_VQVAE = [
    ("bottleneck.level_blocks.{L}.k", "levels.{L}.codebook.k"),
    (_ENCODER + "{I}.0.{W}", _OUR_ENCODER + "steps.{I}.conv.{W}"),
    (_ENCODER + "{I}.1.model.{D}.model.1.{W}", _OUR_ENCODER + "steps.{I}.stack.blocks.{D}.dilated.{W}"),
    (_ENCODER + "{I}.1.model.{D}.model.3.{W}", _OUR_ENCODER + "steps.{I}.stack.blocks.{D}.pointwise.{W}"),
    (_ENCODER + "{I}.{W}", _OUR_ENCODER + "out.{W}"),
    (_DECODER + "0.{W}", _OUR_DECODER + "inlet.{W}"),
    (_DECODER + "{I}.0.model.{D}.model.1.{W}", _OUR_DECODER + "steps.{I-1}.stack.blocks.{D}.dilated.{W}"),
    (_DECODER + "{I}.0.model.{D}.model.3.{W}", _OUR_DECODER + "steps.{I-1}.stack.blocks.{D}.pointwise.{W}"),
    (_DECODER + "{I}.1.{W}", _OUR_DECODER + "steps.{I-1}.conv.{W}"),
    ("decoders.{L}.out.{W}", "levels.{L}.decoder.out.{W}"),
]

_FIELD = re.compile(r"\{([A-Z])(?:-(\d+))?\}")
_VALUES = {"B": "blocks|model", "W": "weight|bias", "T": ".+"}  # any other field is a number


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Return a regular expression that matches the names of a template. Each field is a group."""
    parts = _FIELD.split(template)  # text, field, shift, text, field, shift, text ..
    fields = [f"(?P<{field}>{_VALUES.get(field, '[0-9]+')})" for field in parts[1::3]]
    return re.compile("".join(re.escape(text) + field for text, field in zip(parts[0::3], [*fields, ""])))


def rename(name: str, table: Iterable[tuple[str, str]], extra: Mapping[str, str] | None = None) -> str | None:
    """Map `name` from the left to the right column of `table`; None if no row matches.

    `extra` has values of fields that the left column lacks.
    """
    for source, target in table:
        if found := _pattern(source).fullmatch(name):
            fields = {**(extra or {}), **found.groupdict()}
            for field, shift in _FIELD.findall(source):
                fields[field] = _shifted(fields[field], int(shift or 0))
            return _FIELD.sub(lambda field, fields=fields: _shifted(fields[field[1]], -int(field[2] or 0)), target)
    return None


def _shifted(value: str, by: int) -> str:
    return str(int(value) + by) if by else value


def vqvae_key(published: str) -> str:
    """Return our name of a published VQ-VAE tensor; KeyError for other names."""
    if (ours := rename(published.removeprefix("module."), _VQVAE)) is None:
        raise KeyError(f"{published} is no tensor of a published VQ-VAE")
    return ours


def published_vqvae_key(ours: str, downs_t: Sequence[int]) -> str:
    """Return the published name of our VQ-VAE tensor: the inverse of `vqvae_key`; KeyError for other tensors."""
    # the index of a stage's output projection is the number of halvings, which our name does not contain
    stage = re.search(r"\.encoder\.stages\.(\d+)\.", ours)
    extra = {"I": str(downs_t[int(stage[1])])} if stage else {}
    if (published := rename(ours, [(b, a) for a, b in _VQVAE], extra)) is None:
        raise KeyError(f"{ours} has no name in a published VQ-VAE")
    return published


def vqvae_state(published: Mapping[str, Tensor], config: VQVAEConfig) -> dict[str, Tensor]:
    """Convert a published state dict to the state dict of our VQVAE.

    The published files lack the moving averages of the codebook. These averages start as if each code were used once per
    batch. ValueError names a tensor that is missing or has another shape.
    """
    with torch.device("meta"):
        expected = VQVAE(config).state_dict()
    given = {name.removeprefix("module."): tensor for name, tensor in published.items()}
    state: dict[str, Tensor] = {}
    for name, like in expected.items():
        if name.endswith((".k_sum", ".k_elem", ".initialised")):
            continue
        theirs = published_vqvae_key(name, config.downs_t)
        if theirs not in given:
            raise ValueError(f"the checkpoint has no {theirs}; expected a published VQ-VAE of {config.levels} levels")
        if given[theirs].shape != like.shape:
            raise ValueError(f"{theirs} has shape {tuple(given[theirs].shape)}; expected {tuple(like.shape)}")
        state[name] = given[theirs].to(like.dtype)
    for level in range(config.levels):
        book = f"levels.{level}.codebook"
        state[f"{book}.k_sum"] = state[f"{book}.k"].clone()
        state[f"{book}.k_elem"] = torch.ones(config.bins)
        state[f"{book}.initialised"] = torch.tensor(True)
    return state
