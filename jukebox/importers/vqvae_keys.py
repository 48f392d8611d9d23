"""Names and settings of the published checkpoints, in our words and back.

The released files are state dicts of the 2020 code ("Jukebox: A Generative Model for Music", arXiv:2005.00341). Each
table is a list of pairs (their pattern, our pattern) with numbered fields, read in both directions: every published name
has exactly one name here and the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vqvae.jukebox.vqvae import VQVAE, VQVAEConfig

# L level, S stage, I step (one halving), D residual block, W weight or bias. A published stage is one list: in an
# encoder its last entry is the projection out; in a decoder entry 0 is the projection in, so steps count from 1.
_VQVAE = [
    ("bottleneck.level_blocks.{L}.k", "levels.{L}.codebook.k"),
    ("encoders.{L}.level_blocks.{S}.model.{I}.0.{W}", "levels.{L}.encoder.stages.{S}.steps.{I}.conv.{W}"),
    (
        "encoders.{L}.level_blocks.{S}.model.{I}.1.model.{D}.model.1.{W}",
        "levels.{L}.encoder.stages.{S}.steps.{I}.stack.blocks.{D}.dilated.{W}",
    ),
    (
        "encoders.{L}.level_blocks.{S}.model.{I}.1.model.{D}.model.3.{W}",
        "levels.{L}.encoder.stages.{S}.steps.{I}.stack.blocks.{D}.pointwise.{W}",
    ),
    ("encoders.{L}.level_blocks.{S}.model.{I}.{W}", "levels.{L}.encoder.stages.{S}.out.{W}"),
    ("decoders.{L}.level_blocks.{S}.model.0.{W}", "levels.{L}.decoder.stages.{S}.inlet.{W}"),
    (
        "decoders.{L}.level_blocks.{S}.model.{I}.0.model.{D}.model.1.{W}",
        "levels.{L}.decoder.stages.{S}.steps.{I-1}.stack.blocks.{D}.dilated.{W}",
    ),
    (
        "decoders.{L}.level_blocks.{S}.model.{I}.0.model.{D}.model.3.{W}",
        "levels.{L}.decoder.stages.{S}.steps.{I-1}.stack.blocks.{D}.pointwise.{W}",
    ),
    ("decoders.{L}.level_blocks.{S}.model.{I}.1.{W}", "levels.{L}.decoder.stages.{S}.steps.{I-1}.conv.{W}"),
    ("decoders.{L}.out.{W}", "levels.{L}.decoder.out.{W}"),
]

_FIELD = re.compile(r"\{([A-Z])(?:-(\d+))?\}")


def rename(name: str, table: Sequence[tuple[str, str]], extra: Mapping[str, str] | None = None) -> str | None:
    """`name` moved from the left to the right column of `table`, None if no row fits; `extra` gives fields left out."""
    for source, target in table:
        pattern = re.escape(_FIELD.sub(r"<\1>", source))
        for field in re.findall(r"<([A-Z])>", pattern):
            pattern = pattern.replace(f"<{field}>", f"(?P<{field}>{'weight|bias' if field == 'W' else '[0-9]+'})")
        if found := re.fullmatch(pattern, name):
            shifts = {field: int(shift or 0) for field, shift in _FIELD.findall(source)}
            values = {f: v if f == "W" else str(int(v) + shifts[f]) for f, v in found.groupdict().items()}
            values = {**(extra or {}), **values}
            return "".join(_fill(target, values))
    return None


def _fill(target: str, values: Mapping[str, str]) -> Iterator[str]:
    """The pieces of `target` with every field replaced by its value, less the shift that the field names."""
    end = 0
    for field in _FIELD.finditer(target):
        value = values[field[1]]
        yield target[end : field.start()]
        yield str(int(value) - int(field[2])) if field[2] else value
        end = field.end()
    yield target[end:]


def vqvae_key(published: str) -> str:
    """Our name of a published VQ-VAE tensor; KeyError if it is none."""
    if (ours := rename(published.removeprefix("module."), _VQVAE)) is None:
        raise KeyError(f"{published} is no tensor of a published VQ-VAE")
    return ours


def published_vqvae_key(ours: str, downs_t: Sequence[int]) -> str:
    """The published name of one of our VQ-VAE tensors, `vqvae_key` undone; KeyError for what the files do not hold."""
    # a stage's projection out is numbered after its halvings, which our name does not count
    stage = re.search(r"\.encoder\.stages\.(\d+)\.", ours)
    extra = {"I": str(downs_t[int(stage[1])])} if stage else {}
    if (published := rename(ours, [(b, a) for a, b in _VQVAE], extra)) is None:
        raise KeyError(f"{ours} has no name in a published VQ-VAE")
    return published


def published_from_port(name: str, downs_t: Sequence[int]) -> str:
    """The published name of a codec's tensor in transformers' port, whose steps are numbered two apart."""
    stage = r"((?:en|de)coders\.\d+\.level_blocks\.(\d+))\."
    if found := re.fullmatch(stage + r"proj_(in|out)\.(\w+)", name):
        return f"{found[1]}.model.{0 if found[3] == 'in' else downs_t[int(found[2])]}.{found[4]}"
    if found := re.fullmatch(
        stage + r"(down|up)sample_block\.(\d+)\.(?:resnet_block\.(\d+)\.conv1d_([12])\.)?(\w+)", name
    ):
        entry, part = divmod(int(found[4]), 2)
        inner = f"model.{found[5]}.model.{1 if found[6] == '1' else 3}." if found[5] else ""
        return f"{found[1]}.model.{entry + (found[3] == 'up')}.{part}.{inner}{found[7]}"
    return re.sub(r"\.codebook$", ".k", name)


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


# Settings of the published sets, as far as they differ from the defaults.
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
    """Our configuration of a published set of hyper-parameters; what `hps` leaves out has the published default."""
    h = {**VQVAE_DEFAULTS, **{name: value for name, value in hps.items() if name in VQVAE_DEFAULTS}}
    weights = {
        "l1": (1.0, 0.0, 0.0),
        "l2": (0.0, 1.0, 0.0),
        "linf": (0.0, 0.0, 1.0),
        "lmix": (h["lmix_l1"], h["lmix_l2"], h["lmix_linf"]),
    }
    if h["loss_fn"] not in weights:
        raise ValueError(f"loss_fn {h['loss_fn']!r}: the published ones are {', '.join(weights)}")
    l1, l2, linf = weights[h["loss_fn"]]
    levels = h["levels"]
    return VQVAEConfig(
        sample_rate=h["sr"],
        downs_t=h["downs_t"][:levels],
        strides_t=h["strides_t"][:levels],
        emb_width=h["emb_width"],
        bins=h["l_bins"],
        width=h["width"],
        depth=h["depth"],
        multipliers=h["hvqvae_multipliers"] or (1,) * levels,
        m_conv=h["m_conv"],
        dilation_growth_rate=h["dilation_growth_rate"],
        dilation_cycle=h["dilation_cycle"],
        reverse_decoder_dilation=h["vqvae_reverse_decoder_dilation"],
        mu=h["l_mu"],
        threshold=h["revival_threshold"],
        reset_restarted=False,
        l1=l1,
        l2=l2,
        linf=linf,
        linf_k=h["linf_k"],
        spectral=h["spectral"],
        multispectral=h["multispectral"],
        commit=h["commit"],
        multispectral_stfts=tuple(
            zip(h["multispec_loss_n_fft"], h["multispec_loss_hop_length"], h["multispec_loss_window_size"])
        ),
        spectral_is_convergence=not h["use_nonrelative_specloss"],
    )


def vqvae_state(published: Mapping[str, Tensor], config: VQVAEConfig) -> dict[str, Tensor]:
    """A state dict for our VQVAE from the published one; ValueError naming the tensor that is missing or misshapen.

    The published files lack the codebook's running sums: they start as if each code were chosen once a batch.
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
