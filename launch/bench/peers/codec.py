"""Seconds of transformers' Jukebox codec, for `jukebox bench codec`.

This script runs in the peer's own environment and is never imported. It takes one json argument. With `make` it writes random
weights of the published configuration to that path and ends. Otherwise it loads the weights. For each line on stdin it then
runs the case once (encode, or decode from `level`) and prints the seconds. At the end it writes the results and prints its peak
memory.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["TQDM_DISABLE"] = "1"


def main(job: dict) -> None:
    import numpy as np
    import torch
    from transformers.models.deprecated.jukebox import JukeboxVQVAE, JukeboxVQVAEConfig

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    audio = torch.from_numpy(np.load(job["audio"])).mT  # (1, T, 1)
    config = JukeboxVQVAEConfig(
        nb_discrete_codes=2048,
        embed_dim=64,
        levels=3,
        multipliers=[2, 1, 1],
        res_conv_depth=4,
        res_conv_width=32,
        res_convolution_multiplier=1,
        res_dilation_growth_rate=3,
        res_downs_t=[3, 2, 2],
        res_strides_t=[2, 2, 2],
        sample_length=audio.shape[1],
        lmu=0.99,
        commit=0.02,
    )
    codec = JukeboxVQVAE(config).eval()
    with torch.no_grad():
        if "make" in job:
            for encoder, block in zip(codec.encoders, codec.bottleneck.level_blocks):
                latents = encoder(audio[:, : 2**15].mT)[-1][0].T  # the codebook gets the mean and deviation of the latents
                block.codebook.copy_(latents.mean(0) + latents.std(0) * torch.randn_like(block.codebook))
            torch.save(codec.state_dict(), job["make"])
            return
        codec.load_state_dict(torch.load(job["weights"], weights_only=True))
        codes = [torch.from_numpy(np.load(path)).long() for path in job["codes"]]
        level, made = job.get("level", 0), []

        def run() -> list:
            if job["case"] == "encode":
                return codec.encode(audio)
            return [codec.decode(codes[level:], start_level=level).mT]

        print("ready", flush=True)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            made = run()
            print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    np.savez(job["out"], *[each.numpy() for each in made])
    print(json.dumps({"peak_mb": peak}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
