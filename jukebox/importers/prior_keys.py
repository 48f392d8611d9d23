"""Mapping between the tensor names of published priors and ours, in both directions.

Tensors keep their layout, so an import only renames them. If output and embedding share a table, published files store it under
both names, and our files store it once. The published models are those of arXiv:2005.00341 and its repository.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jukebox.importers.vqvae_keys import rename
from priors.autoregressive.config import AutoregressiveConfig

# Fields: L layer, I step (one doubling), D residual block, T the rest of the name, W weight or bias, B `blocks` or `model`.
# Entry 0 of the published conditioner is the input projection, so its steps are numbered from 1. The list of residual blocks is
# called `blocks` in a conditioner that was trained with gradient checkpointing, and `model` in others.
_PRIOR = [
    ("prior.transformer._attn_mods.{L}.{T}", "trunk.layers.{L}.{T}"),
    ("prior.x_emb.weight", "x_emb.weight"),
    ("prior.x_out.weight", "x_out.weight"),
    ("prior.pos_emb.pos_emb", "pos_emb"),
    ("prior.start_token", "start_token"),
    ("y_emb.artist_emb.emb.weight", "labels.artist.weight"),
    ("y_emb.bow_genre_emb.emb.weight", "labels.genre.weight"),
    ("y_emb.total_length_emb.emb.weight", "timing.total.weight"),
    ("y_emb.absolute_pos_emb.emb.weight", "timing.absolute.weight"),
    ("y_emb.relative_pos_emb.emb.weight", "timing.relative.weight"),
    ("conditioner_blocks.0.x_emb.weight", "upsampler.x_emb.weight"),
    ("conditioner_blocks.0.ln.{W}", "upsampler.ln.{W}"),
    ("conditioner_blocks.0.cond.model.0.{W}", "upsampler.stage.inlet.{W}"),
    ("conditioner_blocks.0.cond.model.{I}.1.{W}", "upsampler.stage.steps.{I-1}.conv.{W}"),
    ("conditioner_blocks.0.cond.model.{I}.0.{B}.{D}.model.1.{W}", "upsampler.stage.steps.{I-1}.stack.blocks.{D}.dilated.{W}"),
    ("conditioner_blocks.0.cond.model.{I}.0.{B}.{D}.model.3.{W}", "upsampler.stage.steps.{I-1}.stack.blocks.{D}.pointwise.{W}"),
    ("prime_prior.transformer._attn_mods.{L}.{T}", "lyric_encoder.trunk.layers.{L}.{T}"),
    ("prime_prior.x_emb.weight", "lyric_encoder.x_emb.weight"),
    ("prime_prior.pos_emb.pos_emb", "lyric_encoder.pos_emb"),
    ("prime_prior.start_token", "lyric_encoder.start_token"),
    ("prime_state_proj.{T}", "lyric_encoder.proj.{T}"),
    ("prime_state_ln.{W}", "lyric_encoder.ln.{W}"),
    ("prime_x_out.weight", "lyric_encoder.x_out.weight"),
]


def prior_key(published: str) -> str:
    """Return our name of a published prior's tensor; ValueError for a name that no published prior has."""
    if (ours := rename(published.removeprefix("module."), _PRIOR)) is None:
        raise ValueError(f"tensor {published!r} is none of a published prior's; is this the file of a prior?")
    return ours


def published_prior_key(ours: str, checkpointed: bool = True) -> str:
    """Return the published name of our tensor; ValueError if it has none.

    checkpointed: whether the conditioner was trained with gradient checkpointing, as in all released models
    """
    blocks = {"B": "blocks" if checkpointed else "model"}
    if (published := rename(ours, [(b, a) for a, b in _PRIOR], blocks)) is None:
        raise ValueError(f"tensor {ours!r} has no published name; published priors have no such part")
    return published


def from_published(state: Mapping[str, Tensor], config: AutoregressiveConfig) -> dict[str, Tensor]:
    """Return a published state dict under our names, for `AutoregressivePrior(config)`, without copies of tensors.

    Raise ValueError if two tensors get the same name, or if the tables of embedding and output differ but `config` ties them.
    """
    renamed = {prior_key(name): tensor for name, tensor in state.items()}
    if len(renamed) != len(state):
        raise ValueError("two tensors of this file have the same name in ours; the file mixes two ways of naming")
    out = renamed.pop("x_out.weight", None) if config.tied else None
    if out is not None and not torch.equal(out, renamed["x_emb.weight"]):
        raise ValueError("the output table differs from the embedding's; this file is of a model with a table each")
    return renamed


def to_published(state: Mapping[str, Tensor], config: AutoregressiveConfig, checkpointed: bool = True) -> dict[str, Tensor]:
    """Return the state dict of a prior under published names: the inverse of `from_published`."""
    named = {published_prior_key(name, checkpointed): tensor for name, tensor in state.items()}
    if config.tied:
        named["prior.x_out.weight"] = named["prior.x_emb.weight"]
    return named
