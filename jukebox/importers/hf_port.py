"""Convert tensor names and settings of the transformers port of the published models to the published ones.

The hub folders `openai/jukebox-*` contain codec and priors in one state dict, in one file or in shards, with a config.json. The
prefixes are `vqvae.`, `priors.0.` for the top level, and so on to the finest. Linear layers keep their published orientation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PARTS = {"c_attn", "c_proj", "c_enc_kv", "c_fc", "proj_in"}  # linear layers: weight and bias in the port are published w and b
_WHOLE = {
    "conditioner_blocks.embed_tokens": "conditioner_blocks.0.x_emb",
    "conditioner_blocks.layer_norm": "conditioner_blocks.0.ln",
    "conditioner_blocks.upsampler.proj_in": "conditioner_blocks.0.cond.model.0",
    "metadata_embedding.bow_genre_emb": "y_emb.bow_genre_emb.emb",
    "metadata_embedding.artist_emb": "y_emb.artist_emb.emb",
    "encoder.embed_tokens": "prime_prior.x_emb",
    "encoder.final_layer_norm": "prime_state_ln",
    "encoder.lm_head": "prime_x_out",
    "prior.embed_tokens": "prior.x_emb",
    "prior.fc_proj_out": "prior.x_out",
}
_SUFFIX = {"weight": "w", "bias": "b"}


def published_codec_name(name: str, downs_t: Sequence[int]) -> str:
    """Return the published name of a tensor of the port's codec; ValueError for other names.

    `name` is without the prefix `vqvae.`; `downs_t` are the halvings of each stage.
    """
    if found := re.fullmatch(r"bottleneck\.level_blocks\.(\d+)\.codebook", name):
        return f"bottleneck.level_blocks.{found[1]}.k"
    if re.fullmatch(r"decoders\.\d+\.out\.(weight|bias)", name):
        return name
    found = re.fullmatch(r"((?:en|de)coders\.\d+\.level_blocks\.(\d+))\.(.+)\.(weight|bias)", name)
    if found is None:
        raise ValueError(f"{name} is no tensor of the port's codec")
    head, stage, inner, kind = found.groups()
    encoder = head.startswith("encoders")
    if inner == "proj_out" and encoder:
        return f"{head}.model.{downs_t[int(stage)]}.{kind}"
    if inner == "proj_in" and not encoder:
        return f"{head}.model.0.{kind}"
    block = "downsample_block" if encoder else "upsample_block"
    return f"{head}.model.{_step(inner, block, encoder)}.{kind}"


def _step(inner: str, block: str, conv_first: bool, stack: str = "model") -> str:
    """Return the published position of a convolution in a stage.

    The port has one flat list in which convolutions and stacks of residual blocks alternate.
    """
    found = re.fullmatch(rf"{block}\.(\d+)(?:\.resnet_block\.(\d+)\.conv1d_([12]))?", inner)
    if found is None:
        raise ValueError(f"{inner} is no part of a stage")
    step, odd = divmod(int(found[1]), 2)
    number = step if conv_first else step + 1
    if (found[2] is not None) != (bool(odd) == conv_first):
        raise ValueError(f"{inner} stands where a stage has something else")
    if found[2] is None:
        return f"{number}.{odd}"
    return f"{number}.{odd}.{stack}.{found[2]}.model.{1 if found[3] == '1' else 3}"


def published_prior_name(name: str) -> str:
    """Return the published name of a tensor of the port's prior (without `priors.N.`); raise ValueError for other names."""
    stem, _, kind = name.rpartition(".")
    if name in ("prior.pos_emb.pos_emb", "prior.start_token"):
        return name
    if name in ("encoder.pos_emb.pos_emb", "encoder.start_token"):
        return name.replace("encoder", "prime_prior", 1)
    if re.fullmatch(r"metadata_embedding\.\w+_emb\.emb\.weight", name):
        return name.replace("metadata_embedding", "y_emb", 1)
    if kind in _SUFFIX and stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}"
    if kind in _SUFFIX and stem == "encoder.proj_in":
        return f"prime_state_proj.{_SUFFIX[kind]}"
    if kind in _SUFFIX and stem.startswith("conditioner_blocks.upsampler."):
        inner = stem.removeprefix("conditioner_blocks.upsampler.")
        return f"conditioner_blocks.0.cond.model.{_step(inner, 'upsample_block', False, 'blocks')}.{kind}"
    if kind in _SUFFIX and (found := re.fullmatch(r"(prior|encoder)\.transformer\._attn_mods\.(\d+)\.(.+)", stem)):
        whose = "prior" if found[1] == "prior" else "prime_prior"
        inner, last = found[3].replace("layer_norm_", "ln_"), found[3].rpartition(".")[2]
        return f"{whose}.transformer._attn_mods.{found[2]}.{inner}.{_SUFFIX[kind] if last in _PARTS else kind}"
    raise ValueError(f"{name} is no tensor of the port's priors")


# -------------------- settings: published name -> (name in the port, default if config.json has no value)

_CODEC = {
    "sr": ("sample_rate", 44100), "levels": ("levels", 3), "downs_t": ("res_downs_t", (3, 2, 2)),
    "strides_t": ("res_strides_t", (2, 2, 2)), "emb_width": ("embed_dim", 64), "l_bins": ("nb_discrete_codes", 2048),
    "width": ("res_conv_width", 32), "depth": ("res_conv_depth", 4), "hvqvae_multipliers": ("multipliers", (2, 1, 1)),
    "m_conv": ("res_convolution_multiplier", 1), "dilation_growth_rate": ("res_dilation_growth_rate", 3),
    "dilation_cycle": ("res_dilation_cycle", None), "l_mu": ("lmu", 0.99), "commit": ("commit", 0.02),
}  # fmt: skip
_PRIOR = {
    "sr": ("sampling_rate", 44100), "n_ctx": ("n_ctx", 6144), "prior_width": ("hidden_size", 2048),
    "prior_depth": ("num_layers", 72), "heads": ("n_heads", 2), "blocks": ("blocks", 64),
    "m_attn": ("attention_multiplier", 0.25), "m_mlp": ("mlp_multiplier", 1.0), "res_scale": ("attn_res_scale", False),
    "init_scale": ("init_scale", 0.2), "labels": ("metadata_conditioning", True), "y_bins": ("metadata_dims", (604, 7898)),
    "t_bins": ("timing_dims", 64), "max_bow_genre_size": ("max_nb_genres", 1), "min_duration": ("min_duration", 0),
    "max_duration": ("max_duration", 600), "n_tokens": ("nb_relevant_lyric_tokens", 384),
    "n_vocab": ("lyric_vocab_size", 80), "merged_decoder": ("merged_decoder", True),
    "prime_loss_fraction": ("encoder_loss_fraction", 0.4), "cond_width": ("res_conv_width", 128),
    "cond_depth": ("res_conv_depth", 3), "cond_m_conv": ("res_convolution_multiplier", 1),
    "cond_dilation_growth_rate": ("res_dilation_growth_rate", 1), "cond_dilation_cycle": ("res_dilation_cycle", None),
    "cond_res_scale": ("conv_res_scale", None),
}  # fmt: skip
_ENCODER = ("width", "depth", "heads", "blocks", "m_attn", "m_mlp", "res_scale", "init_scale")
_ORDERS = {
    "full_dense_attention": 0, "raw_column_previous_row_attention": 2, "large_separated_enc_dec_w_lyrics": 10,
    "enc_dec_with_lyrics": 12,
}  # fmt: skip


def _order(config: Mapping[str, Any]) -> int:
    pattern = config.get("attention_pattern", "enc_dec_with_lyrics")
    if pattern not in _ORDERS:
        raise ValueError(f"attention pattern {pattern!r}; expected one of {', '.join(_ORDERS)}")
    return _ORDERS[pattern]


def codec_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the codec's settings under published names, from the port's config.json."""
    given = config.get("vqvae_config") or {}
    settings = {ours: given.get(theirs, default) for ours, (theirs, default) in _CODEC.items()}
    lists = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    return settings | lists | {"m_conv": float(settings["m_conv"])}


def prior_settings(config: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return each prior's settings under published names, by level (0 is the finest), from the port's config.json."""
    single = [config.get(name) for name in ("prior_0", "prior_1", "prior_2")]
    given = config.get("prior_config_list") or [prior for prior in single if isinstance(prior, Mapping)]
    found = {}
    for index, prior in enumerate(given):
        hps = {ours: prior.get(theirs, default) for ours, (theirs, default) in _PRIOR.items()}
        hps |= {"attn_order": _order(prior), "level": len(given) - 1 - index, "cond_m_conv": float(hps["cond_m_conv"])}
        hps["single_enc_dec"] = bool(prior.get("is_encoder_decoder", True) and hps["n_tokens"])
        if (encoder := prior.get("encoder_config")) and hps["n_tokens"] and not hps["single_enc_dec"]:
            hps |= {f"prime_{n}": encoder.get(*_PRIOR[f"prior_{n}" if n in ("width", "depth") else n]) for n in _ENCODER}
            hps["prime_attn_order"] = _order(encoder)
        found[hps["level"]] = hps
    return found
