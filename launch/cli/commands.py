"""The command line: a table verb -> function. Functions are called through fire.

Notable: `--help` and errors in flags import no heavy package. Text flags stay text, because the annotation of a parameter
determines how its value is parsed. (fire alone reads `--artist 311` as a number and `--genre a,b` as a tuple.) An error of the
user is one line on stderr and exit code 2. A bug of this package keeps its traceback.
"""

from __future__ import annotations

import dis
import errno
import importlib
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from data_prep.errors import UserError
from data_prep.pool import abort_ranks, wait_for_leader
from jukebox import __version__
from launch.cli.usage import Usage, nearest, read_arguments, read_usage, render
from launch.cluster.heartbeat import open_heartbeat
from launch.cluster.ranks import rank_and_ranks

# verb -> (module:function, summary in one line). The parameters of the function are the flags.
VERBS: dict[str, tuple[str, str]] = {
    "demo": (
        "launch.demo.demo:demo",
        "train both routes on synthetic songs, generate and continue a song, show them on a page",
    ),
    "learn": ("launch.learn.learn:learn", "from your music to a model, a song and a continuation of one of your tracks"),
    "prepare": ("launch.verbs.prepare:prepare", "from music files (a folder, csv or jsonl) to a data folder with a manifest"),
    "data": (
        "launch.inspection.data:data",
        "print what a data folder contains: songs, labels, lyrics, licences, refused files",
    ),
    "labels": ("launch.inspection.labels:labels", "list the artists and genres of a model or a data folder, with counts"),
    "train": ("launch.training.train:train", "train a part of a model on a data folder: a codec, a prior"),
    "export": ("launch.training.export:export", "write a model from a checkpoint of a training"),
    "encode": ("launch.corpus.encode:encode", "encode all songs of a data folder, for the training of priors"),
    "sample": ("launch.verbs.sample:sample", "generate songs from artist, genre and lyrics"),
    "live": ("launch.live.live:live", "music without end, to a file, a pipe or the sound card; controlled by lines on stdin"),
    "continue": ("launch.verbs.sample:continue_", "continue a recording from its first seconds"),
    "branch": ("launch.verbs.sample:branch", "keep the first seconds of a take, and sample another continuation"),
    "upsample": ("launch.verbs.sample:upsample", "add the finer levels to a run or to codes"),
    "resume": ("launch.verbs.sample:resume", "finish an interrupted run, to the same codes"),
    "replay": ("launch.verbs.sample:replay", "sample the codes of a run.json again, and compare them"),
    "edit": ("launch.verbs.edit:edit", "inpaint a range of a recording; all other samples stay"),
    "vary": ("launch.verbs.edit:vary", "a variation of a recording: columns, beats or levels are kept, the rest is resampled"),
    "extend": ("launch.verbs.edit:extend", "add music before and after a recording"),
    "compress": ("launch.verbs.edit:compress", "keep so many bits per second of a recording, and sample the rest"),
    "morph": ("launch.latents.morph:morph", "mix the latents of two recordings, a wav for each share of the second"),
    "stretch": ("launch.latents.morph:stretch", "make a recording longer or shorter, at the same pitch"),
    "align": ("launch.verbs.align:align", "find when each word of a recording is sung: .lrc and json"),
    "plan": ("launch.verbs.plan:plan", "predict the memory and time of a run or a training"),
    "import": ("launch.verbs.import_:import_", "convert published checkpoints to a model folder"),
    "lyrics": ("launch.verbs.lyrics:lyrics", "train the SentencePiece vocabulary of lyrics, in any language"),
    "features": ("launch.verbs.features:features", "hidden states of a prior over a recording, for research"),
    "codec": ("launch.verbs.codec:codec", "convert audio files to codes and codes to audio"),
    "compare": ("launch.render.compare:compare", "render the same tokens by each renderer of a model: wav files and a table"),
    "save": ("launch.verbs.report:save", "write a take of a run as wav, flac or mp3, with cue markers and tags"),
    "serve": ("launch.serve.serve:serve", "a web page and an HTTP API for a model"),
    "report": ("launch.verbs.report:report", "draw the curves of a training as a page"),
    "evaluate": ("launch.verbs.evaluate:evaluate", "bits, reconstruction and conditions of a model, beside controls"),
    "ablate": ("launch.ablate.ablate:ablate", "train with and without each idea of a codec or a prior, and compare"),
    "launch": ("launch.cli.launch:launch", "run another verb in many processes: one machine, a list of hosts, MPI or SLURM"),
    "gpu-check": ("launch.gpu_check.gpu_check:gpu_check", "measure this machine's GPU within eight minutes"),
    "bench": ("launch.bench.bench:bench", "measure speed and memory of codecs, priors and sampling"),
}

# group -> verbs, in the order of `jukebox --help` and of the reference
GROUPS: dict[str, tuple[str, ...]] = {
    "use": (
        "sample", "continue", "branch", "upsample", "resume", "replay", "live", "edit", "vary", "extend", "compress", "morph", "stretch",
        "align", "save", "serve", "codec", "features",
    ),
    "data": ("prepare", "data", "labels", "encode", "lyrics"),
    "train": ("demo", "learn", "train", "export", "import"),
    "measure": ("evaluate", "compare", "ablate", "report"),
    "machines": ("launch", "plan", "bench", "gpu-check"),
}  # fmt: skip

_EXTRAS = {
    "deepspeed": "train", "wandb": "train", "mpi4py": "cluster", "fastapi": "web", "uvicorn": "web", "gradio": "spaces", "av": "video",
    "unidecode": "gpl", "sounddevice": "live",
}  # fmt: skip
_PACKAGES = ("vqvae", "priors", "data_prep", "jukebox", "launch")
# messages of torch for missing memory, on a CPU and on a GPU
_NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory")
_FULL_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not be that large here",
}


def main(argv: Sequence[str] | None = None, verbs: Mapping[str, tuple[str, str]] = VERBS) -> int:
    """Run one verb and return the exit code. A bug raises its exception.

    Exit codes are 0 for success, 2 for an error of the user, 130 for an interrupt, and 141 for a closed pipe.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without unicode must not raise
    open_heartbeat()
    code: Any = 1
    try:
        code = _answer(words, verbs)
        return code
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if code:
            abort_ranks(code)


def _answer(words: list[str], verbs: Mapping[str, tuple[str, str]]) -> int:
    """Run one verb and return its exit code. A user error is printed on stderr as one line."""
    verb = next((w for w in words if not w.startswith("-")), "")
    interrupts: list[int] = []
    try:
        with _noted(interrupts):
            _run(words, verbs)
        sys.stdout.flush()
        return _interrupted() if interrupts else 0  # a library has suppressed KeyboardInterrupt
    except KeyboardInterrupt as error:
        return _interrupted(*error.args)
    except BrokenPipeError:  # the reader of a pipe has ended, as in `jukebox ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        line = explain(error)
        if line is None and interrupts:  # a library has replaced KeyboardInterrupt by another error
            return _interrupted()
        if line is None:
            raise
        if os.environ.get("JUKEBOX_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        wait_for_leader()
        print(f"jukebox{f' {verb}' if verb in verbs else ''}: {line}", file=sys.stderr)
        return 2


def _interrupted(*kept: object) -> int:
    """Print "interrupted" and which results are kept, and return the exit code."""
    print("\n" + "; ".join(["interrupted", *map(_one_line, kept)]), file=sys.stderr)
    return 130


@contextmanager
def _noted(interrupts: list[int]) -> Iterator[None]:
    """Record every Ctrl-C in `interrupts`, and raise KeyboardInterrupt as usual."""

    def handle(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) != signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) == handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(words: list[str], verbs: Mapping[str, tuple[str, str]]) -> None:
    """Print help or version, or call the function of the verb."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        return print(_overview(verbs), end="")
    if words[0] == "--version":
        return print(f"jukebox {__version__}")
    verb, *rest = words
    if verb not in verbs:
        raise UserError(f"there is no verb {verb!r}{nearest(verb, list(verbs))} (jukebox --help lists them)")
    function = load(verbs[verb][0])
    usage = read_usage(verb, function)
    if refine := getattr(function, "refine_usage", None):  # some flags depend on the arguments
        usage = refine(usage, rest)
    before_dashes = rest[: rest.index("--")] if "--" in rest else rest
    if "-h" in before_dashes or "--help" in before_dashes:
        return print(render(usage), end="")
    _call(function, usage, read_arguments(usage, rest))


def load(target: str) -> Callable[..., Any]:
    """Import and return the function of `module:function`."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _call(function: Callable[..., Any], usage: Usage, texts: dict[str, str]) -> None:
    """Call the function through fire, with a parser for each parameter and every value bound to its name."""
    import fire
    from fire.decorators import SetParseFns

    @SetParseFns(**{argument.name: argument.parse for argument in usage.arguments})
    def verb(**values: Any) -> None:  # returns None, because fire would print a result
        rest = values.pop(usage.rest.name, ()) if usage.rest else ()
        parameters = {name.rstrip("_"): name for name in inspect.signature(function).parameters}
        function(*rest, **{parameters.get(name, name): value for name, value in values.items()})

    fire.Fire(verb, command=[f"--{name}={text}" for name, text in texts.items()], name=f"jukebox {usage.verb}")


def _overview(verbs: Mapping[str, tuple[str, str]]) -> str:
    """Return the help of the command: verbs by group, and verbs without a group last."""
    grouped = {verb for names in GROUPS.values() for verb in names}
    parts = []
    for group, names in {**GROUPS, "more": tuple(verb for verb in verbs if verb not in grouped)}.items():
        lines = [f"  {verb:<10} {verbs[verb][1]}\n" for verb in names if verb in verbs]
        parts += [f"{group}:\n", *lines, "\n"] if lines else []
    return f"""jukebox VERB ...: generates songs as audio, from artist, genre and lyrics

{"".join(parts)}jukebox VERB --help lists the arguments of a verb, with units and defaults; jukebox --version prints the version
JUKEBOX_TRACEBACK=1 prints the traceback of a one-line error
"""


def explain(error: BaseException) -> str | None:
    """Describe an error of the user or of the machine in one line; None for a bug of this package.

    Such errors are: UserError; a full disk or memory, also if torch or safetensors wrap the error; an OSError about a named
    file; an optional package that is not installed; and a ValueError that one of our packages raises.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if isinstance(error, UserError):
        return _one_line(error)
    for known in chain:
        wrapped = "No space left on device" in str(known) or "StorageFull" in str(known)
        if wrapped or (isinstance(known, OSError) and known.errno in _FULL_DISK):
            reason = _FULL_DISK.get(getattr(known, "errno", None) or errno.ENOSPC, "the disk is full")
            where = f" while writing {_one_line(known.filename)}" if isinstance(known, OSError) and known.filename else ""
            return f"{reason}{where}; free some space and run the same command again"
    if any(isinstance(known, MemoryError) or any(words in str(known) for words in _NO_MEMORY) for known in chain):
        return f"there is not enough memory ({_one_line(error)[:120]}); choose a smaller batch, fewer takes or a shorter length"
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").split(".")[0])):
        return f"this needs {error.name}, which is not installed; pip install 'jukebox-music[{extra}]'"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{_one_line(error.filename)}: {error.strerror.lower()}"
    if isinstance(error, ValueError) and _raised_by_us(error.__traceback__):
        return _one_line(error)
    return None


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether a `raise` statement in one of our packages raised the error, not a call that failed there."""
    if trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code.co_code
    home = trace.tb_frame.f_globals.get("__name__", "").split(".")[0]
    return home in _PACKAGES and dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"


def program() -> None:
    """Console script: run `main` and end the process.

    After a training, the threads of gloo abort about one rank in a hundred while Python shuts down. The job would then count as
    failed. So these ranks exit without a shutdown of Python. Ranks of MPI need the shutdown.
    """
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    if "torch.distributed" in sys.modules and "mpi4py.MPI" not in sys.modules and rank_and_ranks()[1] > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)
