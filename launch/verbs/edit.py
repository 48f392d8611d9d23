"""The verbs that edit a recording: edit (inpainting), vary, extend, compress. Outside the range no sample changes.

Times are seconds (42, 42.5) or minutes and seconds (0:42, 1:02.5). A song is an audio file, or a run folder with stored codes.
The edit itself is a run in the folder x.run beside x.wav. `jukebox resume` finishes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.errors import UserError
from jukebox.model.packed_codes import SUFFIX
from jukebox.params import DeviceOptions, EditOptions, KeptPrompt, MachineOptions, SamplingOptions, SamplingParams, TakeOptions
from launch.cli.parse import read_time
from launch.cli.route_flags import route_flags
from launch.cli.usage import shared_flags
from launch.verbs.sample import LabelFlags, SongFlags, beside, print_findings, read_song, report_left_out

if TYPE_CHECKING:
    from jukebox.editing.job import Edited
    from jukebox.editing.verbs import EditSettings
    from jukebox.model.folder import ModelFolder


@shared_flags
def edit(
    model: str, song: str, *, start: str, end: str, out: str = "", words: SongFlags, results: TakeOptions, params: SamplingParams,
    options: EditOptions, machine: DeviceOptions,
) -> None:  # fmt: skip
    """Resample a range of a song, conditioned on what is before it and after it.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    start: where the range begins, in seconds or as m:ss
    end: where it ends
    out: file to write, .wav, .flac, .aiff, .ogg, .opus or .mp3 (empty: as and beside the song, the verb appended); takes are
        numbered
    """
    begin, stop = read_time(start, "--start"), read_time(end, "--end")
    opened, settings = _opened(model, words, results, params, options, machine)
    from jukebox.editing import verbs

    made = verbs.edit(opened, song, out or beside(song, "edit"), begin, stop, settings)
    _print_summary(made, f"{_shown(begin)} to {_shown(stop)} are new; {_faded(options)}")


@shared_flags
def vary(
    model: str, song: str, *, prompt: KeptPrompt, start: str = "0", end: str = "", out: str = "", words: LabelFlags, results: TakeOptions,
    params: SamplingParams, options: EditOptions, machine: DeviceOptions,
) -> None:  # fmt: skip
    """Resample a song except its kept parts: the columns that any prompt keeps, and whole levels.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    start: start of the resampled range, in seconds or as m:ss
    end: end of the range (empty: that of the song)
    out: file to write, .wav, .flac, .aiff, .ogg, .opus or .mp3 (empty: as and beside the song, the verb appended); takes are
        numbered
    """
    begin, stop = read_time(start, "--start"), read_time(end, "--end") if end else None
    opened, settings = _opened(model, words, results, params, options, machine)
    for flag, levels in (("--keep_levels", prompt.keep_levels), ("--redraw_levels", prompt.redraw_levels)):
        if wrong := [level for level in levels if not 0 <= level < len(opened.hops)]:
            expected = f"levels from 0 to {len(opened.hops) - 1} joined by commas, as in 2,1"
            raise UserError(f"{flag} got {','.join(map(str, levels))!r}, expected {expected}; there is no {wrong[0]}")
    from jukebox.editing import verbs

    made = verbs.vary(opened, song, out or beside(song, "vary"), prompt, begin, stop, settings)
    _print_summary(made, _kept(made, options))


@shared_flags
def extend(
    model: str, song: str, *, before: str = "0", after: str = "0", out: str = "", words: SongFlags, results: TakeOptions,
    params: SamplingParams, options: EditOptions, machine: DeviceOptions,
) -> None:  # fmt: skip
    """Extend a song at its start and end with new music that is conditioned on the song.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    before: seconds of music before it
    after: seconds of music after it
    out: file to write, .wav, .flac, .aiff, .ogg, .opus or .mp3 (empty: as and beside the song, the verb appended); takes are
        numbered
    """
    before_start, after_end = read_time(before, "--before"), read_time(after, "--after")
    opened, settings = _opened(model, words, results, params, options, machine)
    from jukebox.editing import verbs

    made = verbs.extend(opened, song, out or beside(song, "extend"), before_start, after_end, settings)
    fade = f"joined within {options.fade * 1000:g} ms of them; the song is as it was"
    _print_summary(made, f"{_shown(before_start)} before and {_shown(after_end)} after are new, {fade}")


@shared_flags
def compress(
    model: str, song: str, *, kbps: float, start: str = "0", end: str = "", out: str = "", words: LabelFlags, results: TakeOptions,
    params: SamplingParams, options: EditOptions, machine: DeviceOptions,
) -> None:  # fmt: skip
    """Make a song from few bits of its codes per second, the others sampled: from compression to generation.

    The kept codes are also written as a file, .codes, of about that many bits; `jukebox codec decode` decodes it to the song.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    kbps: largest number of thousand bits per second
    start: start of the resampled range, in seconds or as m:ss
    end: end of the range (empty: that of the song)
    out: file to write, .wav, .flac, .aiff, .ogg, .opus or .mp3 (empty: as and beside the song, the verb appended); takes are
        numbered
    """
    begin, stop = read_time(start, "--start"), read_time(end, "--end") if end else None
    opened, settings = _opened(model, words, results, params, options, machine)
    from jukebox.editing import verbs

    made = verbs.compress(opened, song, out or beside(song, "compress"), kbps, begin, stop, settings)
    _print_summary(made, _kept(made, options))
    codes = made.run.folder.with_suffix(SUFFIX)
    print(f"{codes}: what is kept, {codes.stat().st_size:,} bytes")


# ---- from the user's arguments


def _opened(
    model: str, words: LabelFlags, results: TakeOptions, params: SamplingParams, options: EditOptions, machine: DeviceOptions
) -> tuple[ModelFolder, EditSettings]:
    """Open the model (this imports torch) and return it with the settings of the edit; UserError for negative options."""
    if min(params.temperature, params.temperature_lower, options.fade, results.total_seconds) < 0:
        raise UserError("temperatures, --fade and --total_seconds must not be negative; change the one that is")
    from jukebox.editing.verbs import EditSettings
    from jukebox.model.folder import ModelFolder
    from jukebox.runs.request import RunSettings

    opened = ModelFolder.from_pretrained(model)
    song = read_song(opened.info, SongFlags(**vars(words)))
    report_left_out(opened, [song.lyrics or ""])
    run = RunSettings(SamplingOptions(**vars(results)), params, MachineOptions(**vars(machine)))
    return opened, EditSettings(song, run, options)


# ---- output


def _shown(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:06.3f}"


def _faded(options: EditOptions) -> str:
    return f"cross-fades of {options.fade * 1000:g} ms lie inside the range, all outside is as it was"


def _kept(made: Edited, options: EditOptions) -> str:
    return f"kept {made.kept_rate / 1000:.3f} of {made.full_rate / 1000:.3f} kb/s; {_faded(options)}"


def _print_summary(made: Edited, what: str) -> None:
    if made.orphans:
        print(
            f"{made.orphans} codes are kept under coarser ones that change, and contradict them; keep levels from the coarsest on"
        )
    print(what)
    if made.made:
        print(f"{made.made * made.windows} windows in {made.took:.1f} s")
    if made.made < len(made.takes):
        print(f"{len(made.takes) - made.made} of {len(made.takes)} were there already")
    form, target = (made.run.request["recording"][name][1] for name in ("form", "target"))
    if target != form:
        print(f"outside the range too the samples are not those of the song: it is written as {target}")
    print("\n".join(f"{path}" for path in made.takes))
    print(f"the original beside it: {made.run.folder / 'index.html'}")
    print_findings(made.run)


for _verb in (edit, vary, extend, compress):
    _verb.refine_usage = route_flags  # type: ignore[attr-defined]
