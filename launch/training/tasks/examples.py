"""Examples of a training: a few seconds of audio and a picture, written at regular steps.

For a codec, the examples are the reconstructed start of a training song and the codebook. For a prior, the examples are a
window, sampled with the labels and lyrics of a training song, and the attention to the lyrics if the prior has lyrics. The
files `step_0001000_...` are in MODEL/training/<part>/examples. `jukebox report train` shows the newest examples. Examples are
sent to wandb if a project is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data_prep.audio.audio import write_wav
from jukebox.report.spectrograms import heat
from jukebox.song import PreparedSong, window_conditions
from priors.noise import Generators
from priors.prior import Known, Prior, ScoresLyrics, Window, sample_window
from priors.registry import PRIOR_PARAMS
from vqvae.codec import Codec

if TYPE_CHECKING:
    from launch.corpus.pcm import Pcm

SECONDS = 4.0  # largest length of audio, seconds


@torch.no_grad()
def codec_examples(model: Codec, stream: str, songs: Pcm, device: torch.device, folder: Path, step: int) -> list[Path]:
    """Write the reconstructed start of the first training song, and a picture of the codebook. Return the paths.

    The picture has one column per code, the most used code first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rate, hop = model.spec.sample_rate, model.spec.stream(stream).hop
    length = min(songs.lengths[0], int(SECONDS * rate)) // hop * hop
    sound = torch.from_numpy(songs.crop(0, 0, length))[None].to(device)
    kept = model.decode_long(model.encode_long(sound, (stream,))[stream], stream)
    files = {folder / "original.wav": sound, folder / f"step_{step:07d}_reconstruction.wav": kept}
    for path, wave in files.items():
        write_wav(path, wave[0].cpu().numpy(), rate)
    book = next((m for m in model.modules() if hasattr(m, "k_elem")), None)
    if book is None:
        return [*files]
    vectors = book.k[book.k_elem.argsort(descending=True)]  # type: ignore[union-attr,index]
    return [*files, heat(vectors.T.cpu().numpy(), folder / f"step_{step:07d}_codebook.png")]


def nothing_known(model: Prior, codec: Codec, length: int, device: torch.device) -> Known:
    """Create a window with one batch row and no known frames, for unconditional sampling."""
    sequences, mask = {}, {}
    for name in model.spec.writes:
        stream, frames = codec.spec.stream(name), length * model.config.frames(name) // model.config.n_ctx
        dtype = torch.float32 if stream.bins is None else torch.long
        sequences[name] = torch.zeros(1, frames, *stream.frame_shape, dtype=dtype, device=device)
        mask[name] = torch.zeros(1, frames, dtype=torch.bool, device=device)
    return Known(sequences, mask)


@torch.no_grad()
def prior_examples(
    model: Any, codec: Codec, codes: Any, song: str, prepared: PreparedSong, folder: Path, step: int, seed: int,
    device: torch.device,
) -> list[Path]:  # fmt: skip
    """Write a decoded window, sampled with the conditions of a training song, and its attention to the lyrics."""
    folder.mkdir(parents=True, exist_ok=True)
    config, finest = model.config, model.spec.writes[0]
    length = min(config.n_ctx, int(SECONDS * config.sample_rate) // config.hop)
    above = None
    for name in set(model.spec.reads) - set(model.spec.writes):
        above = codes.read(song, name, 0, config.n_ctx // config.ratio)
    cond = window_conditions(prepared, config, 0, above).to(device)
    # the same random numbers at every step, so that changes are due to training
    noise = Generators([torch.Generator().manual_seed(seed)])
    window = Window(0, length, max(length, prepared.total // config.hop))
    params = dict.fromkeys(model.spec.writes, PRIOR_PARAMS.load(config.kind)())
    made = sample_window(model, window, nothing_known(model, codec, length, device), cond, noise, params)[finest]
    files = [folder / f"step_{step:07d}_sample.wav"]
    write_wav(files[0], codec.decode_long(made.cpu(), finest)[0].numpy(), config.sample_rate)
    if isinstance(model, ScoresLyrics) and (layers := model.lyric_layers()):
        weights = model.lyric_attention(made, cond, layers[-1])[0].mean(dim=0)  # (H, T, N) -> (T, N)
        files.append(heat(weights.T.cpu().float().numpy(), folder / f"step_{step:07d}_attention.png"))
    return files
