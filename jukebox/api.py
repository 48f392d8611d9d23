"""The Python API: `Jukebox` is a model that generates, continues, edits, encodes and decodes audio.

    model = Jukebox.from_pretrained("MODEL")
    audio = model.generate(Song(artist="ann", lyrics="la la"), seconds=30)

Weights are read on first use and stay loaded. With `run_folder` the run stays on disk, as on the command line. Without
`run_folder` the audio is sampled in a temporary run folder. Defaults, warnings and errors are those of the command line.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
import wave
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float

from data_prep.audio.blocks import BlockReader
from data_prep.audio.writers import write_audio
from data_prep.errors import UserError
from data_prep.metadata.exported import form_of_path
from jukebox.audio import Audio
from jukebox.device import choose_device, computing_on
from jukebox.editing import verbs as editing
from jukebox.editing.job import Edited
from jukebox.editing.result import finish
from jukebox.exports import export_take
from jukebox.loaded import LoadedModel, one_job
from jukebox.model.code_file import Codes
from jukebox.model.folder import ModelFolder
from jukebox.model.info import check_weights
from jukebox.params import EditOptions, KeptPrompt, MachineOptions, SamplingOptions
from jukebox.planning.sampling import check_memory, fitted
from jukebox.runs import request
from jukebox.runs.params import Params
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling import walk
from jukebox.sampling.live import Changes, LiveMusic
from jukebox.sampling.output_checks import OutputCheck, lines_of
from jukebox.sampling.prompt import joined_path
from jukebox.sampling.sampler import Written
from jukebox.song import Song, left_out, unknown_names, without_effect
from vqvae.codec import as_tensor

Recorded = str | Path | Audio  # the path of an audio file, a codes.npz or a run folder, or an Audio


class Cancelled(Exception):
    """The `cancel` callback of a job stopped the job. A run with a `run_folder` can be resumed."""


@dataclass(frozen=True)
class Progress:
    """Progress of a job at one level: `done` of `total` frames are finished, summed over all samples."""

    level: int
    stream: str
    done: int
    total: int

    @property
    def share(self) -> float:
        return self.done / self.total


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of a job.

    progress: called with a `Progress` after every update
    cancel: called after every update; if the callback returns true, the job raises `Cancelled`
    """

    progress: Callable[[Progress], object] | None = None
    cancel: Callable[[], bool] | None = None


class Jukebox(ModelFolder):
    """An opened model; `Jukebox.from_pretrained(folder)` opens a model directory."""

    device = "auto"  # default device of a job; see `to`
    _loaded: LoadedModel | None = None

    def to(self, device: str) -> Jukebox:
        """Set the default device of later jobs, and move the loaded weights to that device.

        The device is cpu, cuda, cuda:N or auto (a GPU if the machine has one). Raise UserError if the machine lacks the device.
        """
        chosen = choose_device(device)
        if self._loaded:
            with one_job():  # the weights must not move during a job
                self._loaded.to(chosen)
        self.device = chosen
        return self

    # ---- songs

    @overload
    def generate(
        self, song: Song, seconds: float = 20.0, *, seed: int | None = None, params: Params | None = None,
        options: SamplingOptions | None = None,
        machine: MachineOptions | None = None, callbacks: Callbacks | None = None, run_folder: None = None,
    ) -> Audio: ...  # fmt: skip
    @overload
    def generate(
        self, song: Song, seconds: float = 20.0, *, seed: int | None = None, params: Params | None = None,
        options: SamplingOptions | None = None,
        machine: MachineOptions | None = None, callbacks: Callbacks | None = None, run_folder: str | Path,
    ) -> Run: ...  # fmt: skip
    def generate(
        self, song: Song, seconds: float = 20.0, *, seed: int | None = None, params: Params | None = None,
        options: SamplingOptions | None = None, machine: MachineOptions | None = None, run_folder: str | Path | None = None,
        callbacks: Callbacks | None = None,
    ) -> Audio | Run:  # fmt: skip
        """Generate a song of `seconds` from artist, genre and lyrics.

        Without `run_folder` the method returns Audio. With `run_folder` the method returns the Run on disk. `params` is a
        `SamplingParams`, the parameters object of one kind of prior, or a mapping from stream names to such objects.
        """
        settings = self._settings(seed, params, options, machine)
        self._warn(song)
        return self._result(request.sampled(self.info, [song], seconds, settings), settings, run_folder, callbacks)

    @overload
    def continue_(
        self, song: Song, recording: Recorded, prompt_seconds: float = 12.0, seconds: float = 30.0, *,
        seed: int | None = None, params: Params | None = None, options: SamplingOptions | None = None,
        machine: MachineOptions | None = None, callbacks: Callbacks | None = None, run_folder: None = None,
    ) -> Audio: ...  # fmt: skip
    @overload
    def continue_(
        self, song: Song, recording: Recorded, prompt_seconds: float = 12.0, seconds: float = 30.0, *,
        seed: int | None = None, params: Params | None = None, options: SamplingOptions | None = None,
        machine: MachineOptions | None = None, callbacks: Callbacks | None = None, run_folder: str | Path,
    ) -> Run: ...  # fmt: skip
    def continue_(
        self, song: Song, recording: Recorded, prompt_seconds: float = 12.0, seconds: float = 30.0, *,
        seed: int | None = None, params: Params | None = None, options: SamplingOptions | None = None,
        machine: MachineOptions | None = None, run_folder: str | Path | None = None, callbacks: Callbacks | None = None,
    ) -> Audio | Run:  # fmt: skip
        """Keep the first `prompt_seconds` (0: all) of a recording as the prompt, and generate the rest of `seconds`.

        The recording is an audio file, a codes.npz, a run folder or an Audio. The result has the sample rate and channels of
        an audio recording.
        """
        settings = self._settings(seed, params, options, machine)
        self._warn(song)
        with _on_disk(recording) as path:
            asked = request.continued(self.info, [song], [path], prompt_seconds, seconds, settings)
            return self._result(asked, settings, run_folder, callbacks)

    def stream(
        self, song: Song, seconds: float = 20.0, *, seed: int | None = None, params: Params | None = None,
        options: SamplingOptions | None = None, machine: MachineOptions | None = None,
    ) -> Iterator[Audio]:  # fmt: skip
        """Yield the audio of `generate` in blocks while the last level of the route is sampled."""
        settings = self._settings(seed, params, options, machine)
        self._warn(song)
        return self._blocks(self.fitted(request.sampled(self.info, [song], seconds, settings), settings))

    def _blocks(self, asked: dict[str, Any]) -> Iterator[Audio]:
        with one_job(), _temporary_run(asked) as run:
            level, sent = run.finest, 0
            for written in walk.steps(run, self._model(), audio=True):
                if written.level == level and written.frames and (path := run.audio_path(level, 0)).is_file():
                    new = _wav_from(path, sent)
                    sent += new.shape[1]
                    if new.shape[1]:
                        yield Audio(new, self.sample_rate)
            _checked(run)

    def live(
        self, song: Song, seconds: float = 0.0, *, start: float = 0.0, seed: int | None = None, params: Params | None = None,
        changes: Changes | None = None, machine: MachineOptions | None = None,
    ) -> Iterator[Audio]:  # fmt: skip
        """Yield music from second `start` on in blocks, by the model's route of unbounded length.

        `seconds` limits the length; with 0 the music ends when the iterator is closed. `changes` is called before each patch
        with the second at which the patch begins. `changes` returns the sampling parameters that change from that patch on.
        Raise UserError if the model has no route of unbounded length.
        """
        settings = self._settings(seed, params, None, machine)
        self._warn(song)
        return self._live(song, start, seconds, settings, changes)

    def _live(
        self, song: Song, start: float, seconds: float, settings: RunSettings, changes: Changes | None
    ) -> Iterator[Audio]:
        device = choose_device(settings.machine.device)
        with one_job(), computing_on(device):
            torch.set_num_threads(self.info.threads(settings.machine.threads))
            music = LiveMusic(self._model(), song, settings.params, settings.options.seed, device)
            for block in music.blocks(start, seconds, changes):
                yield Audio(block, self.sample_rate)

    # ---- runs on disk

    def resume(self, run: str | Path | Run, callbacks: Callbacks | None = None) -> Run:
        """Finish an interrupted run. The codes equal those of an uninterrupted run. An edit also writes its output files."""
        with one_job():
            made = walk.resume(_opened(run, self), self._model(), report=_report(callbacks, self.spec.names))
            if made.request.get("inpaints"):
                finish(made, self._model())
            return _checked(made)

    def branch(
        self, run: str | Path | Run, run_folder: str | Path, *, keep_seconds: float = 0.0, take: int = 0, seconds: float = 0.0,
        lyrics: Song | str | None = None, seed: int | None = None, takes: int = 1, machine: MachineOptions | None = None,
    ) -> Run:  # fmt: skip
        """Keep the first `keep_seconds` (0: all) of a run, and sample the rest with another seed or other lyrics.

        `take` selects one take of the run by its number from 1; 0 selects all takes. `seconds` is the finished length; 0 means
        the length of the run.
        """
        lyrics = Song(lyrics=lyrics) if isinstance(lyrics, str) else lyrics
        settings = self._settings(None, None, SamplingOptions(takes=takes), machine)
        with one_job():
            return _checked(walk.branch(
                _opened(run, self), run_folder, settings, keep_seconds=keep_seconds, take=take, seconds=seconds, lyrics=lyrics, seed=seed,
                model=self._model(),
            ))  # fmt: skip

    def upsample(
        self, run: str | Path | Run, run_folder: str | Path | None = None, *, level: int | None = None, seed: int | None = None,
        params: Params | None = None, route: str = "", machine: MachineOptions | None = None,
    ) -> Run:  # fmt: skip
        """Write the missing finer levels of a run. With `run_folder` resample the levels below `level` in a copy of the run."""
        settings = self._settings(None, params, SamplingOptions(route=route), machine)
        with one_job():
            opened = _opened(run, self)
            return _checked(walk.upsample(opened, run_folder, settings, level=level, seed=seed, model=self._model()))

    def replay(self, run: str | Path | Run, run_folder: str | Path) -> Run:
        """Sample the codes of a run again in a new run folder; raise UserError if the codes differ."""
        with one_job():
            return _checked(walk.replay(run.folder if isinstance(run, Run) else run, run_folder, self._model()))

    def export(self, run: str | Path | Run, path: str | Path, take: int = 1, *, bits: int = 0) -> Path:
        """Export take number `take` (from 1) to a file whose tags contain the request.

        The format is .wav of 16, 24 or 32 bits (floats), .flac or .mp3.
        """
        form = form_of_path(Path(path), bits)
        with computing_on("cpu"):
            export_take(_opened(run, self), Path(path), form, take, self)
        return Path(path)

    # ---- edits

    def edit(
        self, recording: Recorded, start: float, end: float, *, song: Song | None = None, seed: int | None = None,
        params: Params | None = None, edit: EditOptions | None = None, machine: MachineOptions | None = None,
        out: str | Path | None = None, callbacks: Callbacks | None = None,
    ) -> Audio:  # fmt: skip
        """Resample a recording from second `start` to second `end`. All other samples stay unchanged.

        With `out` the result is also written to that file, and the run folder of the edit is kept beside the file.
        """
        settings = self._edit_settings(song, seed, params, edit, machine, callbacks)
        return self._edited(
            recording, out, lambda path, target: editing.edit(self._model(), path, target, start, end, settings)
        )

    def vary(
        self, recording: Recorded, prompt: KeptPrompt, start: float = 0.0, end: float | None = None, *,
        song: Song | None = None, seed: int | None = None, params: Params | None = None, edit: EditOptions | None = None,
        machine: MachineOptions | None = None, out: str | Path | None = None, callbacks: Callbacks | None = None,
    ) -> Audio:  # fmt: skip
        """Resample a recording from second `start` to `end` (None: the end), except for the codes that `prompt` keeps."""
        settings = self._edit_settings(song, seed, params, edit, machine, callbacks)
        return self._edited(
            recording, out, lambda path, target: editing.vary(self._model(), path, target, prompt, start, end, settings)
        )

    def compress(
        self, recording: Recorded, kbps: float, start: float = 0.0, end: float | None = None, *, song: Song | None = None,
        seed: int | None = None, params: Params | None = None, edit: EditOptions | None = None,
        machine: MachineOptions | None = None, out: str | Path | None = None, callbacks: Callbacks | None = None,
    ) -> Audio:  # fmt: skip
        """Keep at most `kbps` kilobits per second of the codes of a recording, and sample the other codes."""
        settings = self._edit_settings(song, seed, params, edit, machine, callbacks)
        return self._edited(
            recording, out, lambda path, target: editing.compress(self._model(), path, target, kbps, start, end, settings)
        )

    def extend(
        self, recording: Recorded, before: float = 0.0, after: float = 0.0, *, song: Song | None = None,
        seed: int | None = None, params: Params | None = None, edit: EditOptions | None = None,
        machine: MachineOptions | None = None, out: str | Path | None = None, callbacks: Callbacks | None = None,
    ) -> Audio:  # fmt: skip
        """Extend a recording by `before` seconds at its start and `after` seconds at its end."""
        settings = self._edit_settings(song, seed, params, edit, machine, callbacks)
        return self._edited(
            recording, out, lambda path, target: editing.extend(self._model(), path, target, before, after, settings)
        )

    # ---- codes

    def encode(self, recording: Recorded, streams: Sequence[str] = ()) -> Codes:
        """Encode a recording to codes or latents of `streams` (default: all trained streams).

        Samples after the last whole frame of the coarsest stream are dropped. Raise UserError if no frame is whole.
        """
        names, device = tuple(streams) or self.trained_streams(), choose_device(self.device)
        with one_job(), computing_on(device), _on_disk(recording) as path:
            with BlockReader(path, sample_rate=self.sample_rate, channels=self.spec.channels) as reader:
                samples = np.concatenate(list(reader), axis=1)
            length = samples.shape[1] // self.spec.unit * self.spec.unit
            if not length:
                raise UserError(f"{path} is shorter than one frame of the coarsest stream, {self.spec.unit} samples")
            audio = torch.from_numpy(samples[None, :, :length]).to(device)
            found = self._model().codec(names).to(device).encode_long(audio, names)
        values = {name: x[0].cpu().numpy().astype(self.spec.stream(name).dtype) for name, x in found.items()}
        return Codes(values, self.sample_rate, length, {name: self.info.codes_hash(name) for name in names})

    def decode(self, codes: Codes, stream: str = "") -> Audio:
        """Decode one stream of `codes` (default: the finest) to audio; raise UserError if another codec wrote the codes."""
        if not codes.is_of(self.info):
            raise UserError(
                f"these codes are of another codec than that of {self.folder}; encode the recording with this model"
            )
        name = stream or next(each for each in self.spec.names if each in codes.streams)
        if name not in codes.streams:
            raise UserError(f"there are no codes of {name!r}; there are codes of {', '.join(codes.streams)}")
        device = choose_device(self.device)
        with one_job(), computing_on(device):
            values = as_tensor(codes.streams[name])[None].to(device)
            made = self._model().codec([name]).to(device).decode_long(values, name, codes.samples)[0].cpu().numpy()
        check = OutputCheck(self.sample_rate, self.sample_rate / self.spec.stream(name).hop)
        check.push_codes(codes.streams[name])
        made = check.push(made)
        for found in check.finish():
            warnings.warn(found["text"], stacklevel=2)
        return Audio(made, self.sample_rate, codes)

    # ---- small helpers

    def _model(self) -> LoadedModel:
        """The model whose weights stay loaded between jobs."""
        if self._loaded is None:
            self._loaded = LoadedModel(self.info)
        self._loaded.info = self.info
        return self._loaded

    def _settings(
        self, seed: int | None, params: Params | None, options: SamplingOptions | None, machine: MachineOptions | None
    ) -> RunSettings:
        options, machine = options or SamplingOptions(), machine or MachineOptions()
        options = options if seed is None else replace(options, seed=seed)
        machine = machine if machine.device != "auto" else replace(machine, device=self.device)
        return RunSettings(options, params, machine)

    def fitted(self, asked: dict[str, Any], settings: RunSettings) -> dict[str, Any]:
        """Return the request with dtype and batches that fit the memory limit of `settings`; raise UserError if none fit."""
        asked = asked | fitted(self.info, asked, settings.machine.max_memory)
        check_memory(self.info, asked)
        return asked

    def _warn(self, song: Song) -> None:
        lines = unknown_names(song, self.info.labels)
        for line in lines + without_effect(song, self.info) + left_out(self.vocabulary, [song.lyrics or ""]):
            warnings.warn(line, stacklevel=3)

    def _result(
        self, asked: dict[str, Any], settings: RunSettings, run_folder: str | Path | None, callbacks: Callbacks | None
    ) -> Audio | Run:
        """Sample a request. Return the run if `run_folder` is specified, or else the audio of the only sample."""
        asked = self.fitted(asked, settings)
        if run_folder is not None:
            with one_job():
                run = Run.create(run_folder, asked)
                return _checked(walk.resume(run, self._model(), report=_report(callbacks, self.spec.names)))
        if len(asked["samples"]) > 1:
            raise UserError(f"{len(asked['samples'])} samples are one run; name its folder with run_folder")
        with one_job(), _temporary_run(asked) as run:
            return audio_of(_checked(walk.resume(run, self._model(), report=_report(callbacks, self.spec.names))))

    def _edit_settings(
        self, song: Song | None, seed: int | None, params: Params | None, edit: EditOptions | None, machine: MachineOptions | None,
        callbacks: Callbacks | None,
    ) -> editing.EditSettings:  # fmt: skip
        if song:
            self._warn(song)
        settings = self._settings(seed, params, None, machine)
        return editing.EditSettings(song, settings, edit or EditOptions(), _report(callbacks, self.spec.names))

    def _edited(self, recording: Recorded, out: str | Path | None, job: Callable[[Path, Path], Edited]) -> Audio:
        with one_job(), _on_disk(recording) as path, tempfile.TemporaryDirectory() as folder:
            edited = job(path, Path(out) if out else Path(folder) / "edited")
            _checked(edited.run)
            return Audio.load(edited.takes[0])


def _checked(run: Run) -> Run:
    """Warn of each finding in the audio of a run, and return the run."""
    for line in lines_of(run.request):
        warnings.warn(line, stacklevel=4)
    return run


def _opened(run: str | Path | Run, model: ModelFolder) -> Run:
    """Open a run of this model. The model directory may have moved. Raise UserError if the weights have changed."""
    opened = run if isinstance(run, Run) else Run.open(run)
    check_weights(opened.request, model.info)
    opened.request = opened.request | {"model": str(model.folder)}
    return opened


def audio_of(run: Run, sample: int = 0) -> Audio:
    """Audio and codes of a sample of a finished run; the audio is decoded from the finest sampled level.

    If the prompt is a recording, the audio is that prompt joined with the new audio.
    """
    level = run.finest
    streams = {run.stream(each).name: run.codes(each, [sample])[0] for each in run.request["levels"]}
    joined = joined_path(run, sample)
    audio = Audio.load(joined if joined and joined.is_file() else run.audio_path(level, sample))
    hop = run.request["hops"][level]
    return replace(audio, codes=Codes(streams, run.request["sample_rate"], run.total(level) * hop, {}))


@contextmanager
def _temporary_run(asked: dict[str, Any]) -> Generator[Run, None, None]:
    folder = tempfile.mkdtemp(prefix="jukebox_")
    try:
        run = Run.create(folder, asked)
        run.shown = False
        yield run
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _on_disk(recording: Recorded) -> Iterator[Path]:
    """Yield the path of a recording; an Audio is written to a temporary wav file of floats."""
    if not isinstance(recording, Audio):
        yield Path(recording)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        write_audio(path, recording.samples, recording.sample_rate, "FLOAT")
        yield path


def _wav_from(path: Path, first: int) -> Float[np.ndarray, "c n"]:
    """Read the samples of a 16-bit wav file from sample `first` on."""
    with wave.open(str(path), "rb") as file:
        file.setpos(first)
        pcm = np.frombuffer(file.readframes(file.getnframes() - first), "<i2").reshape(-1, file.getnchannels())
    return (pcm.T / 32768.0).astype(np.float32)


def _report(callbacks: Callbacks | None, streams: Sequence[str]) -> walk.Report | None:
    """The `report` argument of `walk.resume` that calls the callbacks; None without callbacks, which shows a progress bar."""
    if callbacks is None:
        return None

    def report(written: Written) -> None:
        if callbacks.progress:
            callbacks.progress(Progress(written.level, streams[written.level], written.done, written.total))
        if callbacks.cancel and callbacks.cancel():
            raise Cancelled("the job was cancelled")

    return report
