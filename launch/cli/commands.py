"""The command line: one table, verb -> function, called through fire.

Notable: nothing heavy is imported to answer `--help` or to refuse a wrong word; text flags stay text (fire by itself
reads `--artist 311` as a number and `--genre a,b` as a tuple), because every value is read by its annotation; a
mistake of the person is one line on stderr and exit code 2, a bug of ours keeps its traceback.
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

# verb -> (module:function, what it does in one line). The functions' parameters are the flags.
VERBS: dict[str, tuple[str, str]] = {
    "demo": (
        "launch.demo.demo:demo",
        "made songs, every level trained, a song with lyrics and a continuation, as pages to hear",
    ),
    "learn": (
        "launch.learn.learn:learn",
        "your music -> a model, a song and a continuation of one of your tracks, in some hours",
    ),
    "prepare": ("launch.verbs.prepare:prepare", "music files (a folder, csv or jsonl) -> a data folder with a manifest"),
    "data": ("launch.inspection.data:data", "what a data folder holds: songs, labels, lyrics, licences, refused files"),
    "labels": ("launch.inspection.labels:labels", "the artists and genres that a model or a data folder knows, with counts"),
    "train": ("launch.training.train:train", "train a level's codec (vqvae) or its prior on a data folder"),
    "export": ("launch.training.export:export", "the weights of a checkpoint of a training, as a model to play"),
    "encode": ("launch.corpus.encode:encode", "the codes of all songs of a data folder, written beside its manifest"),
    "sample": ("launch.verbs.sample:sample", "write songs from artist, genre and lyrics"),
    "live": ("launch.live.live:live", "music without end, to a file, a pipe or the sound card, controlled by lines on stdin"),
    "continue": ("launch.verbs.sample:continue_", "carry on a recording from its first seconds"),
    "branch": ("launch.verbs.sample:branch", "keep the first seconds of a run, and go on otherwise"),
    "upsample": ("launch.verbs.sample:upsample", "the finer levels of a run or of codes that has only coarse ones"),
    "resume": ("launch.verbs.sample:resume", "finish a run that was interrupted, to the same codes"),
    "replay": ("launch.verbs.sample:replay", "draw the codes of a run.json again, and compare them"),
    "edit": ("launch.verbs.edit:edit", "a range of a song drawn anew, the rest as it was, sample for sample"),
    "vary": ("launch.verbs.edit:vary", "a song drawn anew around what is kept of it: columns, beats, levels"),
    "extend": ("launch.verbs.edit:extend", "more music in front of a song and behind it"),
    "compress": ("launch.verbs.edit:compress", "a song from so many bits of its codes a second"),
    "align": ("launch.verbs.align:align", "when each word of a recording is sung: .lrc and json"),
    "plan": ("launch.verbs.plan:plan", "what a run will take in memory and time, before it is begun"),
    "import": ("launch.verbs.import_:import_", "published checkpoints -> a model folder"),
    "lyrics": ("launch.verbs.lyrics:lyrics", "the pieces that lyrics are written in, learned in any language"),
    "features": ("launch.verbs.features:features", "the hidden states of a prior over a recording, for research"),
    "codec": ("launch.verbs.codec:codec", "sound files to codes, codes to sound, or the sound that a level keeps"),
    "compare": ("launch.render.compare:compare", "the same tokens through each renderer of a model: wav files and a table"),
    "save": ("launch.verbs.report:save", "a take of a run as wav, flac or mp3 with cue markers and tags"),
    "serve": ("launch.serve.serve:serve", "a web page and an HTTP API for a model: sample, continue, edit, library"),
    "report": ("launch.verbs.report:report", "the curves of a training as a page, from its log.jsonl"),
    "evaluate": ("launch.verbs.evaluate:evaluate", "what a model learned, in bits per code beside its controls"),
    "ablate": ("launch.ablate.ablate:ablate", "what each idea of the codec or the prior is worth, by leaving it out"),
    "launch": ("launch.cli.launch:launch", "any of these in many processes: one machine, a list of hosts, MPI or SLURM"),
    "gpu-check": ("launch.gpu_check.gpu_check:gpu_check", "every figure of this machine's GPU within eight minutes"),
    "bench": ("launch.bench.bench:bench", "codes a second of each prior beside the machine's own limit"),
}

_EXTRAS = {
    "deepspeed": "train", "wandb": "train", "mpi4py": "cluster", "fastapi": "web", "uvicorn": "web", "gradio": "spaces", "av": "video",
    "unidecode": "gpl", "sounddevice": "live",
}  # fmt: skip
_PACKAGES = ("vqvae", "priors", "data_prep", "jukebox", "launch")
# how torch says that memory is not there, on a CPU and on a GPU
_NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory")
_FULL_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not be that large here",
}


def main(argv: Sequence[str] | None = None, verbs: Mapping[str, tuple[str, str]] = VERBS) -> int:
    """Run one verb; the exit code: 0 well, 2 a mistake in one line, 130 interrupted; a bug leaves by its traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without unicode is no reason to die
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
    """Run one verb, with a line on stderr for what went wrong; its exit code."""
    verb = next((w for w in words if not w.startswith("-")), "")
    interrupts: list[int] = []
    try:
        with _noted(interrupts):
            _run(words, verbs)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt as error:
        return _interrupted(*error.args)
    except BrokenPipeError:  # `jukebox ... | head`: the reader has gone, and that is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        line = explain(error)
        if line is None and interrupts:  # a library has made another error of it
            return _interrupted()
        if line is None:
            raise
        if os.environ.get("JUKEBOX_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        wait_for_leader()
        print(f"jukebox{f' {verb}' if verb in verbs else ''}: {line}", file=sys.stderr)
        return 2


def _interrupted(*kept: object) -> int:
    """Print what is kept, where something is; the exit code."""
    print("\n" + "; ".join(["interrupted", *map(_one_line, kept)]), file=sys.stderr)
    return 130


@contextmanager
def _noted(interrupts: list[int]) -> Iterator[None]:
    """Note every Ctrl-C that Python would raise as KeyboardInterrupt, and raise it."""

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
    """Answer a question about usage, or call the verb's function."""
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
    if refine := getattr(function, "refine_usage", None):  # flags that depend on what is typed
        usage = refine(usage, rest)
    before_dashes = rest[: rest.index("--")] if "--" in rest else rest
    if "-h" in before_dashes or "--help" in before_dashes:
        return print(render(usage), end="")
    _call(function, usage, read_arguments(usage, rest))


def load(target: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _call(function: Callable[..., Any], usage: Usage, texts: dict[str, str]) -> None:
    """Call through fire: one parser a parameter, every value bound to its name, so that fire has nothing to guess."""
    import fire
    from fire.decorators import SetParseFns

    @SetParseFns(**{argument.name: argument.parse for argument in usage.arguments})
    def verb(**values: Any) -> None:  # and what the function returns is for Python, not for the terminal
        rest = values.pop(usage.rest.name, ()) if usage.rest else ()
        parameters = {name.rstrip("_"): name for name in inspect.signature(function).parameters}
        function(*rest, **{parameters.get(name, name): value for name, value in values.items()})

    fire.Fire(verb, command=[f"--{name}={text}" for name, text in texts.items()], name=f"jukebox {usage.verb}")


def _overview(verbs: Mapping[str, tuple[str, str]]) -> str:
    lines = "\n".join(f"  {verb:<10} {about}" for verb, (_, about) in verbs.items())
    return f"""jukebox VERB ...: songs as raw audio, from artist, genre and lyrics

{lines}

jukebox VERB --help says what a verb takes, with units and defaults; jukebox --version
JUKEBOX_TRACEBACK=1 shows where a one-line error came from
"""


def explain(error: BaseException) -> str | None:
    """The one line for a mistake of the person or the state of their machine; None for a bug of ours.

    Known are: UserError; a full disk or memory, however deep torch or safetensors have wrapped it; an OSError about a named file;
    an optional package that is not installed; and a ValueError that one of our packages raised on purpose.
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
    """Whether the error comes from a `raise` statement in one of our packages, not from a call that failed there."""
    if trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code.co_code
    home = trace.tb_frame.f_globals.get("__name__", "").split(".")[0]
    return home in _PACKAGES and dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"


def program() -> None:
    """The console script: `main`, and then the end of the process.

    Of ranks that have trained, one in about a hundred is aborted by gloo's threads while Python takes itself apart, and a
    job that is done would be called dead. Nothing is left to do then, so they do not wait for that; MPI's ranks must.
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
