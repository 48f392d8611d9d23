"""Open any file with audio: with libsndfile (soundfile), then with ffmpeg (PyAV, if it is installed).

Both return blocks of samples. The number of samples is unknown until the end, because headers may be wrong. Channels are in the
order of wav files, so that channel 2 of 5.1 is the centre in every format.

BadAudio is raised for errors of a decoder and for impossible properties: a rate of 1 Hz, fewer samples than the header states,
or more samples than the bytes of the file can hold.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.audio.containers import Link, find_links
from data_prep.errors import BadAudio
from data_prep.pool import alive

SOUNDFILE_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .bw64 .w64 .flac .fla .ogg .oga .opus .mp3 .mpga .aif .aiff .aifc .au .snd .caf .8svx .svx".split()
)
PYAV_SUFFIXES = frozenset(
    ".m4a .m4b .m4r .aac .wma .mka .mp4 .m4v .mkv .webm .weba .mov .avi .3gp .3g2 .ac3 .amr .ape .asf .dsf .dts .eac3 .f4a .f4v "
    ".flv .m2ts .mlp .mp2 .mpc .mpeg .mpg .mts .ogm .ogv .ogx .qoa .ra .rm .shn .spx .tak .tta .vob .wmv .wv".split()
)
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | PYAV_SUFFIXES
BLOCK = 1 << 14  # samples decoded at a time
RATES = (2_000, 768_000)  # Hz, plausible sample rates
MOST_CHANNELS = 64
MOST_PER_BYTE = 1 << 11  # most samples per byte; of silence, 2 bytes of opus hold 1,440, and 14 bytes of flac mostly 4,096
SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS")  # subtypes in which libsndfile seeks exactly
VORBIS_ORDER = {  # channels -> position in the file (ogg vorbis, opus) of each channel of a wav file
    3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 5, 3, 4), 7: (0, 2, 1, 6, 5, 3, 4), 8: (0, 2, 1, 7, 5, 6, 3, 4),
}  # fmt: skip


class AudioDecoder(Protocol):
    """An open file; `blocks(start)` yields blocks (channels, n) from sample `start` to the end, float32 or another `dtype`."""

    sample_rate: int
    channels: int
    declared: int | None  # samples stated by the container, if it is reliable
    slack: int  # number of samples by which `declared` may be too large
    expected: int  # samples for a progress bar; 0 if unknown
    cut: str | None  # what is missing compared with the header
    tracks: int  # tracks with audio; the default one is read

    def blocks(self, start: int, dtype: str = "float32") -> Iterator[np.ndarray]: ...
    def close(self) -> None: ...


class _Window(io.RawIOBase):
    """One joined file as a separate file object: its corrected header, then its bytes."""

    def __init__(self, file: io.BufferedReader, link: Link) -> None:
        self.file, self.link, self.at, self.name = file, link, 0, file.name
        self.size = len(link.head) + link.stop - link.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        view, head = memoryview(buffer).cast("B"), self.link.head
        view = view[: max(0, self.size - self.at)]
        if self.at < len(head):
            count = min(len(view), len(head) - self.at)
            view[:count] = head[self.at : self.at + count]
        else:
            self.file.seek(self.link.start + self.at - len(head))
            count = self.file.readinto(view)
        self.at += count
        return count


class SoundFileDecoder:
    """A file that libsndfile reads; `subtype` and `format` are the libsndfile names of its sample format and container."""

    library, slack, tracks = "libsndfile", 0, 1

    def __init__(self, path: Path, links: list[Link]) -> None:
        if any(link.goes_on for link in links):
            raise BadAudio(path, "unreadable", "libsndfile stops at the first end mark of its stream")
        self.path, self.links, self.opened, files = path, links, path.open("rb"), []
        try:
            for link in links:
                with self._open(link) as each:
                    files.append(each)
        except BaseException:
            self.opened.close()
            raise
        file = files[0]
        self.sample_rate, self.channels, self.subtype, self.format = file.samplerate, file.channels, file.subtype, file.format
        check_alike(path, [(each.samplerate, each.channels) for each in files])
        self.order = VORBIS_ORDER.get(self.channels) if self.format == "OGG" and self.subtype in ("VORBIS", "OPUS") else None
        self.expected = sum(link.declared or (each.frames if each.frames < 1 << 40 else 0) for each, link in zip(files, links))
        self.declared = sum(self._promised(each, link) for each, link in zip(files, links)) or None
        self.cut = next((link.cut for link in links if link.cut), None)
        self.seeks = len(links) == 1 and not links[0].padding and self.subtype.startswith(SEEKABLE)

    def _open(self, link: Link) -> Any:
        import soundfile

        class Sequential(soundfile.SoundFile):
            """Disable the seek of soundfile after each read.

            The seek fails at an unknown end, and returns wrong samples in mp3.
            """

            def seekable(self) -> bool:
                return False

        return Sequential(_Window(self.opened, link))  # type: ignore[arg-type]  # a file of bytes

    def _promised(self, file: Any, link: Link) -> int:
        """Return the number of samples that a file must have, 0 if unknown.

        The stated number of a compressed file is used only if it ends in the last block.
        """
        inside = not link.padding or 0 <= file.frames - (link.declared or 0) < link.padding
        return (link.declared or 0) if inside else 0

    def blocks(self, start: int, dtype: str = "float32") -> Iterator[np.ndarray]:
        for link in self.links:
            file, at = self._open(link), 0
            if self.seeks and start:
                try:
                    at, start = file.seek(start), 0
                except RuntimeError:  # a seek to or after an end that no header states: decode from the beginning
                    file = self._open(link)
            promised = self._promised(file, link)
            for block in self._read(file, dtype, at, promised, promised if link.padding and promised else 1 << 62):
                if start < block.shape[1]:
                    yield block[:, start:]
                start = max(0, start - block.shape[1])

    def _read(self, file: Any, dtype: str, at: int, promised: int, most: int) -> Iterator[np.ndarray]:
        """Yield the blocks from sample `at` to `most`.

        Data after the stated number of samples that cannot be decoded is not audio, for example tags after flac.
        """
        with file:
            while at < most:
                try:
                    block = file.read(min(BLOCK, (promised if at < promised else most) - at), dtype=dtype, always_2d=True)
                except RuntimeError:
                    if at == promised:
                        return
                    raise
                if not len(block):
                    return
                at += len(block)
                yield block.T if self.order is None else block.T[list(self.order)]

    def close(self) -> None:
        self.opened.close()


class AvDecoder:
    """A file that PyAV (ffmpeg) reads; from a file of several tracks the default track is read."""

    library, slack = "PyAV", 8192  # some mp4 files count the samples of the encoder's delay

    def __init__(self, path: Path, links: list[Link]) -> None:
        self.path, self.links = path, links
        self.cut = next((link.cut for link in links if link.cut), None)
        kinds, lengths, self.expected = [], [], 0
        for link in links:
            with self._open(link) as (container, stream, self.tracks):
                kinds.append((stream.rate, stream.channels))
                lengths.append(self._declared(stream))
                self.expected += lengths[-1] or round((container.duration or 0) * stream.rate / 1e6)
        check_alike(path, kinds)
        self.sample_rate, self.channels = kinds[0]
        self.declared = sum(map(int, filter(None, lengths))) if all(lengths) else None

    @contextmanager
    def _open(self, link: Link) -> Iterator[tuple[Any, Any, int]]:
        """Yield the container of a joined file, the track that is read, and the number of tracks."""
        import av
        from av.stream import Disposition

        whole = len(self.links) == 1 and not link.head
        with self.path.open("rb") as file, av.open(str(self.path) if whole else _Window(file, link)) as opened:
            container: Any = opened
            tracks = [stream for stream in container.streams.audio if stream.rate and stream.channels]
            if not tracks:
                raise BadAudio(self.path, "unreadable", "there is no audio in it")
            default = [track for track in tracks if track.disposition & Disposition.default]
            yield container, (default or tracks)[0], len(tracks)

    def _declared(self, stream: Any) -> int | None:
        """Return the length in samples; None if the container does not state it exactly.

        An mp4 file states the exact length, although the last block of aac is padded.
        """
        return (stream.duration or None) if stream.time_base == Fraction(1, stream.rate) else None

    def blocks(self, start: int, dtype: str = "float32") -> Iterator[np.ndarray]:
        for link in self.links:
            with self._open(link) as (container, stream, _):
                for block in self._decode(container, stream):
                    if start < block.shape[1]:
                        yield block[:, start:]
                    start = max(0, start - block.shape[1])

    def _decode(self, container: Any, stream: Any) -> Iterator[np.ndarray]:
        import av

        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=self.sample_rate)
        left, expected = self._declared(stream) or 1 << 62, (self.sample_rate, self.channels)
        for decoded_frame in container.decode(stream):
            check_alike(self.path, [expected, (decoded_frame.sample_rate, len(decoded_frame.layout.channels))])
            for frame in resampler.resample(decoded_frame):
                block = frame.to_ndarray()[:, :left]
                left -= block.shape[1]
                yield block

    def close(self) -> None:
        """Do nothing: no file stays open between two calls of `blocks`."""


def check_alike(path: Path, kinds: list[tuple[int, int]]) -> None:
    """Raise BadAudio if the joined files differ in sample rate or channels."""
    if len(set(kinds)) > 1:
        parts = " and ".join(f"{rate} Hz, {channels} channel{'s' * (channels > 1)}" for rate, channels in dict.fromkeys(kinds))
        raise BadAudio(path, "unreadable", f"its parts are of several kinds ({parts}); give each by itself")


def open_source(path: Path) -> AudioDecoder:
    """Open a file with libsndfile or PyAV; BadAudio if both fail.

    The library for the suffix is tried first, and then the other one, because suffixes may be wrong.
    """
    if not path.is_file():
        raise BadAudio(path, "unreadable", "there is no such file")
    if path.stat().st_size == 0:
        raise BadAudio(path, "unreadable", "the file is empty")
    links = find_links(path)
    for link in links:
        check_rate(path, link.rate)
    kinds = (AvDecoder, SoundFileDecoder) if path.suffix.lower() in PYAV_SUFFIXES else (SoundFileDecoder, AvDecoder)
    reasons = []
    for kind in kinds:
        try:
            source = kind(path, links)
        except ModuleNotFoundError as error:
            reasons.append(f"{error.name} is not installed (pip install {error.name})")
        except BadAudio as error:
            reasons.append(error.detail)
        except Exception:  # soundfile.LibsndfileError, av.FFmpegError, ...: their messages are misleading
            reasons.append(f"{kind.library} cannot read it")
        else:
            return _plausible(path, source)
    cut = next((link.cut for link in links if link.cut), None)
    raise BadAudio(path, "truncated" if cut else "unreadable", cut or "; ".join(dict.fromkeys(reasons)))


def _plausible(path: Path, source: AudioDecoder) -> AudioDecoder:
    """Return the decoder; BadAudio if its sample rate or its number of channels is implausible."""
    try:
        check_rate(path, source.sample_rate)
        if source.channels > MOST_CHANNELS:
            detail = f"its header states {source.channels} channels; expected at most {MOST_CHANNELS}"
            raise BadAudio(path, "unreadable", detail)
    except BadAudio:
        source.close()
        raise
    if source.tracks > 1:
        _report_tracks(path, source.tracks)
    return source


@lru_cache(maxsize=1024)
def _report_tracks(path: Path, tracks: int) -> None:
    """Print once that a file has more tracks than the one that is read."""
    print(f"{path} has {tracks} audio tracks; the default one is used", file=sys.stderr)


def check_rate(path: Path, rate: int | None) -> None:
    """Raise BadAudio if a sample rate is implausible."""
    low, high = RATES
    if rate is not None and not low <= rate <= high:
        detail = f"its header states a sample rate of {rate:,} Hz; expected {low:,} to {high:,}"
        raise BadAudio(path, "unreadable", detail)


def decoded(path: Path, source: AudioDecoder, start: int = 0, dtype: str = "float32") -> Iterator[np.ndarray]:
    """Yield the blocks from sample `start` to the end; BadAudio if the samples cannot all be decoded."""
    frames, most = 0, path.stat().st_size * MOST_PER_BYTE
    promised = 0 if start else (source.declared or 0) - source.slack
    try:
        for block in source.blocks(start, dtype):
            alive()
            frames += block.shape[1]
            if frames > most:
                raise BadAudio(path, "unreadable", f"its {most // MOST_PER_BYTE:,} bytes decode to more than {most:,} samples")
            yield block
    except BadAudio:
        raise
    except Exception as error:  # every decoder has different error classes
        reason = "truncated" if source.cut or frames or promised > 0 else "unreadable"
        raise BadAudio(path, reason, source.cut or f"decoding failed after {frames} samples: {error}") from error
    short = f"its header states {source.declared:,} samples and it has {frames:,}" if frames < promised else None
    if detail := source.cut or short:
        raise BadAudio(path, "truncated", detail)
