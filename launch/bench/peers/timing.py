"""Codes per second of transformers' Jukebox prior, for `jukebox bench` and `jukebox gpu-check`.

`jukebox bench` runs this script in the peer's own environment, and `jukebox gpu-check` imports it. The script takes one json
argument (width, depth, heads, n_ctx, bins, batch, threads, seconds). It builds the trunk of that size with random weights and
no conditions, samples windows, and prints the best rate. By default attention is dense, the MLP is four times as wide as the
trunk, and a whole window is sampled in float32 on the CPU.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time


def main(size: dict) -> float:
    """Return the codes per second of all samples together. The fastest of the windows that fit into `seconds` counts."""
    import torch
    from transformers.models.deprecated.jukebox import configuration_jukebox
    from transformers.models.deprecated.jukebox import modeling_jukebox as peer

    torch.set_num_threads(size["threads"])
    torch.manual_seed(0)
    peer.tqdm = functools.partial(peer.tqdm, disable=True)  # a progress bar would affect the measurement
    peer.ATTENTION_PATTERNS["full_dense_attention"] = lambda layer: "dense_attn"  # the released one uses an undefined name
    config = configuration_jukebox.JukeboxPriorConfig(
        hidden_size=size["width"],
        num_layers=size["depth"],
        n_heads=size["heads"],
        n_ctx=size["n_ctx"],
        music_vocab_size=size["bins"],
        attention_multiplier=size.get("attention", 1.0),
        mlp_multiplier=size.get("mlp", 4.0),
        attention_pattern=size.get("pattern", "full_dense_attention"),
        blocks=size.get("blocks")
        or math.gcd(size["n_ctx"], 64),  # dense attention ignores the number, but it must divide the window
    )
    device, tokens = torch.device(size.get("device", "cpu")), size.get("tokens", size["n_ctx"] - 1)
    with device:
        prior = peer.JukeboxConditionalAutoregressive(config).eval().to(getattr(torch, size.get("dtype", "float32")))
    for parameter in prior.parameters():  # some weights are uninitialised and may be nan
        torch.nn.init.normal_(parameter, std=0.02)
    prior.fc_proj_out.device = device  # the peer's code reads this attribute, which a Linear does not have
    best, end = float("inf"), time.perf_counter() + size["seconds"]
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        with torch.no_grad():
            prior.sample(size["batch"], sample_tokens=tokens).cpu()
        best = min(best, time.perf_counter() - began)
    return size["batch"] * tokens / best


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
