"""Settings of the published checkpoints (arXiv:2005.00341 and its code), converted to the configurations of this project.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from priors.autoregressive.config import AutoregressiveConfig
from priors.conditioning.config import LabelConfig, LyricConfig, UpsamplerConfig
from priors.transformer.config import ORDERS, Init, TrunkConfig
from vqvae.jukebox.config import VQVAEConfig

# published set -> folder of its top prior, name of that prior in PRIORS, version of its labels and vocabulary
SETS = {
    "5b": ("5b", "prior_5b", "v2"),
    "5b_lyrics": ("5b_lyrics", "prior_5b_lyrics", "v2"),
    "1b_lyrics": ("1b_lyrics", "prior_1b_lyrics", "v3"),
}

# -------------------- codecs

VQVAE_DEFAULTS: dict[str, Any] = {
    "sr": 44100,
    "levels": 2,
    "downs_t": (1, 1),
    "strides_t": (2, 2),
    "emb_width": 64,
    "l_bins": 512,
    "l_mu": 0.99,
    "commit": 1.0,
    "spectral": 0.0,
    "multispectral": 1.0,
    "hvqvae_multipliers": None,
    "loss_fn": "l2",
    "lmix_l1": 0.0,
    "lmix_l2": 0.0,
    "lmix_linf": 0.0,
    "linf_k": 2048,
    "width": 128,
    "depth": 3,
    "m_conv": 1.0,
    "dilation_growth_rate": 1,
    "dilation_cycle": None,
    "vqvae_reverse_decoder_dilation": True,
    "revival_threshold": 1.0,
    "use_nonrelative_specloss": True,
    "multispec_loss_n_fft": (2048, 1024, 512),
    "multispec_loss_hop_length": (240, 120, 50),
    "multispec_loss_window_size": (1200, 600, 240),
}

# The settings of the published codecs that differ from the defaults.
VQVAES: dict[str, dict[str, Any]] = {
    "vqvae": {
        "levels": 3, "downs_t": (3, 2, 2), "strides_t": (2, 2, 2), "l_bins": 2048, "commit": 0.02,
        "hvqvae_multipliers": (2, 1, 1), "loss_fn": "lmix", "lmix_l2": 1.0, "lmix_linf": 0.02,
        "width": 32, "depth": 4, "dilation_growth_rate": 3,
    },
    "small_vqvae": {
        "sr": 22050, "levels": 2, "downs_t": (5, 3), "strides_t": (2, 2), "l_bins": 1024, "commit": 0.02,
        "width": 32, "depth": 4, "dilation_growth_rate": 3,
    },
}  # fmt: skip


def vqvae_config(hps: Mapping[str, Any]) -> VQVAEConfig:
    """Convert published hyper-parameters of a codec to a VQVAEConfig; a missing hyper-parameter has the published default."""
    h = {**VQVAE_DEFAULTS, **{name: value for name, value in hps.items() if name in VQVAE_DEFAULTS}}
    weights = {"l1": (1.0, 0.0, 0.0), "l2": (0.0, 1.0, 0.0), "linf": (0.0, 0.0, 1.0)}
    weights["lmix"] = (h["lmix_l1"], h["lmix_l2"], h["lmix_linf"])
    if h["loss_fn"] not in weights:
        raise ValueError(f"loss_fn {h['loss_fn']!r}: the published ones are {', '.join(weights)}")
    l1, l2, linf = weights[h["loss_fn"]]
    levels, stfts = h["levels"], ("multispec_loss_n_fft", "multispec_loss_hop_length", "multispec_loss_window_size")
    same = (
        "width",
        "depth",
        "m_conv",
        "dilation_growth_rate",
        "dilation_cycle",
        "linf_k",
        "spectral",
        "multispectral",
        "commit",
    )
    return VQVAEConfig(
        sample_rate=h["sr"],
        downs_t=h["downs_t"][:levels],
        strides_t=h["strides_t"][:levels],
        emb_width=h["emb_width"],
        bins=h["l_bins"],
        multipliers=h["hvqvae_multipliers"] or (1,) * levels,
        reverse_decoder_dilation=h["vqvae_reverse_decoder_dilation"],
        mu=h["l_mu"],
        threshold=h["revival_threshold"],
        reset_restarted=False,
        l1=l1,
        l2=l2,
        linf=linf,
        multispectral_stfts=tuple(zip(*(h[name] for name in stfts))),
        spectral_is_convergence=not h["use_nonrelative_specloss"],
        **{name: h[name] for name in same},
    )


# -------------------- priors

# Published defaults of the settings that shape a prior.
_DEFAULTS: dict[str, Any] = {
    "sr": 44100, "attn_order": 0, "blocks": None, "heads": 1, "m_attn": 0.25, "m_mlp": 1.0, "res_scale": False,
    "init_scale": 1.0, "labels": True, "t_bins": 64, "max_bow_genre_size": None, "min_duration": None, "max_duration": None,
    "n_tokens": 0, "n_vocab": 0, "single_enc_dec": False, "merged_decoder": False, "prime_loss_fraction": 0.1,
    "prime_width": 128, "prime_depth": 3, "prime_heads": 1, "prime_attn_order": 0, "prime_blocks": None, "prime_m_attn": 0.25,
    "prime_m_mlp": 1.0, "prime_res_scale": False, "prime_init_scale": 1.0, "cond_width": 128, "cond_depth": 3,
    "cond_m_conv": 1.0, "cond_dilation_growth_rate": 1, "cond_dilation_cycle": None, "cond_res_scale": False,
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
_SMALL_LYRICS = {**_SMALL_LABELS, "n_ctx": 6144, "heads": 2, "n_tokens": 384, "n_vocab": 79, "prime_loss_fraction": 0.4}

# Settings of the published priors. For a prior of another set, pass the settings of its file to `prior_config`.
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

# Layer and head whose attention follows the sung lyrics.
ALIGNMENT = {"prior_5b_lyrics": (68, 2), "prior_1b_lyrics": (63, 0)}


def alignment_way(name: str, config: AutoregressiveConfig) -> dict[str, Any] | None:
    """Return the published alignment method of a prior (`jukebox/alignment/align.py`); None if the prior has no such layer."""
    layer, head = ALIGNMENT.get(name, (config.trunk.depth, 0))
    if layer >= config.trunk.depth or config.trunk.pattern(layer) not in ("cross", "prime"):
        return None
    return {"way": "attention", "layer": layer, "head": head, "found": "published"}


def _trunk(hps: Mapping[str, Any], kind: str, n_ctx: int, prefix: str = "", prime: int = 0) -> TrunkConfig:
    of, order = {name: hps[prefix + name] for name in ("heads", "m_attn", "m_mlp", "res_scale")}, hps[prefix + "attn_order"]
    if order not in ORDERS:
        raise ValueError(f"attention order {order}: expected one of {', '.join(map(str, ORDERS))}; no model uses others")
    return TrunkConfig(
        n_ctx=n_ctx, width=hps[f"{kind}_width"], depth=hps[f"{kind}_depth"], order=ORDERS[order],
        blocks=hps[prefix + "blocks"] or 1, prime=prime, init=Init.published(hps[prefix + "init_scale"]), **of,
    )  # fmt: skip


def prior_config(hps: Mapping[str, Any], vqvae_hps: Mapping[str, Any]) -> AutoregressiveConfig:
    """Convert published hyper-parameters of a prior and its codec to an AutoregressiveConfig.

    A setting that `hps` lacks has the published default. `vqvae_hps` contains `l_bins`, `downs_t`, `strides_t` and optionally
    `levels` (default: all levels). Settings that affect only training are ignored.
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
            bins, vqvae_hps["downs_t"][level + 1], vqvae_hps["strides_t"][level + 1], hps["cond_width"], hps["cond_depth"],
            hps["cond_dilation_growth_rate"], hps["cond_dilation_cycle"], hps["cond_res_scale"], hps["cond_m_conv"],
        )  # fmt: skip
    trunk = _trunk(hps, "prior", hps["n_ctx"] + tokens * one_stream, prime=tokens * one_stream)
    return AutoregressiveConfig(
        stream=f"vq.{level}", reads="" if top else f"vq.{level + 1}", bins=bins,
        hop=math.prod(strides[: level + 1]), sample_rate=hps["sr"], trunk=trunk, labels=labels,
        lyrics=lyrics, above=above, tied=not hps["merged_decoder"], condition_again=not hps["merged_decoder"],
    )  # fmt: skip
