"""Published priors: their settings as a `PriorConfig`, and their tensor names in our words and back.

Tensors keep their layout, so importing is renaming. One thing is told twice in their files: where the output shares the
embedding's table, both names hold it; ours holds it once. The models: arXiv:2005.00341 and the repository beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from priors.autoregressive.model import PriorConfig
from priors.conditioning.conditions import LabelConfig
from priors.conditioning.lyrics import LyricConfig
from priors.conditioning.upsampler import UpsamplerConfig
from priors.transformer.trunk import ORDERS, Init, TrunkConfig

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
    (
        "conditioner_blocks.0.cond.model.{I}.0.{B}.{D}.model.1.{W}",
        "upsampler.stage.steps.{I-1}.stack.blocks.{D}.dilated.{W}",
    ),
    (
        "conditioner_blocks.0.cond.model.{I}.0.{B}.{D}.model.3.{W}",
        "upsampler.stage.steps.{I-1}.stack.blocks.{D}.pointwise.{W}",
    ),
    ("prime_prior.transformer._attn_mods.{L}.{T}", "lyric_encoder.trunk.layers.{L}.{T}"),
    ("prime_prior.x_emb.weight", "lyric_encoder.x_emb.weight"),
    ("prime_prior.pos_emb.pos_emb", "lyric_encoder.pos_emb"),
    ("prime_prior.start_token", "lyric_encoder.start_token"),
    ("prime_state_proj.{T}", "lyric_encoder.proj.{T}"),
    ("prime_state_ln.{W}", "lyric_encoder.ln.{W}"),
    ("prime_x_out.weight", "lyric_encoder.x_out.weight"),
]

_FIELDS = {"B": "blocks|model", "W": "weight|bias", "T": r".+"}  # any other field is a number


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{([A-Z])(?:-1)?\}", template)
    for i in range(1, len(parts), 2):
        parts[i] = f"(?P<{parts[i]}>{_FIELDS.get(parts[i], '[0-9]+')})"
    return re.compile("".join(part if i % 2 else re.escape(part) for i, part in enumerate(parts)))


def _fill(template: str, fields: Mapping[str, str], shift: int) -> str:
    for name, value in fields.items():
        template = template.replace(f"{{{name}}}", value)
        if f"{{{name}-1}}" in template:
            template = template.replace(f"{{{name}-1}}", str(int(value) - 1))
    return template


def prior_key(published: str) -> str:
    """Our name of a published prior's tensor; ValueError for a name that no published prior has."""
    for theirs, ours in _PRIOR:
        if match := _pattern(theirs).fullmatch(published.removeprefix("module.")):
            return _fill(ours, match.groupdict(), -1)
    raise ValueError(f"tensor {published!r} is none of a published prior's; is this the file of a prior?")


def published_prior_key(ours: str, checkpointed: bool = True) -> str:
    """The published name of our tensor; the conditioner of every released model was trained `checkpointed`."""
    for theirs, template in _PRIOR:
        if match := _pattern(template).fullmatch(ours):
            fields = match.groupdict() | {"B": "blocks" if checkpointed else "model"}
            if "{I-1}" in template:
                fields["I"] = str(int(fields["I"]) + 1)
            return _fill(theirs, fields, 0)
    raise ValueError(f"tensor {ours!r} has no published name; published priors have no such part")


def from_published(state: Mapping[str, Tensor], config: PriorConfig) -> dict[str, Tensor]:
    """A published state dict under our names, as `AutoregressivePrior(config)` loads it; nothing is copied."""
    renamed = {prior_key(name): tensor for name, tensor in state.items()}
    if len(renamed) != len(state):
        raise ValueError("two tensors of this file have the same name in ours; the file mixes two ways of naming")
    out = renamed.pop("x_out.weight", None) if config.tied else None
    if out is not None and not torch.equal(out, renamed["x_emb.weight"]):
        raise ValueError("the output table differs from the embedding's; this file is of a model with a table each")
    return renamed


def to_published(state: Mapping[str, Tensor], config: PriorConfig, checkpointed: bool = True) -> dict[str, Tensor]:
    """The state dict of a prior under its published names: what `from_published` undoes."""
    named = {published_prior_key(name, checkpointed): tensor for name, tensor in state.items()}
    if config.tied:
        named["prior.x_out.weight"] = named["prior.x_emb.weight"]
    return named


# -------------------- settings

# Published settings that a set leaves out, of those that shape a prior.
_DEFAULTS: dict[str, Any] = {
    "sr": 44100, "attn_order": 0, "blocks": None, "heads": 1, "m_attn": 0.25, "m_mlp": 1.0, "res_scale": False,
    "init_scale": 1.0, "labels": True, "t_bins": 64, "max_bow_genre_size": None, "min_duration": None,
    "max_duration": None, "n_tokens": 0, "n_vocab": 0, "single_enc_dec": False, "merged_decoder": False,
    "prime_loss_fraction": 0.1, "prime_width": 128, "prime_depth": 3, "prime_heads": 1, "prime_attn_order": 0,
    "prime_blocks": None, "prime_m_attn": 0.25, "prime_m_mlp": 1.0, "prime_res_scale": False, "prime_init_scale": 1.0,
    "cond_width": 128, "cond_depth": 3, "cond_m_conv": 1.0, "cond_dilation_growth_rate": 1, "cond_dilation_cycle": None,
    "cond_res_scale": False,
}  # fmt: skip

_LARGE = {"blocks": 128, "attn_order": 2, "n_ctx": 8192, "y_bins": (120, 4111), "t_bins": 128, "max_bow_genre_size": 5}
_UPSAMPLER = {
    **_LARGE, "prior_width": 1920, "prior_depth": 72, "heads": 1, "init_scale": 0.4, "cond_width": 1024,
    "cond_depth": 16, "cond_dilation_growth_rate": 3, "cond_dilation_cycle": 8,
}  # fmt: skip
_5B = {
    **_LARGE, "level": 2, "prior_width": 4800, "prior_depth": 72, "heads": 8, "init_scale": 0.1, "merged_decoder": True,
    "min_duration": 60.0, "max_duration": 600.0,
}  # fmt: skip
_SMALL = {
    "level": 1, "n_ctx": 8192, "prior_width": 1024, "prior_depth": 48, "heads": 1, "attn_order": 2, "blocks": 64,
    "init_scale": 0.7,
}  # fmt: skip
_SMALL_LABELS = {"y_bins": (10, 100), "max_bow_genre_size": 1, "min_duration": 60.0, "max_duration": 600.0}
_SMALL_LYRICS = {
    **_SMALL_LABELS, "n_ctx": 6144, "heads": 2, "n_tokens": 384, "n_vocab": 79, "prime_loss_fraction": 0.4,
}  # fmt: skip

# Settings of the published sets. A user's own set differs in numbers: hand `prior_config` the settings of its file.
PRIORS: dict[str, dict[str, Any]] = {
    "upsampler_level_0": {**_UPSAMPLER, "level": 0},
    "upsampler_level_1": {**_UPSAMPLER, "level": 1, "cond_res_scale": True},
    "prior_5b": _5B,
    "prior_5b_lyrics": {
        **_5B, "prior_depth": 79, "attn_order": 10, "min_duration": 23.8, "n_tokens": 512, "n_vocab": 80,
        "prime_loss_fraction": 0.4, "prime_width": 1280, "prime_depth": 18, "prime_heads": 4, "prime_attn_order": 2,
        "prime_blocks": 32, "prime_init_scale": 0.7,
    },
    "prior_1b_lyrics": {
        "level": 2, "n_ctx": 6144, "prior_width": 2048, "prior_depth": 72, "heads": 2, "attn_order": 12, "blocks": 64,
        "init_scale": 0.2, "n_tokens": 384, "n_vocab": 79, "prime_loss_fraction": 0.4, "single_enc_dec": True,
        "y_bins": (604, 7898), "t_bins": 64, "max_bow_genre_size": 1, "min_duration": 17.84, "max_duration": 600.0,
    },
    "small_prior": {**_SMALL, "labels": False},
    "small_labelled_prior": {**_SMALL, **_SMALL_LABELS},
    "small_single_enc_dec_prior": {**_SMALL, **_SMALL_LYRICS, "attn_order": 12, "single_enc_dec": True},
    "small_sep_enc_dec_prior": {
        **_SMALL, **_SMALL_LYRICS, "prior_depth": 50, "attn_order": 8, "prime_width": 256, "prime_depth": 9,
        "prime_heads": 2, "prime_attn_order": 2, "prime_blocks": 32, "prime_init_scale": 0.7,
    },
    "small_upsampler": {
        **_SMALL, "level": 0, "labels": False, "cond_width": 512, "cond_depth": 16, "cond_dilation_growth_rate": 3,
        "cond_dilation_cycle": 8,
    },
}  # fmt: skip

# Layer and head whose attention to the letters follows the singing.
ALIGNMENT = {"prior_5b_lyrics": (68, 2), "prior_1b_lyrics": (63, 0)}


def alignment_way(name: str, config: PriorConfig) -> dict[str, Any] | None:
    """The published way of telling when words are sung (`jukebox/alignment/align.py`); None for priors of another shape."""
    layer, head = ALIGNMENT.get(name, (config.trunk.depth, 0))
    if layer >= config.trunk.depth or config.trunk.pattern(layer) not in ("cross", "prime"):
        return None
    return {"way": "attention", "layer": layer, "head": head, "found": "published"}


def _order(number: int) -> tuple[str, ...]:
    if number not in ORDERS:
        raise ValueError(
            f"attention order {number}: expected one of {', '.join(map(str, ORDERS))}; no model uses others"
        )
    return ORDERS[number]


def _trunk(hps: Mapping[str, Any], kind: str, n_ctx: int, prefix: str = "", prime: int = 0) -> TrunkConfig:
    of = {name: hps[prefix + name] for name in ("heads", "m_attn", "m_mlp", "res_scale")}
    return TrunkConfig(
        n_ctx=n_ctx, width=hps[f"{kind}_width"], depth=hps[f"{kind}_depth"], order=_order(hps[prefix + "attn_order"]),
        blocks=hps[prefix + "blocks"] or 1, prime=prime, init=Init.published(hps[prefix + "init_scale"]), **of,
    )  # fmt: skip


def prior_config(hps: Mapping[str, Any], vqvae_hps: Mapping[str, Any]) -> PriorConfig:
    """The shape of a published prior from its settings and its codec's; what `hps` lacks has its published default.

    Of the codec `l_bins`, `downs_t`, `strides_t` and `levels` (left out: all of them) are read. Settings that change
    training only are not looked at.
    """
    hps = _DEFAULTS | dict(hps)
    level, bins = hps["level"], vqvae_hps["l_bins"]
    strides = [stride**down for stride, down in zip(vqvae_hps["strides_t"], vqvae_hps["downs_t"], strict=True)]
    strides = strides[: vqvae_hps.get("levels")]
    top, tokens, one_stream = level == len(strides) - 1, hps["n_tokens"], hps["single_enc_dec"]

    labels = lyrics = above = None
    if hps["labels"]:
        labels = LabelConfig(
            artists=hps["y_bins"][1], genres=hps["y_bins"][0], max_genres=hps["max_bow_genre_size"],
            timing_bins=hps["t_bins"] if top else 0, min_seconds=hps["min_duration"] or 0.0,
            max_seconds=hps["max_duration"] or 600.0, sample_rate=hps["sr"],
        )  # fmt: skip
    if tokens:
        encoder = TrunkConfig(tokens, hps["prior_width"], 0) if one_stream else _trunk(hps, "prime", tokens, "prime_")
        lyrics = LyricConfig(hps["n_vocab"], tokens, encoder, causal=True, loss_weight=hps["prime_loss_fraction"])
    if not top:
        above = UpsamplerConfig(
            bins, vqvae_hps["downs_t"][level + 1], vqvae_hps["strides_t"][level + 1], hps["cond_width"],
            hps["cond_depth"], hps["cond_dilation_growth_rate"], hps["cond_dilation_cycle"], hps["cond_res_scale"],
            hps["cond_m_conv"],
        )  # fmt: skip
    trunk = _trunk(hps, "prior", hps["n_ctx"] + tokens * one_stream, prime=tokens * one_stream)
    return PriorConfig(
        level=level, bins=bins, hop=math.prod(strides[: level + 1]), sample_rate=hps["sr"], trunk=trunk, labels=labels,
        lyrics=lyrics, above=above, tied=not hps["merged_decoder"], condition_again=not hps["merged_decoder"],
    )  # fmt: skip
