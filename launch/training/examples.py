"""What a training sounds and looks like on its way: a few seconds of sound and a picture, every so many steps.

A codec leaves the start of a training song as it keeps it, and its codebook; a prior a window it has sung itself, with the labels and
lyrics of a training song, and, where it hears lyrics, how its steps listen to the letters. The files, `step_0001000_...`, lie in
MODEL/training/<part>/examples; `jukebox report train` shows the newest of them, and wandb gets them where a project is named.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from data_prep.audio.audio import write_wav
from jukebox.evaluation.attention import lyric_layers
from jukebox.report.spectrograms import heat
from jukebox.song import window_conditions
from launch.training.loop import Task, fold
from launch.training.tasks import PriorTask, VQVAETask
from priors.prior import SamplingParams
from vqvae.jukebox.stream import decode_long, encode_long
from vqvae.jukebox.vqvae import VQVAE

SECONDS = 4.0  # of sound, at most


@torch.no_grad()
def write_examples(task: Task, model: nn.Module, folder: Path, step: int) -> list[Path]:
    """The files that show what `model`, that of the task, can do after `step` steps; none for a task that is no codec or prior."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f"step_{step:07d}"
    if isinstance(task, VQVAETask):
        return codec_examples(task, model, folder, head)
    return prior_examples(task, model, folder, head) if isinstance(task, PriorTask) else []


def codec_examples(task: VQVAETask, model: nn.Module, folder: Path, head: str) -> list[Path]:
    """The start of the first training song as the level keeps it, and the codebook: a column a code, the most used first."""
    assert task.songs is not None and isinstance(model, VQVAE)
    rate, hop = model.config.sample_rate, model.config.hops[task.level]
    length = min(task.songs.lengths[0], int(SECONDS * rate)) // hop * hop
    sound = torch.from_numpy(task.songs.crop(0, 0, length))[None].to(task.device)
    kept = decode_long(model, encode_long(model, sound, (task.level,))[task.level], task.level)
    book = model.level(task.level).codebook
    vectors = book.k[book.k_elem.argsort(descending=True)]
    files = {folder / "original.wav": sound, folder / f"{head}_reconstruction.wav": kept}
    for path, wave in files.items():
        write_wav(path, wave[0].cpu().numpy(), rate)
    picture = heat(vectors.T.cpu().numpy(), folder / f"{head}_codebook.png")
    return [*files, picture]


def prior_examples(task: PriorTask, model: nn.Module, folder: Path, head: str) -> list[Path]:
    """A window from nothing under the conditions of the first training song, decoded, and its steps over the letters."""
    config, codec = task.config, task.jukebox.codec([task.level])
    length = min(config.n_ctx, int(SECONDS * config.sample_rate) // config.hop)
    above = None
    if config.above:
        above = task.codes.read(task.songs[0], task.level + 1, 0, config.n_ctx // config.above.ratio)
    cond = window_conditions(task.prepared[0], config, 0, above).to(task.device)
    rngs = [
        torch.Generator().manual_seed(fold(task.seed, task.level))
    ]  # the same numbers at every step: what changes has learned
    nothing = {task.level: torch.zeros(1, 0, dtype=torch.long, device=task.device)}
    state = model.start(cond, nothing, rngs, SamplingParams())  # type: ignore[operator]
    codes = torch.cat([part[task.level] for part in model.sample(state, length)], dim=1)  # type: ignore[operator]
    files = [folder / f"{head}_sample.wav"]
    write_wav(files[0], decode_long(codec, codes.cpu(), task.level)[0].numpy(), config.sample_rate)
    layers = lyric_layers(model)  # type: ignore[arg-type]
    if layers:
        weights = model.alignment(codes, cond, layers[-1])[0].mean(dim=0)  # type: ignore[operator]  # (H, T, N) -> (T, N)
        files.append(heat(weights.T.cpu().float().numpy(), folder / f"{head}_attention.png"))
    return files
