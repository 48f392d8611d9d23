"""Export a finished song for other programs: wav (16 or 24 bits, or floats) with cue markers, flac or mp3.

The tags have the request of the song.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.audio.writers import format_of, writing
from data_prep.errors import UserError

FORMS = {  # name -> (suffix, sample format as libsndfile names it)
    "wav16": (".wav", "PCM_16"), "wav24": (".wav", "PCM_24"), "wav32f": (".wav", "FLOAT"),
    "flac": (".flac", "PCM_24"), "mp3": (".mp3", "MPEG_LAYER_III"),
}  # fmt: skip
Cue = tuple[float, str]  # seconds, label


def form_of_path(path: Path, bits: int = 0) -> str:
    """Return the name in FORMS for a suffix and, for wav, its bits (0: 16; 32: floats); raise UserError for any other file."""
    found = {name for name, (suffix, _) in FORMS.items() if suffix == path.suffix.lower()}
    by_bits = {0: "wav16", 16: "wav16", 24: "wav24", 32: "wav32f"}
    chosen = by_bits.get(bits, "") if ".wav" == path.suffix.lower() else next(iter(found), "")
    if chosen not in found or (bits and chosen in ("flac", "mp3")):
        raise UserError(f"{path.name} of {bits} bits; expected .wav of 16, 24 or 32 (floats) bits, .flac or .mp3")
    return chosen


def write_export(
    path: Path, audio: Float[np.ndarray, "c n"], sample_rate: int, form: str, tags: Mapping[str, str], cues: Sequence[Cue] = ()
) -> None:  # fmt: skip
    """Write audio in one of FORMS, atomically, with tags; a wav file also gets cue markers."""

    def finish(written: Path) -> None:
        if form.startswith("wav") and cues:
            append_cues(written, [(min(round(at * sample_rate), audio.shape[1]), label) for at, label in cues])
        _write_tags(written, form, tags)

    container, _ = format_of(path, len(audio))
    with writing(path, len(audio), sample_rate, (container, FORMS[form][1]), finish) as writer:
        writer.write(audio)


def append_cues(path: Path, cues: Sequence[tuple[int, str]]) -> None:
    """Append cue markers (sample, label) to a wav file, after the samples: one chunk of points and one list of labels."""
    points = b"".join(struct.pack("<LL4sLLL", n, at, b"data", 0, 0, at) for n, (at, _) in enumerate(cues, 1))
    labels = b"".join(_chunk(b"labl", struct.pack("<L", n) + text.encode() + b"\0") for n, (_, text) in enumerate(cues, 1))
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(b"\0" * (file.tell() % 2))
        file.write(_chunk(b"cue ", struct.pack("<L", len(cues)) + points) + _chunk(b"LIST", b"adtl" + labels))
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<L", size))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<L", len(data)) + data + b"\0" * (len(data) % 2)


def _write_tags(path: Path, form: str, tags: Mapping[str, str]) -> None:
    """Write tags as comments of a flac file, or as TXXX frames of an mp3 or wav file.

    In mp3 and wav files "title" and "artist" are standard frames, which players read.
    """
    from mutagen import flac, id3, mp3, wave

    if form == "flac":
        file = flac.FLAC(path)
        file.update({name: [text] for name, text in tags.items()})
    else:
        file = mp3.MP3(path) if form == "mp3" else wave.WAVE(path)
        if file.tags is None:
            file.add_tags()
        frames = {"title": id3.TIT2, "artist": id3.TPE1}  # type: ignore[attr-defined]
        for name, text in tags.items():
            frame = frames[name](3, [text]) if name in frames else id3.TXXX(3, name, [text])  # type: ignore[attr-defined]
            file.tags.add(frame)  # type: ignore[union-attr]
    file.save()
