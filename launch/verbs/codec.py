"""`jukebox codec`: sound to codes, codes to sound, or both at once to hear what a level keeps of a song.

A file goes through in blocks, read, resampled, encoded, decoded and written, so that memory does not grow with its
length (a second of the finest published level adds 11 kB of codes). Codes are written as `jukebox/sampling/code_file.py` says;
decoding gives exactly the samples that were encoded, with silence after the last whole code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_prep.errors import UserError
from jukebox.sampling.code_file import Codes

if TYPE_CHECKING:
    from torch import Tensor

    from data_prep.audio.blocks import BlockReader
    from vqvae.jukebox.vqvae import VQVAE

OnProgress = Callable[[float], object]  # told the seconds of sound that have gone through, for the bar


def encode_file(
    codec: VQVAE, source: Path, target: Path, levels: Collection[int], name: str = "", on_progress: OnProgress = float
) -> int:
    """Write the codes of a sound file, stamped with the codec's `name`; how many channels the file had."""
    import numpy as np

    from vqvae.jukebox.stream import encode_stream

    # One growing buffer a level: many small arrays kept among large ones that come and go would tear the heap to shreds.
    parts = {level: bytearray() for level in levels}
    with _open(codec, source) as reader:
        for piece in encode_stream(codec, _sound(reader, codec, on_progress), levels):
            for level, codes in piece.items():
                parts[level] += codes.cpu().numpy().astype(np.uint16).tobytes()
        joined = {level: np.frombuffer(codes, np.uint16) for level, codes in parts.items()}
        Codes(joined, reader.sample_rate, reader.samples, name).save(target)
        return reader.source_channels


def decode_file(
    codec: VQVAE, source: Path, target: Path, level: int, name: str = "", on_progress: OnProgress = float
) -> int:
    """Write the sound of a codes.npz, exactly its `samples`, from the codes of one level; its channels."""
    import numpy as np
    import torch

    from data_prep.audio.blocks import BlockWriter
    from vqvae.jukebox.stream import decode_stream

    codes, rate, hop = Codes.load(source), codec.spec.sample_rate, codec.spec.hops[level]
    if level not in codes.levels:
        raise UserError(f"{source} has no codes of level {level}; it has {', '.join(map(str, sorted(codes.levels)))}")
    if codes.sample_rate != rate or len(codes.levels[level]) != codes.samples // hop:
        raise UserError(
            f"{source}: {len(codes.levels[level])} codes for {codes.samples} samples at {codes.sample_rate} Hz; this "
            f"codec writes one for {hop} samples at {rate} Hz: give the --model that encoded it"
        )
    if name and codes.codec and codes.codec != name:
        print(f"{source}: written by codec {codes.codec}, read by {name}: what is heard may be noise", file=sys.stderr)
    device, row = next(codec.parameters()).device, codes.levels[level]
    pieces = (torch.from_numpy(row[i : i + 2**14].astype(np.int64)).to(device) for i in range(0, len(row) or 1, 2**14))
    with BlockWriter(target, codec.spec.channels, rate) as writer:
        for audio in decode_stream(codec, pieces, level):
            on_progress(audio.shape[-1] / rate)
            writer.write(audio.cpu().numpy())
        writer.fill(codes.samples)
    return codec.spec.channels


def reconstruct_file(codec: VQVAE, source: Path, target: Path, level: int, on_progress: OnProgress = float) -> int:
    """Write what one level keeps of a sound file, its length to the sample; how many channels the file had."""
    from data_prep.audio.blocks import BlockWriter
    from vqvae.jukebox.stream import decode_stream, encode_stream

    with _open(codec, source) as reader, BlockWriter(target, codec.spec.channels, codec.spec.sample_rate) as writer:
        codes = (piece[level] for piece in encode_stream(codec, _sound(reader, codec, on_progress), [level]))
        for audio in decode_stream(codec, codes, level):
            writer.write(audio.cpu().numpy())
        writer.fill(reader.samples)
        return reader.source_channels


def _open(codec: VQVAE, source: Path) -> BlockReader:
    from data_prep.audio.blocks import BlockReader

    return BlockReader(source, sample_rate=codec.spec.sample_rate, channels=codec.spec.channels)


def _sound(reader: BlockReader, codec: VQVAE, on_progress: OnProgress) -> Iterator[Tensor]:
    import torch

    device = next(codec.parameters()).device
    for block in reader:
        on_progress(block.shape[1] / reader.sample_rate)
        yield torch.from_numpy(block).to(device)


def find_files(what: str, source: Path, out: str) -> list[tuple[Path, Path]]:
    """Pairs (file, what to make of it): of one file beside it, of a folder's files in a folder of the same shape."""
    from data_prep.audio.audio import AUDIO_SUFFIXES

    reads = {".npz"} if what == "decode" else AUDIO_SUFFIXES
    suffix, past = ".npz" if what == "encode" else ".wav", what.removesuffix("e") + "ed"
    if source.is_dir():
        target = Path(out) if out else source.with_name(f"{source.resolve().name}_{past}")
        found = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in reads)
        if not found:
            raise UserError(f"{source} has no files to {what}; expected {', '.join(sorted(reads))}")
        stems = [p.relative_to(source).with_suffix("") for p in found]
        # song.mp3 beside song.flac: both keep their suffix
        return [
            (p, target / (f"{p.relative_to(source)}{suffix}" if stems.count(stem) > 1 else f"{stem}{suffix}"))
            for p, stem in zip(found, stems)
        ]
    if not source.exists():
        raise UserError(f"there is no file or folder {source}; give a sound file, a codes.npz to decode, or a folder")
    target = source.with_suffix(suffix if what == "encode" else f".{past}{suffix}")
    if out:
        target = Path(out) / source.with_suffix(suffix).name if Path(out).is_dir() or out.endswith("/") else Path(out)
    if target.resolve() == source.resolve():
        raise UserError(f"{source} would be overwritten by what is made of it; give another --out")
    return [(source, target)]


def codec(
    what: Literal["encode", "decode", "reconstruct"],
    source: str,
    *,
    model: str,
    out: str = "",
    level: int = -1,
    levels: str = "",
    threads: int = 0,
    device: str = "auto",
) -> list[Path]:
    """Turn sound files into codes (encode), codes into sound (decode), or sound into what a level keeps (reconstruct).

    Any length in constant memory. Of a folder every file is taken; one that fails is told at the end and costs no other.

    what: encode (sound to codes.npz), decode (codes.npz to wav) or reconstruct (sound to wav)
    source: a sound file, a codes.npz to decode, or a folder of them
    model: the model folder that holds the trained codec
    out: the file to write, or the folder for those of a folder; empty: beside the source
    level: level to decode or reconstruct from, 0 (finest) to 2 (coarsest); -1: the finest of the model
    levels: levels to encode, such as 2,1; empty: all that are trained
    threads: CPU threads; 0: all cores
    device: cpu, cuda, cuda:1, ..; auto: cuda where there is one
    """
    import torch

    from jukebox.model.folder import Jukebox
    from launch.training.train import chosen_levels

    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    jukebox = Jukebox.from_pretrained(model)
    trained = jukebox.trained_levels() or range(len(jukebox.hops))
    wanted = chosen_levels(levels if what == "encode" else str(level if level >= 0 else min(trained)), trained)
    files, loaded = find_files(what, Path(source), out), jukebox.codec(wanted).to(device)
    name, started = jukebox.codec_hash(), time.monotonic()

    def run(path: Path, target: Path, on_progress: OnProgress) -> int:
        if what == "encode":
            return encode_file(loaded, path, target, wanted, name, on_progress)
        if what == "decode":
            return decode_file(loaded, path, target, wanted[0], name, on_progress)
        return reconstruct_file(loaded, path, target, wanted[0], on_progress)

    done, seconds, failed = _run_all(run, files, f"{what} level {', '.join(map(str, wanted))}")
    if failed and len(files) == 1:
        raise failed[0]
    for error in failed:
        print(f"left out: {error}", file=sys.stderr)
    if not done:
        raise UserError(f"none of the {len(files)} files in {source} could be used; the reasons are above")
    channels = loaded.spec.channels
    if mixed := sum(each != channels for each in done.values()):
        print(f"{mixed} of {len(done)} had another number of channels than the codec's {channels}: mixed to {channels}")
    took = max(time.monotonic() - started, 1e-9)
    where = files[0][1] if len(files) == 1 else out or files[0][1].parent
    print(
        f"{len(done)} of {len(files)}, {seconds:.0f} s of sound in {took:.1f} s ({seconds / took:.1f} s a second): {where}"
    )
    return list(done)


def _run_all(
    run: Callable[[Path, Path, OnProgress], int], files: Sequence[tuple[Path, Path]], title: str
) -> tuple[dict[Path, int], float, list[UserError]]:
    """Run over the files under one bar: what was made with its source's channels, seconds of sound, and what failed."""
    from launch.training.log import progress

    done, failed, seconds = {}, [], 0.0
    with progress(round(sum(_expected_seconds(path) for path, _ in files)), title, unit="s") as bar:

        def on_progress(more: float) -> None:
            nonlocal seconds
            seconds += more
            bar.update(int(seconds) - bar.n)

        for path, target in files:
            try:
                done[target] = run(path, target, on_progress)
            except (UserError, ValueError) as error:
                failed.append(UserError(str(error) if str(path) in str(error) else f"{path}: {error}"))
    return done, seconds, failed


def _expected_seconds(path: Path) -> float:
    from data_prep.audio.blocks import declared_seconds

    if path.suffix.lower() != ".npz":
        return declared_seconds(path)
    try:
        codes = Codes.load(path)
    except UserError:  # told when its turn comes
        return 0.0
    return codes.samples / codes.sample_rate
