"""The verbs that change a song: edit (a hole filled), vary, extend, compress. What is outside the range stays, sample for sample.

Times are seconds (42, 42.5) or minutes and seconds (0:42, 1:02.5). A song is a sound file, or a run folder, whose codes are there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from jukebox.device import choose_device
from launch.cli.parse import read_numbers, read_time
from launch.cli.usage import shared_flags
from launch.verbs.sample import LabelFlags, SongFlags, beside, read_song, report_left_out

if TYPE_CHECKING:
    from jukebox.editing.spans import Edited, EditOptions
    from jukebox.model.folder import ModelFolder


@dataclass(frozen=True)
class EditFlags:
    """How codes are drawn, and on what.

    out: sound file to write (empty: beside the song, with the verb behind its name); takes are numbered
    takes: results, which differ in what chance decides
    seed: number that all chance follows from
    passes: rounds in which each level is filled, coarsest first
    temperature: how adventurous the top level is; 0 always takes the likeliest code
    temperature_lower: the same for the levels below
    fade: seconds at both ends of a range, inside it, in which old and new sound cross over
    total_seconds: length of the whole song that the model is told, in seconds (0: that of the result)
    sample: of a run folder, number of the sample to change, counted from 1 as on the page
    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    dtype: numbers of the priors
    """

    out: str = ""
    takes: int = 1
    seed: int = 0
    passes: str = "24,24,12"
    temperature: float = 0.98
    temperature_lower: float = 0.9
    fade: float = 0.02
    total_seconds: float = 0.0
    sample: int = 1
    threads: int = 0
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@shared_flags
def edit(model: str, song: str, *, start: str, end: str, words: SongFlags, flags: EditFlags) -> None:
    """Draw a range of a song anew, hearing what is before it and behind it.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    start: where the range begins, in seconds or as m:ss
    end: where it ends
    """
    begin, stop = read_time(start, "--start"), read_time(end, "--end")
    opened, options = _opened(model, flags)
    made = _make("edit", opened, song, options, words, flags, begin, stop)
    _print_summary(made, f"{_shown(begin)} to {_shown(stop)} are new; {_faded(options)}")


@shared_flags
def vary(
    model: str, song: str, *, periodic: int = 0, width: int = 1, roll: int = 0, random: float = 1.0, prefix: float = 0.0,
    suffix: float = 0.0, beat: bool = False, before_beat: float = 0.0, after_beat: float = 0.075, every_beat: int = 1, onset: int = -1,
    dropout: float = 0.0, keep_levels: str = "", redraw_levels: str = "", start: str = "0", end: str = "", words: LabelFlags,
    flags: EditFlags,
) -> None:  # fmt: skip
    """Draw a song anew around what is kept of it: the columns that any of the prompts keeps, and whole levels.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    periodic: keep every so-manieth column (0: none)
    width: columns kept at each of these, an odd number
    roll: number of the first of these columns
    random: share of the columns that is not kept, at random (1: none is kept)
    prefix: keep the first seconds of the range
    suffix: keep its last seconds
    beat: keep the beats
    before_beat: seconds kept before each beat
    after_beat: seconds kept after it
    every_beat: keep every so-manieth beat only
    onset: keep the columns in which notes begin, and so many on both sides (-1: do not)
    dropout: share of the kept columns that is let go again, at random
    keep_levels: levels kept everywhere, from the coarsest on, as in 2 or 2,1
    redraw_levels: levels drawn anew everywhere, whatever the prompts keep, as in 0
    start: where the range begins that is drawn, in seconds or as m:ss
    end: where it ends (empty: with the song)
    """
    begin, stop = read_time(start, "--start"), read_time(end, "--end") if end else None
    opened, options = _opened(model, flags)
    from jukebox.editing.verbs import Prompt

    prompt = Prompt(
        periodic, width, roll, random, prefix, suffix, beat, before_beat, after_beat, every_beat, onset, dropout,
        _levels(opened, keep_levels, "--keep_levels"), _levels(opened, redraw_levels, "--redraw_levels"),
    )  # fmt: skip
    made = _make("vary", opened, song, options, words, flags, prompt, begin, stop)
    _print_summary(made, _kept(made, options))


@shared_flags
def extend(model: str, song: str, *, before: str = "0", after: str = "0", words: SongFlags, flags: EditFlags) -> None:
    """Write more music in front of a song and behind it, which hears the song and leads into it.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    before: seconds of music in front
    after: seconds of music behind
    """
    before_start, after_end = read_time(before, "--before"), read_time(after, "--after")
    opened, options = _opened(model, flags)
    made = _make("extend", opened, song, options, words, flags, before_start, after_end)
    fade = f"joined within {options.fade * 1000:g} ms of them; the song is as it was"
    _print_summary(made, f"{_shown(before_start)} in front and {_shown(after_end)} behind are new, {fade}")


@shared_flags
def compress(
    model: str, song: str, *, kbps: float, start: str = "0", end: str = "", words: LabelFlags, flags: EditFlags
) -> None:
    """Make a song from few bits of its codes a second, the others drawn: the dial between compression and generation.

    model: folder of a trained model, with a masked prior
    song: the recording, in any format that `prepare` reads, or a run folder
    kbps: thousand bits a second that may be kept
    start: where the range begins that is drawn, in seconds or as m:ss
    end: where it ends (empty: with the song)
    """
    begin, stop = read_time(start, "--start"), read_time(end, "--end") if end else None
    opened, options = _opened(model, flags)
    made = _make("compress", opened, song, options, words, flags, kbps, begin, stop)
    _print_summary(made, _kept(made, options))


# ---- from what a person types


def _opened(model: str, flags: EditFlags) -> tuple[ModelFolder, EditOptions]:
    """The model, and how to draw; torch comes here."""
    if min(flags.temperature, flags.temperature_lower, flags.fade, flags.total_seconds) < 0:
        raise UserError("temperatures, --fade and --total_seconds must not be negative; change the one that is")
    import torch

    from jukebox.editing.spans import EditOptions
    from jukebox.model.folder import ModelFolder
    from priors.spec import SamplingParams

    opened = ModelFolder.from_pretrained(model)
    top = len(opened.hops) - 1
    passes = read_numbers(flags.passes, "--passes", f"{top + 1} numbers from 1, as in 24,24,12", low=1, count=top + 1)
    torch.set_num_threads(opened.info.threads(flags.threads))
    temperatures = [flags.temperature, *[flags.temperature_lower] * top]
    params = {top - i: SamplingParams(heat, passes=n) for i, (heat, n) in enumerate(zip(temperatures, passes))}
    device = choose_device(flags.device)
    return opened, EditOptions(params, flags.takes, flags.seed, flags.fade, flags.total_seconds, device, flags.dtype)


def _levels(opened: ModelFolder, text: str, flag: str) -> tuple[int, ...]:
    top = len(opened.hops) - 1
    return read_numbers(text, flag, f"levels from 0 to {top} joined by commas, as in 2,1", 0, top)


def _make(
    verb: str, opened: ModelFolder, song: str, options: EditOptions, words: LabelFlags, flags: EditFlags, *params: Any
) -> Edited:
    """What the function `verb` of `jukebox/editing/verbs.py` makes of a song, by `params` of its own."""
    from jukebox.editing import verbs

    out = Path(flags.out) if flags.out else beside(song, verb)  # without a suffix: the song's format says which
    asked = read_song(opened.info, SongFlags(**vars(words)))
    report_left_out(opened.folder, [asked.lyrics or ""])
    return getattr(verbs, verb)(opened, song, out, *params, asked, options, flags.sample)


# ---- what is told


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
    print("\n".join(f"{path}" for path in made.takes))
