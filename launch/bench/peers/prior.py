"""Seconds of transformers' Jukebox prior, for `jukebox bench prior` and `jukebox bench sample`.

This script runs in the peer's own environment and is never imported. It takes one json argument. With `make` it writes random
weights of the top prior of `shape` to that path and ends. Otherwise it loads the weights. For each line on stdin it then runs a
forward and a backward pass in float32 and prints the seconds. At the end it writes loss and gradients and prints its peak
memory. With `sample` it samples the case of each line instead: `tokens` codes after a prompt of `prime` codes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["TQDM_DISABLE"] = "1"


def main(job: dict) -> None:
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    prior = build_prior(job["shape"], job["bins"])
    if "make" in job:
        for parameter in prior.parameters():  # some weights are uninitialised and may be nan
            torch.nn.init.normal_(parameter, std=0.02)
        torch.save(prior.state_dict(), job["make"])
        return
    prior.load_state_dict(torch.load(job["weights"], weights_only=True))
    prior.train("sample" not in job)
    codes, labels = torch.tensor([job["codes"]]), torch.tensor([[*job["timing"], job["artist"], *job["genres"]]])
    (run_sampling if "sample" in job else run_training)(prior, codes, labels, job)


def build_prior(shape: dict, bins: int) -> Any:
    """Return the top prior of a shape in the published layout, with random weights."""
    import torch
    from transformers.models.deprecated.jukebox import JukeboxPrior, JukeboxPriorConfig

    config = JukeboxPriorConfig(
        level=0,  # the peer counts levels from the top
        mask=True,  # without the mask nothing is causal
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
        music_vocab_size=bins,
        sampling_rate=shape["sr"],
    )
    prior = JukeboxPrior(config)
    prior.get_encoder_loss = lambda *_: torch.zeros(())  # the original method fails without lyrics
    return prior


def run_sampling(prior: Any, codes: Any, labels: Any, _: dict) -> None:
    """Sample the case of each line, then print the peak memory."""
    import torch

    def sample(line: str) -> None:
        case = json.loads(line)
        batch, prime = case["batch"], case["prime"]
        prompt = codes[:, :prime].repeat(batch, 1) if prime else None
        with torch.no_grad():
            prior.sample(batch, prompt, None, labels.repeat(batch, 1), sample_tokens=prime + case["tokens"])

    time_lines(sample)
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)


def run_training(prior: Any, codes: Any, labels: Any, job: dict) -> None:
    """Run a forward and a backward pass for each line, then write loss and gradients and print the peak memory."""
    import torch

    made = []

    def step(_: str) -> None:
        prior.zero_grad(set_to_none=True)
        loss, _ = prior.forward_tokens(codes, [], labels)
        loss.backward()
        made[:] = [loss.item()]

    time_lines(step)
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    torch.save({name: p.grad for name, p in prior.named_parameters()}, job["out"])
    print(json.dumps({"peak_mb": peak, "loss": made[0]}), flush=True)


def time_lines(run: Callable[[str], None]) -> None:
    """Print "ready", then for each line on stdin the wall and CPU seconds of `run`."""
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run(line)
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
