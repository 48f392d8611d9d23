"""Published priors: the mapping between their tensor names and ours, in both directions.

Tensors keep their layout, so importing is renaming. If the output shares the embedding's table, their files store it under both
names, ours once. The models: arXiv:2005.00341 and the repository beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jukebox.importers.vqvae_keys import rename
from priors.autoregressive.config import AutoregressiveConfig

# L layer, I step (one doubling), D residual block, T the rest of the name, W weight or bias. Entry 0 of the published
# conditioner is the projection in, so that its steps are numbered from 1. A conditioner that was trained with gradient
# checkpointing calls its list of residual blocks `blocks`, one without calls it `model`: {B}.
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
    """Our name of a published prior's tensor; ValueError for a name that no published prior has."""
    if (ours := rename(published.removeprefix("module."), _PRIOR)) is None:
        raise ValueError(f"tensor {published!r} is none of a published prior's; is this the file of a prior?")
    return ours


def published_prior_key(ours: str, checkpointed: bool = True) -> str:
    """The published name of our tensor; the conditioner of every released model was trained `checkpointed`."""
    blocks = {"B": "blocks" if checkpointed else "model"}
    if (published := rename(ours, [(b, a) for a, b in _PRIOR], blocks)) is None:
        raise ValueError(f"tensor {ours!r} has no published name; published priors have no such part")
    return published


def from_published(state: Mapping[str, Tensor], config: AutoregressiveConfig) -> dict[str, Tensor]:
    """A published state dict under our names, for `AutoregressivePrior(config)`; nothing is copied."""
    renamed = {prior_key(name): tensor for name, tensor in state.items()}
    if len(renamed) != len(state):
        raise ValueError("two tensors of this file have the same name in ours; the file mixes two ways of naming")
    out = renamed.pop("x_out.weight", None) if config.tied else None
    if out is not None and not torch.equal(out, renamed["x_emb.weight"]):
        raise ValueError("the output table differs from the embedding's; this file is of a model with a table each")
    return renamed


def to_published(state: Mapping[str, Tensor], config: AutoregressiveConfig, checkpointed: bool = True) -> dict[str, Tensor]:
    """The state dict of a prior under its published names: the inverse of `from_published`."""
    named = {published_prior_key(name, checkpointed): tensor for name, tensor in state.items()}
    if config.tied:
        named["prior.x_out.weight"] = named["prior.x_emb.weight"]
    return named
