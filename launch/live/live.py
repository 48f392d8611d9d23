"""`jukebox live`: unbounded music to a wav file, a pipe or the sound card; lines on stdin change its parameters."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from data_prep.errors import UserError, keeping
from jukebox.params import SamplingParams
from launch.cli.route_flags import route_flags
from launch.cli.usage import shared_flags
from launch.verbs.sample import LabelFlags

ENDLESS = (2**32 - 1 - 36) // 4 * 4  # number of bytes of samples that the header of an unbounded wav states
Sink = Callable[[bytes], object]


class LiveControls:
    """Sampling parameters that change while music plays, each from the next patch on; `values` are the latest values."""

    def __init__(self, kind: type, values: Mapping[str, Any] | None = None) -> None:
        self.kind, self.values = kind, dict(values or {})
        self.types = {field.name: type(field.default) for field in fields(kind)}
        self.waiting: dict[str, Any] = {}
        self.lock = threading.Lock()

    def set(self, given: Mapping[str, str]) -> None:
        """Change parameters, either all or none of them; UserError for an unknown name or an invalid value."""
        truths, parsed = {"on": True, "true": True, "off": False, "false": False}, {}
        for name, value in given.items():
            try:
                kind = self.types[name]
                parsed[name] = truths[value.strip()] if kind is bool else kind(value)
            except (KeyError, ValueError):
                shown = f"{name} {value}"[:40].strip()
                raise UserError(f"{shown!r}: expected {', '.join(self.types)} and a value (on or off)") from None
        try:
            self.kind(**parsed)
        except ValueError as error:
            raise UserError(str(error)) from None
        with self.lock:
            self.waiting |= parsed
            self.values |= parsed

    def changes(self, second: float) -> Mapping[str, Any]:
        """Return the changes since the last patch; the next patch begins at `second`."""
        with self.lock:
            taken, self.waiting = self.waiting, {}
        return taken


class LineControls(LiveControls):
    """Controls that are set by lines such as `tempo 120`; the line `quit` ends the music."""

    ended = False

    def read(self, lines: Iterable[str]) -> None:
        """Read lines until `quit`; print an error on stderr for an invalid line."""
        for line in lines:
            name, _, value = line.strip().partition(" ")
            if name == "quit":
                self.ended = True
                return
            try:
                self.set({name: value} if name else {})
            except UserError as error:
                print(f"{error}, or quit", file=sys.stderr)

    def changes(self, second: float) -> Mapping[str, Any]:
        """Return the changes since the last patch, and print them with the second at which they take effect."""
        taken = super().changes(second)
        for name, value in taken.items():
            print(f"{name} {value} from second {second:.2f} on", file=sys.stderr, flush=True)
        return taken


@shared_flags
def live(
    model: str, *, out: str = "", seconds: float = 0.0, start: float = 0.0, seed: int = 0, form: Literal["wav", "raw"] = "wav",
    words: LabelFlags, params: SamplingParams, threads: int = 0, device: str = "auto",
) -> None:  # fmt: skip
    """Play unbounded music by a latent GAN; lines on stdin (tempo 120, density 4, style 7, quit) take effect at the next patch.

    model: folder of a trained model
    out: wav file to write; - for stdout; empty for the sound card
    seconds: length, in seconds (0: until `quit` or Ctrl-C)
    start: second at which to begin; with the same seed the music is the same as without an interruption
    seed: seed of all random numbers
    form: format of stdout: wav, or raw samples of 16 bits, little-endian
    threads: CPU threads (0: torch's choice)
    device: cpu, cuda, or auto: a GPU if there is one
    """
    import torch

    from data_prep.audio.audio import to_pcm
    from jukebox.device import choose_device, computing_on
    from jukebox.model.folder import ModelFolder
    from jukebox.sampling.live import LiveMusic
    from jukebox.song import Song

    if threads:
        torch.set_num_threads(threads)
    chosen, shown = choose_device(device), sys.stderr if out == "-" else sys.stdout
    with computing_on(chosen):
        music = LiveMusic(
            ModelFolder.from_pretrained(model), Song(words.artist or None, genre=words.genre), params, seed, chosen
        )
        controls, samples, channels = LineControls(type(music.params)), 0, music.codec.spec.channels
        kept = keeping(f"{out} holds the music so far", lambda: samples and out not in ("", "-"))
        with kept, sink(out, channels, music.sample_rate, form) as write:
            print(f"controls take effect at the next patch, every {music.patch_seconds:.2f} s", file=shown, flush=True)
            threading.Thread(target=controls.read, args=(sys.stdin,), daemon=True).start()
            for block in music.blocks(start, seconds, controls.changes):
                write(to_pcm(block, out or "the sound card").T.tobytes())
                samples += block.shape[1]
                if controls.ended:
                    break
        print(f"{samples / music.sample_rate:.2f} s of music{f' in {out}' if out not in ('', '-') else ''}", file=shown)


@contextmanager
def sink(out: str, channels: int, sample_rate: int, form: str) -> Iterator[Sink]:
    """Yield a function that writes samples to a wav file (valid after each block), to stdout, or to the sound card."""
    from jukebox.sampling.wav_writer import header

    if out == "-":
        if form == "wav":
            sys.stdout.buffer.write(header(ENDLESS // (2 * channels), channels, sample_rate))
        yield lambda block: (sys.stdout.buffer.write(block), sys.stdout.buffer.flush())
    elif out:
        if Path(out).suffix.lower() != ".wav":
            raise UserError(f"--out {out}: live writes .wav files; name one, or - for stdout")
        with open(out, "wb") as file:
            written = 0

            def grow(block: bytes) -> None:
                nonlocal written
                written += len(block) // (2 * channels)
                file.seek(0, os.SEEK_END)
                file.write(block)
                file.flush()
                file.seek(0)
                file.write(header(written, channels, sample_rate))
                file.flush()

            file.write(header(0, channels, sample_rate))
            yield grow
    else:
        import sounddevice

        with sounddevice.RawOutputStream(sample_rate, channels=channels, dtype="int16") as card:
            late = 0

            def play(block: bytes) -> None:
                nonlocal late
                if card.write(block):
                    late += 1
                    print(f"the sound card had to wait {late} times", file=sys.stderr)

            yield play


live.refine_usage = route_flags  # type: ignore[attr-defined]
