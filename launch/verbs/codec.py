"""`jukebox codec`: encode audio to codes, decode codes to audio, or reconstruct audio from one level.

A file is read, resampled, encoded, decoded and written in blocks. So memory grows with the length only by the codes, 11 kB per
second of the finest published level. `jukebox/model/code_file.py` defines the format of codes. Decoding returns as many samples
as were encoded, with silence after the last whole code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_prep.audio.blocks import BlockReader, declared_seconds
from data_prep.audio.decoders import AUDIO_SUFFIXES
from data_prep.audio.folder import list_files, named
from data_prep.audio.writers import format_of, with_suffix, writing
from data_prep.errors import UserError, keeping
from jukebox.device import choose_device, computing_on
from jukebox.model.code_file import Codes
from jukebox.model.packed_codes import SUFFIX, PackedCodes
from jukebox.sampling.output_checks import OutputCheck
from launch.cli.parse import choose_by_level

if TYPE_CHECKING:
    from torch import Tensor

    from jukebox.model.info import ModelInfo
    from vqvae.codec import Codec

OnProgress = Callable[[float], object]  # called with the seconds of each finished block of audio


def encode_file(codec: Codec, source: Path, target: Path, hashes: Mapping[str, str], on_progress: OnProgress) -> int:
    """Encode an audio file to the streams in `hashes` (stream -> codes hash) and return the number of channels of the file."""
    streams = {name: codec.spec.stream(name) for name in hashes}
    # One growing buffer per stream, because many small arrays between large temporary arrays would fragment the heap.
    parts = {name: bytearray() for name in streams}
    with _open(codec, source) as reader:
        for pieces in codec.encoder_stream(_sound(reader, codec, on_progress), list(streams)):
            for name, piece in pieces.items():
                parts[name] += streams[name].check(piece.cpu().numpy(), str(source)).tobytes()
        joined = {
            name: np.frombuffer(parts[name], stream.dtype).reshape(-1, *stream.frame_shape) for name, stream in streams.items()
        }
        Codes(joined, reader.sample_rate, reader.samples, hashes).save(target)
        reader.print_beyond()
        return reader.source_channels


def decode_file(codec: Codec, source: Path, target: Path, stream: str, info: ModelInfo, on_progress: OnProgress) -> int:
    """Decode one stream of a codes.npz, or of a file of `compress`, to audio, and return the number of channels.

    The audio has as many samples as were encoded. UserError if the codes do not fit the codec.
    """
    from vqvae.codec import as_tensor

    codes, first, last = _load(source, info, str(codec.device))
    rate, hop = codec.spec.sample_rate, codec.spec.stream(stream).hop
    if stream not in codes.streams:
        raise UserError(f"{source} has no codes of {stream}; it has {', '.join(sorted(codes.streams))}")
    frames = codec.spec.stream(stream).check(codes.streams[stream], str(source))
    if codes.sample_rate != rate or len(frames) != codes.samples // hop:
        raise UserError(
            f"{source}: {len(frames)} codes for {codes.samples} samples at {codes.sample_rate} Hz; this "
            f"codec writes one for {hop} samples at {rate} Hz: give the --model that encoded it"
        )
    if not codes.is_of(info):
        hashes = ", ".join(sorted(filter(None, set(codes.hashes.values()))))
        print(f"{source}: written by codec {hashes}, not by that of {info.folder}: the audio may be noise", file=sys.stderr)
    pieces = (as_tensor(frames[i : i + 2**14]).to(codec.device) for i in range(0, len(frames) or 1, 2**14))
    check = OutputCheck(rate, rate / codec.spec.stream(stream).hop)
    check.push_codes(frames)
    with writing(target, codec.spec.channels, rate) as writer:
        at = 0
        for audio in codec.decode_blocks(pieces, stream):
            on_progress(audio.shape[-1] / rate)
            writer.write(check.push(audio[:, max(0, first - at) : max(0, last - at)].cpu().numpy()))
            at += audio.shape[-1]
        writer.fill(last - first)
    _print_findings(target, check)
    return codec.spec.channels


def _load(source: Path, info: ModelInfo, device: str) -> tuple[Codes, int, int]:
    """Return the codes of a file, and first and last sample (exclusive) of the audio.

    Codes that `compress` did not keep are sampled.
    """
    if source.suffix.lower() != SUFFIX:
        codes = Codes.load(source)
        return codes, 0, codes.samples
    from jukebox.editing.packed import sample_missing
    from jukebox.model.folder import ModelFolder

    packed = PackedCodes.load(source)
    streams = sample_missing(ModelFolder(info), packed, source, device)
    whole = max(len(streams[name]) * info.spec.stream(name).hop for name in streams)
    return Codes(streams, packed.sample_rate, whole, packed.hashes), packed.skip, packed.skip + packed.samples


def reconstruct_file(codec: Codec, source: Path, target: Path, stream: str, on_progress: OnProgress = float) -> int:
    """Reconstruct an audio file from one stream with its exact length, and return the number of channels of the file."""
    with _open(codec, source) as reader, writing(target, codec.spec.channels, codec.spec.sample_rate) as writer:
        rate = codec.spec.sample_rate
        check = OutputCheck(rate, rate / codec.spec.stream(stream).hop)

        def codes() -> Iterator[Tensor]:
            for piece in codec.encoder_stream(_sound(reader, codec, on_progress), [stream]):
                check.push_codes(piece[stream].cpu().numpy())
                yield piece[stream]

        for audio in codec.decode_blocks(codes(), stream):
            writer.write(check.push(audio.cpu().numpy()))
        writer.fill(reader.samples)
        reader.print_beyond()
        _print_findings(target, check)
        return reader.source_channels


def _print_findings(target: Path, check: OutputCheck) -> None:
    """Print a warning on stderr for each finding in the audio of a file."""
    for found in check.finish():
        print(f"{target}: {found['text']}", file=sys.stderr)


def _open(codec: Codec, source: Path) -> BlockReader:
    return BlockReader(source, sample_rate=codec.spec.sample_rate, channels=codec.spec.channels)


def _sound(reader: BlockReader, codec: Codec, on_progress: OnProgress) -> Iterator[Tensor]:
    import torch

    for block in reader:
        on_progress(block.shape[1] / reader.sample_rate)
        yield torch.from_numpy(block).to(codec.device)


def find_files(what: str, source: Path, out: str, channels: int = 1) -> list[tuple[Path, Path]]:
    """Return pairs (file, output) for `what` (encode, decode or reconstruct).

    Without `out`, the output of a file is beside it, and the outputs of a folder are in a folder of equal structure. UserError
    if there are no files, or if the output cannot have the given name.
    """
    reads = {".npz", SUFFIX} if what == "decode" else AUDIO_SUFFIXES
    suffix, past = ".npz" if what == "encode" else ".wav", what.removesuffix("e") + "ed"
    if source.is_dir():
        target = Path(out) if out else source.with_name(f"{source.resolve().name}_{past}")
        found, others = list_files(source, reads, target)
        if not found:
            raise UserError(f"{source} has no files to {what}; expected {', '.join(sorted(reads))}")
        if others:
            print(f"ignored {sum(others.values())} others in {source} ({named(others)})", file=sys.stderr)
        stems = [p.relative_to(source).with_suffix("") for p in found]
        # song.mp3 and song.flac in one folder: both keep their suffix
        return [
            (p, target / (f"{p.relative_to(source)}{suffix}" if stems.count(stem) > 1 else f"{stem}{suffix}"))
            for p, stem in zip(found, stems)
        ]
    if not source.exists():
        raise UserError(f"there is no file or folder {source}; give a sound file, a codes.npz to decode, or a folder")
    target = source.with_suffix(suffix if what == "encode" else f".{past}{suffix}")
    if out:
        target = Path(out) / source.with_suffix(suffix).name if Path(out).is_dir() or out.endswith("/") else Path(out)
        target = with_suffix(target, suffix)
    if what != "encode":
        format_of(target, channels)
    elif target.suffix.lower() != suffix:
        raise UserError(f"{target} cannot be written; expected a name that ends in {suffix}")
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
    """Encode audio files to codes, decode codes to audio, or reconstruct audio from one level.

    Files of any length need constant memory. For a folder every file is used; failures are reported at the end.

    what: encode (audio to codes.npz), decode (codes.npz, or .codes of `compress`, to audio) or reconstruct (audio to audio)
    source: an audio file, a codes.npz or .codes to decode, or a folder of them
    model: the model folder that holds the trained codec
    out: file (.npz; audio as .wav, .flac, .aiff, .ogg, .opus or .mp3), or folder for a folder; empty: beside the source
    level: level to decode or reconstruct from, 0 (finest) to 2 (coarsest); -1: the finest of the model
    levels: levels to encode, such as 2,1; empty: all trained ones
    threads: CPU threads; 0: all cores
    device: cpu, cuda, cuda:1, ..; auto: cuda if there is one
    """
    import torch

    from jukebox.model.folder import ModelFolder

    if threads:
        torch.set_num_threads(threads)
    device, opened = choose_device(device), ModelFolder.from_pretrained(model)
    info, trained = opened.info, opened.trained_streams() or opened.spec.names
    known = {info.spec.names.index(stream): stream for stream in trained}
    streams = choose_by_level(levels if what == "encode" else str(level if level >= 0 else min(known)), known)
    files = find_files(what, Path(source), out, opened.spec.channels)
    loaded = opened.codec(streams).to(device)
    hashes, started = {name: info.codes_hash(name) for name in streams}, time.monotonic()

    def run(path: Path, target: Path, on_progress: OnProgress) -> int:
        if what == "encode":
            return encode_file(loaded, path, target, hashes, on_progress)
        if what == "decode":
            return decode_file(loaded, path, target, streams[0], info, on_progress)
        return reconstruct_file(loaded, path, target, streams[0], on_progress)

    with computing_on(device):
        done, seconds, failed = _run_all(run, files, f"{what} {', '.join(streams)}")
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
    print(f"{len(done)} of {len(files)}, {seconds:.0f} s of sound in {took:.1f} s ({seconds / took:.1f} s a second): {where}")
    return list(done)


def _run_all(
    run: Callable[[Path, Path, OnProgress], int], files: Sequence[tuple[Path, Path]], title: str
) -> tuple[dict[Path, int], float, list[UserError]]:
    """Process the files with one progress bar. Return output -> channels of its source, seconds of audio, and failures."""
    from launch.cli.progress import progress

    done, failed, seconds = {}, [], 0.0
    kept = f"the files that are done are kept in {files[0][1].parent}"
    expected = round(sum(_expected_seconds(path) for path, _ in files))
    with keeping(kept, lambda: done), progress(expected, title, unit="s") as bar:

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
    if path.suffix.lower() != ".npz":
        return declared_seconds(path)
    with suppress(UserError):  # the file is opened again, and the error is reported then
        codes = Codes.load(path)
        return codes.samples / codes.sample_rate
    return 0.0
