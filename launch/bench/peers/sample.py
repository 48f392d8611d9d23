"""Codes drawn by transformers' Jukebox prior: run by `jukebox bench sample` in the peer's own environment, never imported.

It takes one json argument, loads the weights that `bench_prior_peer.py` made, and does the case of every line on stdin:
a prompt of `prime` codes is heard, then `tokens` are drawn. Its seconds are printed; at the end its peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

os.environ["TQDM_DISABLE"] = "1"


def main(job: dict) -> None:
    import torch
    from transformers.models.deprecated.jukebox import JukeboxPrior, JukeboxPriorConfig

    torch.set_num_threads(job["threads"])
    shape = job["shape"]
    config = JukeboxPriorConfig(
        level=0,  # its levels count from the top
        mask=True,  # without it nothing is causal
        attention_pattern="raw_column_previous_row_attention",
        merged_decoder=True,
        is_encoder_decoder=False,
        nb_relevant_lyric_tokens=0,
        metadata_conditioning=True,
        n_ctx=shape["n_ctx"],
        hidden_size=shape["prior_width"],
        num_layers=shape["prior_depth"],
        n_heads=shape["heads"],
        blocks=shape["blocks"],
        metadata_dims=list(shape["y_bins"]),
        timing_dims=shape["t_bins"],
        max_nb_genres=shape["max_bow_genre_size"],
        min_duration=shape["min_duration"],
        max_duration=shape["max_duration"],
        music_vocab_size=job["bins"],
        sampling_rate=shape["sr"],
    )
    prior = JukeboxPrior(config).eval()
    prior.load_state_dict(torch.load(job["weights"], weights_only=True))
    labels = torch.tensor([[*job["timing"], job["artist"], *job["genres"]]])
    print("ready", flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        batch, prime = case["batch"], case["prime"]
        codes = torch.tensor([job["codes"][:prime]]).repeat(batch, 1) if prime else None
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            prior.sample(batch, codes, None, labels.repeat(batch, 1), sample_tokens=prime + case["tokens"])
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
