"""The command line: its words, its help, its one-line errors. Mostly in this process, with a toy verb in the table."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import UserError
from launch.cli.commands import GROUPS, VERBS, explain, main
from launch.cli.usage import LARGEST, read_usage, render, shared_flags
from tests.census import GLOSSARY, read_glossary
from tests.prose import Page, Sentence, glossary_matches

SEEN: list[tuple] = []
TO_RAISE: list[BaseException] = []
TEXTS = ["311", "3.5", "a,b", "None", "True", "[x]", "{'a': 1}", "-", "-1", "--x", "", " ", "é 音", "a=b", '"q"', "a\nb", "'"]


def toy(
    model: str,
    song: str,
    *,
    artist: str | None = None,
    prompt_seconds: float = 12.0,
    seed: int = 0,
    page: bool = True,
    loud: bool = False,
):
    """Sing a toy song.

    model: the model folder
    song: what to sing
    artist: the name of the artist
    prompt_seconds: how much is kept,
        counted from the start, seconds
    seed: the seed of all draws
    page: write the page
    loud: sing loudly
    """
    SEEN.append((model, song, artist, prompt_seconds, seed, page, loud))
    if TO_RAISE:
        raise TO_RAISE.pop()
    return {"fire": "must not print this"}


@pytest.fixture
def jukebox(monkeypatch):
    """Run the command line on a table with the toy verb."""
    SEEN.clear()
    TO_RAISE.clear()
    monkeypatch.delenv("JUKEBOX_TRACEBACK", raising=False)
    monkeypatch.setattr("launch.cli.commands.load", lambda target: toy)
    return lambda *words: main(words, verbs={"toy": ("nowhere:toy", "sings")})


@pytest.mark.parametrize("text", TEXTS)
def test_text_arrives_exactly_as_typed(jukebox, text):
    assert jukebox("toy", "m", "s", f"--artist={text}") == 0
    assert SEEN[-1][2] == text
    if text != "--x":  # a value that begins with -- needs the =
        assert jukebox("toy", "m", "s", "--artist", text) == 0
        assert SEEN[-1][2] == text


@pytest.mark.parametrize("text", [t for t in TEXTS if not re.match("--?[a-z]", t)])
def test_positional_text_arrives_exactly_as_typed(jukebox, text):
    assert jukebox("toy", text, "--seed", "4", "s") == 0
    assert SEEN[-1][:2] == (text, "s")


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], ("m", "s", None, 12.0, 0, True, False)),
        (["--prompt-seconds", "-2.5", "--seed=-3"], ("m", "s", None, -2.5, -3, True, False)),
        (["--prompt_seconds=1e1", "--seed", "7"], ("m", "s", None, 10.0, 7, True, False)),
        (["--loud", "--nopage"], ("m", "s", None, 12.0, 0, False, True)),
        (["--loud=false", "--page", "false"], ("m", "s", None, 12.0, 0, False, False)),
        (["--no-page", "--loud", "true"], ("m", "s", None, 12.0, 0, False, True)),
    ],
)
def test_flags_arrive_with_their_types(jukebox, words, expected):
    assert jukebox("toy", "m", "s", *words) == 0
    assert SEEN == [expected]
    assert all(type(a) is type(b) for a, b in zip(SEEN[0], expected))


def test_positionals_may_stand_between_flags_and_a_truth_takes_no_word(jukebox):
    assert jukebox("toy", "--loud", "m", "--seed", "1", "s") == 0
    assert SEEN == [("m", "s", None, 12.0, 1, True, True)]
    assert jukebox("toy", "--song", "s2", "m") == 0 and SEEN[-1][:2] == ("m", "s2")
    assert jukebox("toy", "--seed", "1", "--", "--m", "-s") == 0 and SEEN[-1][:2] == ("--m", "-s")


@pytest.mark.parametrize(
    "words, expected",
    [
        (["tyo"], "there is no verb 'tyo'; did you mean toy?"),
        (["toy", "m", "s", "--prompt_second", "3"], "there is no flag --prompt_second; did you mean --prompt_seconds?"),
        (["toy", "m", "s", "--sede=3"], "there is no flag --sede; did you mean --seed?"),
        (["toy", "m", "s", "-x"], "there is no flag -x"),
        (["toy", "m"], "SONG is missing"),
        (["toy"], "MODEL is missing"),
        (["toy", "m", "s", "t"], "'t' is one word too many"),
        (["toy", "m", "s", "--artist"], "--artist needs a value"),
        (["toy", "m", "s", "--artist", "--seed", "1"], "--artist needs a value before --seed"),
        (["toy", "m", "s", "--seed", "1", "--seed", "2"], "--seed is given twice"),
        (["toy", "m", "s", "--prompt_seconds", "abc"], "--prompt_seconds got 'abc', expected a number of seconds"),
        (["toy", "m", "s", "--prompt_seconds", "nan"], "--prompt_seconds got 'nan', expected a number of seconds"),
        (["toy", "m", "s", "--seed", "2.5"], "--seed got '2.5', expected a whole number"),
        (["toy", "m", "s", "--seed="], "--seed got '', expected a whole number"),
        (["toy", "m", "s", "--loud=maybe"], "--loud got 'maybe', expected true or false"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(jukebox, capsys, words, expected):
    assert jukebox(*words) == 2
    out, err = capsys.readouterr()
    assert not SEEN and not out and err.count("\n") == 1
    assert err.startswith("jukebox toy: " if words[0] == "toy" else "jukebox: ") and expected in err


def test_help_tells_every_flag_with_its_type_unit_and_default(jukebox, capsys):
    for words in (["toy", "--help"], ["toy", "m", "-h"], ["help", "toy"]):
        assert jukebox(*words) == 0
        page = capsys.readouterr().out
        assert page.startswith("jukebox toy MODEL SONG [--flags]\n\nSing a toy song.")
        assert re.search(r"--prompt_seconds NUMBER +how much is kept, counted from the start, seconds \(default 12.0\)", page)
        assert re.search(r"--seed INTEGER +the seed of all draws \(default 0\)", page)
        assert re.search(r"--page / --nopage +write the page \(default yes\)", page)
        assert re.search(r"MODEL +the model folder", page) and re.search(r"--artist TEXT +the name of the artist\n", page)
    assert not SEEN
    assert jukebox("--help") == 0 and re.search(r"toy +sings", capsys.readouterr().out)


@dataclass(frozen=True)
class Shared:
    """What two verbs have in common.

    loud: how loud, dB
    name: whose it is
    """

    loud: float = -3.0
    name: str = ""


def test_flags_that_verbs_share_are_written_once_and_read_like_their_own():
    @shared_flags
    def one(song: str, *, seed: int = 0, shared: Shared) -> tuple:
        """Sing.

        song: what to sing
        seed: the seed
        """
        return song, seed, shared

    usage = read_usage("one", one)
    assert usage.summary == "Sing." and usage.line() == "jukebox one SONG [--flags]"
    assert {a.name: (a.kind, a.default, a.about) for a in usage.flags} == {
        "seed": (int, 0, "the seed"), "loud": (float, -3.0, "how loud, dB"), "name": (str, "", "whose it is"),
    }  # fmt: skip
    assert one("x", seed=2, loud=1.0) == ("x", 2, Shared(1.0, ""))


def test_what_a_verb_returns_is_not_printed(jukebox, capsys):
    assert jukebox("toy", "m", "s") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("got x,\n expected y"), "got x, expected y"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "song.mp3"), "song.mp3: no such file or directory"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
    ],
)
def test_a_mistake_of_the_person_is_one_line(jukebox, capsys, monkeypatch, error, line):
    TO_RAISE.append(error)
    assert jukebox("toy", "m", "s") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"jukebox toy: {line}") and err.count("\n") == 1
    monkeypatch.setenv("JUKEBOX_TRACEBACK", "1")
    TO_RAISE.append(error)
    assert jukebox("toy", "m", "s") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_recognised_through_what_torch_and_safetensors_make_of_it():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0")
    except RuntimeError as torch_error:
        assert "disk is full" in (explain(torch_error) or "")
    rust = RuntimeError('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space left" }')
    assert "disk is full" in (explain(rust) or "")
    assert explain(RuntimeError("PytorchStreamWriter failed writing file data/0")) is None


def test_a_bug_keeps_its_traceback(jukebox):
    for bug in (RuntimeError("shapes"), KeyError("x"), ValueError("from somewhere else"), OSError("odd")):
        TO_RAISE.append(bug)
        with pytest.raises(type(bug)):
            jukebox("toy", "m", "s")


def test_a_value_error_is_explained_only_where_our_code_raises_it():
    space = {"__name__": "vqvae.jukebox.blocks"}
    exec("def refuse(): raise ValueError('depth got 0, expected 1 or more')\ndef slip(): return int('x')", space)

    def line(call) -> str | None:
        with pytest.raises(ValueError) as caught:
            call()
        return explain(caught.value)

    assert line(space["refuse"]) == "depth got 0, expected 1 or more"
    assert line(space["slip"]) is None, "int() failed inside our code: that is a bug"
    space["__name__"] = "numpy.core"
    assert line(space["refuse"]) is None, "somebody else's ValueError is a bug of ours"


def test_an_optional_package_that_is_missing_is_named_with_its_extra():
    assert "jukebox-music[train]" in (explain(ModuleNotFoundError("no", name="deepspeed")) or "")
    assert explain(ModuleNotFoundError("no", name="torch")) is None


def test_an_interruption_is_one_line_and_exit_code_130(jukebox, capsys):
    TO_RAISE.append(KeyboardInterrupt())
    assert jukebox("toy", "m", "s") == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_an_interruption_that_a_library_made_another_error_of_is_one_too(jukebox, capsys, monkeypatch):
    def library(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RuntimeError("could not determine the shape") from None

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("launch.cli.commands._call", library)
    assert jukebox("toy", "m", "s") == 130
    assert capsys.readouterr().err.strip() == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_verb_is_in_exactly_one_of_five_groups():
    assert list(GROUPS) == ["use", "data", "train", "measure", "machines"]
    assert sorted(verb for names in GROUPS.values() for verb in names) == sorted(VERBS)


def test_the_help_lists_the_verbs_by_group_in_the_terms_of_the_glossary(capsys):
    assert main(["--help"], verbs={**VERBS, "toy": ("nowhere:toy", "a verb of no group")}) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+):$", printed, re.MULTILINE) == [*GROUPS, "more"]
    page = Page("help", 0, [Sentence(number, line) for number, line in enumerate(printed.splitlines())])
    assert glossary_matches(page, read_glossary(GLOSSARY.read_text("utf-8"))) == []


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_is_there_and_every_flag_of_it_is_documented(verb):
    target, about = VERBS[verb]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    usage = read_usage(verb, function)
    assert about and usage.summary
    for argument in usage.arguments:
        assert argument.about, f"{target} does not say what {argument.name} is"
        assert argument.default is not inspect.Parameter.empty or argument.positional or "(must be given)" in render(usage)
        if argument.name.endswith("seconds"):
            assert "second" in argument.about, f"{target} does not say the unit of {argument.name}"
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD not in kinds, "a verb takes named flags"
    assert (inspect.Parameter.VAR_POSITIONAL in kinds) == (verb == "launch"), "and launch another verb's words"


def test_text_flags_of_real_verbs_are_read_as_text():
    for name in ("artist", "genre"):
        arguments = {a.name: a for a in read_usage("sample", importlib.import_module("launch.verbs.sample").sample).arguments}
        assert arguments[name].kind is str


WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["toy", "--", "-", "-h", "--artist", "--seed", "--loud", "--noloud", "--no-page", "--prompt_seconds", "1"]),
    st.builds("--{}={}".format, st.sampled_from(["artist", "seed", "prompt-seconds", "loud", "x"]), st.text(max_size=6)),
)


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(words=st.lists(WORDS, max_size=6))
def test_no_words_whatever_make_a_traceback(words):
    SEEN.clear()
    TO_RAISE.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.cli.commands.load", lambda target: toy)
        code = main(["toy", *words], verbs={"toy": ("nowhere:toy", "sings")})
    asked_for_help = {"-h", "--help"} & set(words[: words.index("--")] if "--" in words else words)
    assert code == (0 if SEEN or asked_for_help else 2)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(
    model=st.text(),
    artist=st.text(),
    seed=st.integers(-LARGEST, LARGEST),
    seconds=st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_value_arrives_as_it_was_typed(model, artist, seed, seconds):
    SEEN.clear()
    TO_RAISE.clear()
    words = ["toy", f"--artist={artist}", "--seed", str(seed), f"--prompt-seconds={seconds!r}", "--", model, "s"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.cli.commands.load", lambda target: toy)
        assert main(words, verbs={"toy": ("nowhere:toy", "sings")}) == 0
    assert SEEN == [(model, "s", artist, seconds, seed, True, False)]


# Real processes from here on: few, because each costs its start.


def run(*words: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "launch.cli", *words], capture_output=True, text=True, timeout=60, **more)


def test_help_loads_nothing_heavy_and_so_answers_at_once():
    result = run("--help")
    assert result.returncode == 0 and all(verb in result.stdout for verb in VERBS)
    heavy = "torch librosa soundfile pyarrow matplotlib fire deepspeed wandb scipy numpy".split()
    code = f"import sys; from launch.cli import main; main(['--help']); print(sorted(set({heavy}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_help_of_every_verb_loads_no_torch():
    code = f"""
        import sys
        from launch.cli import main
        for verb in {list(VERBS)}:
            assert main([verb, "--help"]) == 0
            heavy = {{"torch", "librosa", "pyarrow", "matplotlib", "deepspeed"}} & set(sys.modules)
            assert not heavy, (verb, heavy)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_console_script_refuses_a_wrong_flag_in_one_line():
    script = Path(sys.executable).with_name("jukebox")
    result = subprocess.run([script, "sample", "m", "--secconds", "3"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.count("\n") == 1 and "did you mean --seconds?" in result.stderr


def test_a_reader_that_leaves_and_a_signal_end_quietly(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def slow(*, forever: bool = False):\n"
        "    print('begun', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01) if forever else print('line', flush=True)\n"
    )
    code = "import sys; from launch.cli import main; sys.exit(main(verbs={'slow': ('slow:slow', '')}))"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
    for flags, leave, expected in [([], None, ""), (["--forever"], signal.SIGINT, "interrupted")]:
        command = [sys.executable, "-c", code, "slow", *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(leave) if leave else process.stdout.close()
            assert process.stderr.read().strip() == expected
            assert process.wait(timeout=30) == (130 if leave else 141)
