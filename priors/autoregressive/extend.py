"""Extensions of a trained prior: lyrics (Jukebox, section 6.2, "decoder pretraining"), and new artists and genres.

For lyrics, cross-attention layers are inserted between the trained layers. Their output projections are initialised with zeros.
So the outputs of the extended prior are at first bit-identical to those of the trained prior. New artists and genres are
appended as new rows of the label tables, so that existing ids do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.config import LyricConfig
from priors.prior import Prior

P = TypeVar("P", bound=Prior)


def crossed(order: Sequence[str], every: int) -> tuple[str, ...]:
    """Return an order of layers with one cross layer after every `every` layers.

    If `every` does not divide the number of layers, the remaining layers come first, as published.
    """
    first = len(order) % every
    parts = [tuple(order[i : i + every]) for i in range(first, len(order), every)]
    return tuple(order[:first]) + tuple(name for part in parts for name in (*part, "cross"))


def with_lyrics(
    prior: AutoregressivePrior, lyrics: LyricConfig, *, order: Sequence[str] | None = None, time_bias: bool = False
) -> AutoregressivePrior:
    """Return a copy of a trained prior without lyrics, extended by a lyric encoder and cross layers. Its outputs do not change.

    `order` lists all layers of the new trunk. By default there is a cross layer after every ninth layer, or after the last
    layer of a shorter trunk. ValueError if the prior cannot be extended.
    """
    config, trunk = prior.config, prior.config.trunk
    old = tuple(trunk.pattern(layer) for layer in range(trunk.depth))
    if config.lyrics or "cross" in old:
        raise ValueError("this prior is conditioned on lyrics already; expected one that was trained without lyrics")
    if lyrics.trunk.depth == 0:
        raise ValueError("lyric characters before the codes cannot be added to a trained prior; give the encoder a depth")
    if trunk.res_scale:
        raise ValueError("a trunk with res_scale is scaled by its depth; more layers would change what it computes")
    order = tuple(order or crossed(old, min(9, trunk.depth)))
    if tuple(name for name in order if name != "cross") != old:
        raise ValueError(f"order {order} without its cross layers differs from that of the trained prior, {old}")
    wider = replace(trunk, depth=len(order), order=order, time_bias=time_bias)
    made = AutoregressivePrior(replace(config, trunk=wider, lyrics=lyrics))
    places = [layer for layer, name in enumerate(order) if name != "cross"]
    state = {}
    for name, tensor in prior.state_dict().items():
        head, layers, rest = name.partition("trunk.layers.")
        if layers and not head:
            number, _, part = rest.partition(".")
            name = f"trunk.layers.{places[int(number)]}.{part}"
        state[name] = tensor
    missing, unexpected = made.load_state_dict(state, strict=False)
    new = tuple(f"trunk.layers.{layer}." for layer, name in enumerate(order) if name == "cross")
    assert not unexpected and all(name.startswith((*new, "lyric_encoder.")) for name in missing)
    with torch.no_grad():
        for layer, block in enumerate(made.trunk.blocks):
            if order[layer] == "cross":
                for linear in (block.attn.c_proj, block.mlp.c_proj):
                    linear.w.zero_()
                    linear.b.zero_()
    return made


@torch.no_grad()
def with_labels(prior: P, artists: int, genres: int) -> P:
    """Return a copy of a prior with label tables of `artists` and `genres` rows. New rows are copies of row 0, "unknown".

    Raise ValueError if the prior has no labels, or if a table would shrink.
    """
    labels = prior.config.labels
    if labels is None:
        raise ValueError("this prior is not conditioned on artists and genres; train one that is, with a preset such as small")
    if artists < labels.artists or genres < labels.genres:
        raise ValueError(f"tables of {labels.artists} artists and {labels.genres} genres cannot shrink to {artists}, {genres}")
    with torch.device("meta"):
        made = type(prior)(replace(prior.config, labels=replace(labels, artists=artists, genres=genres)))  # type: ignore[call-arg]
    state = {name: tensor.detach().clone() for name, tensor in prior.state_dict().items()}
    for name, rows in (("labels.artist.weight", artists), ("labels.genre.weight", genres)):
        old = state[name]
        state[name] = torch.cat([old, old[:1].expand(rows - len(old), -1)])
    made.load_state_dict(state, assign=True)
    return made
