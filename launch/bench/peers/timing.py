"""Codes a second of transformers' Jukebox prior: run by `jukebox bench` in the peer's own environment, never imported.

It takes one json argument (width, depth, heads, n_ctx, bins, batch, threads, seconds), builds the trunk of that size
with random weights (dense attention, MLP four times as wide, no conditions), draws windows, prints the best rate.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time


def main(size: dict) -> float:
    """Codes a second of all samples together, the best window of those that fit into `seconds`."""
    import torch
    from transformers.models.deprecated.jukebox import configuration_jukebox
    from transformers.models.deprecated.jukebox import modeling_jukebox as peer

    torch.set_num_threads(size["threads"])
    torch.manual_seed(0)
    peer.tqdm = functools.partial(peer.tqdm, disable=True)  # its progress bar would cost what we measure
    peer.ATTENTION_PATTERNS["full_dense_attention"] = lambda layer: "dense_attn"  # released with a name that is nowhere
    config = configuration_jukebox.JukeboxPriorConfig(
        hidden_size=size["width"],
        num_layers=size["depth"],
        n_heads=size["heads"],
        n_ctx=size["n_ctx"],
        music_vocab_size=size["bins"],
        attention_multiplier=1.0,
        mlp_multiplier=4.0,
        attention_pattern="full_dense_attention",
        blocks=math.gcd(size["n_ctx"], 64),  # of no effect in dense attention, but it must divide the window
    )
    prior = peer.JukeboxConditionalAutoregressive(config).eval()
    for parameter in prior.parameters():  # some are left as the memory was, and may be nan
        torch.nn.init.normal_(parameter, std=0.02)
    prior.fc_proj_out.device = torch.device("cpu")  # which its code asks a Linear for
    best, end = float("inf"), time.perf_counter() + size["seconds"]
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        with torch.no_grad():
            prior.sample(size["batch"], sample_tokens=size["n_ctx"] - 1)
        best = min(best, time.perf_counter() - began)
    return size["batch"] * (size["n_ctx"] - 1) / best


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
