"""Usage of a verb: positionals and flags with types, defaults and descriptions, from the signature and docstring of a function.

A verb is a plain function. Parameters before the `*` are positionals, all others are flags. The annotation is the type. A value
of `tuple[int, ...]` is written as 2,1,0. After its summary, the docstring has a line for each parameter, `name: description,
unit`. A line with a deeper indentation continues the previous one. `shared_flags` makes flags of the fields of dataclasses.
Help, checks and error messages all use the `Usage`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
import shlex
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from launch.cli.parse import read_list

_TYPE_NAMES = {int: "integer", float: "number", bool: "yes/no", str: "text", Path: "path"}
LARGEST = 2**63 - 1  # largest integer of 64 bits
OF_PROCESSES = dict.fromkeys(("threads", "workers", "processes", "ranks", "ranks_per_node"), 4096)  # largest values
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """A parameter of a verb."""

    name: str
    kind: type  # int, float, bool, str or Path
    default: Any
    about: str  # description
    positional: bool
    choices: tuple[str, ...] = ()  # of a Literal
    several: bool = False  # a tuple of `kind`: one text with commas, or several words for the last positional
    rest: bool = False  # takes all words after a lone `--`

    def parse(self, text: str) -> Any:
        """Parse text to a value. Several words are one text with shell quotes. UserError for invalid or infinite values."""
        if self.words:
            return tuple(shlex.split(text))
        if self.several:
            return tuple(self._parse_one(part, text) for part in read_list(text))
        return self._parse_one(text, text)

    def _parse_one(self, text: str, given: str) -> Any:
        """Parse one value. `given` is the whole text, for the error."""
        if self.choices and text not in self.choices:
            close = nearest(text, self.choices)
            raise UserError(f"{self.shown} got {given!r}, expected one of {', '.join(self.choices)}{close}")
        try:
            if self.kind is bool:
                return _TRUTHS[text.lower()]
            value = self.kind(text)
        except (ValueError, KeyError):
            raise UserError(f"{self.shown} got {given!r}, expected {self._wanted()}") from None
        if self.kind is float and not math.isfinite(value):
            finite = "finite ones" if self.several else "a finite one"
            raise UserError(f"{self.shown} got {given!r}, expected {self._wanted()}, and {finite}")
        low, high = (0, OF_PROCESSES[self.name]) if self.name in OF_PROCESSES else (-LARGEST, LARGEST)
        if self.kind is int and not low <= value <= high:
            raise UserError(f"{self.shown} got {given!r}, expected {self._wanted()}, from {low:,} to {high:,}")
        return value

    @property
    def words(self) -> bool:
        """Whether the argument takes several words."""
        return self.rest or (self.several and self.positional)

    @property
    def shown(self) -> str:
        """Name as the user types it."""
        return f"-- {self.name.upper()}" if self.rest else self.name.upper() if self.positional else f"--{self.name}"

    @property
    def place(self) -> str:
        """Text for a positional in the usage line: its choices, or its name in capitals."""
        return "|".join(self.choices) or self.name.upper() + " ..." * self.words

    @property
    def type_name(self) -> str:
        """Name of the type in the help, in capitals."""
        return (_TYPE_NAMES[self.kind] + "s" * self.several).upper()

    def _wanted(self) -> str:
        noun = {int: "a whole number", float: "a number", bool: "true or false"}.get(self.kind, "text")
        noun = noun.removeprefix("a ") + "s" if self.several else noun
        units = [u for u in ("seconds", "minutes", "hours", "Hz", "MB", "GB", "steps") if re.search(rf"\b{u}\b", self.about)]
        noun += (f" of {units[0]}" if units else "") + " with commas between them" * self.several
        return noun + (f" ({self.about})" if self.about else "")


@dataclass(frozen=True)
class Usage:
    """Summary and arguments of a verb."""

    verb: str
    summary: str
    arguments: tuple[Argument, ...]

    @property
    def positionals(self) -> list[Argument]:
        return [a for a in self.arguments if a.positional and not a.rest]

    @property
    def flags(self) -> list[Argument]:
        return [a for a in self.arguments if not a.positional]

    @property
    def rest(self) -> Argument | None:
        """Parameter for the words after a lone `--`; None if there is none."""
        return next((a for a in self.arguments if a.rest), None)

    def line(self) -> str:
        """Return the usage line with all required arguments, such as `jukebox sample MODEL --out TEXT [--flags]`."""
        places = (a.place if a.default is REQUIRED else f"[{a.place}]" for a in self.positionals)
        words = ["jukebox", self.verb, *places]
        words += [f"--{a.name} {a.type_name}" for a in self.flags if a.default is REQUIRED]
        words += ["[--flags]"] * any(a.default is not REQUIRED for a in self.flags)
        return " ".join(words + ([f"-- {self.rest.place}"] if self.rest else []))


def read_usage(verb: str, function: Callable[..., Any]) -> Usage:
    """Read the usage of the verb `verb` from the signature and docstring of its function."""
    parameters = inspect.signature(function).parameters
    summary, abouts = _read_docstring(inspect.getdoc(function) or "", parameters)
    hints = typing.get_type_hints(function)
    arguments = []
    for name, parameter in parameters.items():
        kind, choices, several = _read_kind(hints.get(name, str))
        rest = parameter.kind is parameter.VAR_POSITIONAL
        positional = rest or parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        typed = name.rstrip("_")  # parameters of flags such as --with end in _, because `with` is a keyword
        arguments.append(Argument(typed, kind, parameter.default, abouts.get(name, ""), positional, choices, several, rest))
    return Usage(verb, summary, tuple(arguments))


def shared_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace each parameter of a dataclass type by the fields of the class, so that verbs share definitions of flags.

    The docstring of the dataclass, or of a class that it inherits from, has a line for each field, like the docstring of a verb
    for each parameter. A caller in Python passes the fields by keyword, or the dataclass itself. A dataclass may have a field
    `more`, which is no flag. It is a mapping of names to values for all other flags.
    """
    hints, parameters = typing.get_type_hints(function), inspect.signature(function).parameters
    groups = {name: hints[name] for name in parameters if is_dataclass(hints.get(name))}
    if clash := {field.name for group in groups.values() for field in fields(group)} & set(parameters):
        raise TypeError(f"{function.__name__}: {', '.join(sorted(clash))} is a parameter and a field of another one")

    @functools.wraps(function)
    def verb(*args: Any, **values: Any) -> Any:
        made = {
            name: group(**{f.name: values.pop(f.name) for f in fields(group) if f.name in values})
            for name, group in groups.items()
            if name not in values
        }
        if more := {name: values.pop(name) for name in [*values] if name not in parameters}:
            taker = next((name for name, group in made.items() if hasattr(group, "more")), None)
            if taker is None:
                raise TypeError(f"{function.__name__} has no parameter {', '.join(more)}")
            made[taker] = replace(made[taker], more=more)
        return function(*args, **values, **made)

    flags: list[inspect.Parameter] = []
    annotations: dict[str, Any] = {}
    lines = [inspect.getdoc(function) or ""]
    for name, parameter in parameters.items():
        group = groups.get(name)
        flags += _field_parameters(group) if group else [parameter]
        annotations |= typing.get_type_hints(group) if group else {name: hints[name]}
        lines += [f"{field}: {about}" for field, about in _field_abouts(group).items()] if group else []
    verb.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    verb.__annotations__, verb.__doc__ = annotations, "\n".join(lines)
    return verb


def _field_parameters(group: type) -> list[inspect.Parameter]:
    """Return a keyword parameter for each field of a dataclass that is a flag."""
    defaults = {f.name: REQUIRED if f.default is MISSING else f.default for f in fields(group) if f.name != "more"}
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in defaults.items()]


def field_arguments(group: type) -> list[Argument]:
    """Return the flags for the fields of a dataclass."""
    hints, abouts = typing.get_type_hints(group), _field_abouts(group)
    return [
        Argument(p.name, kind, p.default, abouts.get(p.name, ""), False, choices, several)
        for p in _field_parameters(group)
        for kind, choices, several in [_read_kind(hints[p.name])]
    ]


def _field_abouts(group: type) -> dict[str, str]:
    """Return the docstring line of each field of a dataclass. A subclass overrides the lines of its bases."""
    abouts, names = {}, [f.name for f in fields(group)]
    for base in reversed(group.__mro__):
        abouts |= _read_docstring(inspect.cleandoc(base.__doc__ or ""), names)[1]
    return {name: about for name, about in abouts.items() if name != "more"}


def _read_kind(hint: Any) -> tuple[type, tuple[str, ...], bool]:
    """Return (kind, choices, several) of an annotation.

    `float | None` has the kind float, `Literal["a", "b"]` has the kind str with choices, `tuple[int, ...]` is several. Other
    types than numbers, bool, str and Path have the kind str.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if several := typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return str, tuple(str(choice) for choice in typing.get_args(hint)), several
    return (hint if hint in _TYPE_NAMES else str), (), several


def _read_docstring(doc: str, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split a docstring into the summary and the description of each of `names`."""
    summary, abouts, current, indent = [], {}, None, 0
    for line in doc.splitlines():
        match = re.match(r"\s*-{0,2}(\w+):\s+(.*)", line)
        if match and match[1] in names:
            current, indent = match[1], len(line) - len(line.lstrip())
            abouts[current] = match[2].strip()
        elif current and line.strip() and len(line) - len(line.lstrip()) > indent:
            abouts[current] += " " + line.strip()
        else:
            current = None
            summary.append(line)
    return "\n".join(summary).strip(), abouts


def nearest(word: str, known: Sequence[str], mark: str = "") -> str:
    """Return `; did you mean ...?` with the known word closest to `word`; empty if no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {mark}{close[0]}?" if close else ""


def read_arguments(usage: Usage, words: Sequence[str]) -> dict[str, str]:
    """Return the text of each argument by name. UserError for unknown, duplicate, missing or unreadable arguments.

    A flag is `--flag value` or `--flag=value`. `-` and `_` in its name are equal. A bool is `--flag` or `--noflag`. A value may
    be a negative number or a lone `-`. A value that begins with `--` needs the `=`. After a lone `--` all words are
    positionals, or belong to the parameter `rest` of the verb.
    """
    flags = {a.name: a for a in usage.arguments}
    given: dict[str, str] = {}
    positionals: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            if usage.rest:
                given[usage.rest.name] = shlex.join(queue)
            else:
                positionals += queue
            break
        if not re.match(r"--?[A-Za-z_]", word):
            positionals.append(word)
            continue
        typed, equals, value = word.partition("=")
        name = typed.lstrip("-").replace("-", "_")
        positive = re.sub("^no_?", "", name)
        if not equals and name not in flags and positive in flags and flags[positive].kind is bool:
            name, equals, value = positive, "=", "false"
        if name not in flags:
            known = [a.name for a in usage.flags] or ["help"]
            raise UserError(f"there is no flag {typed}{nearest(name, known, '--')} (jukebox {usage.verb} --help lists them)")
        if name in given:
            raise UserError(f"--{name} is given twice")
        if not equals:
            if flags[name].kind is bool:
                value = queue.pop(0) if queue and queue[0].lower() in ("true", "false") else "true"
            elif queue and not re.match(r"--[A-Za-z_]", queue[0]):
                value = queue.pop(0)
            else:
                after = f" before {queue[0]} (a value that begins with -- is written {typed}=VALUE)" if queue else ""
                raise UserError(f"{typed} needs a value{after}: {flags[name].about or flags[name].type_name.lower()}")
        given[name] = shlex.quote(value) if flags[name].words else value
    open_places = [a for a in usage.positionals if a.name not in given]
    if open_places and open_places[-1].words and len(positionals) >= len(open_places):
        last = len(open_places) - 1
        positionals = [*positionals[:last], shlex.join(positionals[last:])]
    if len(positionals) > len(open_places):
        extra = positionals[len(open_places)]
        if usage.rest:
            raise UserError(f"{extra!r} stands before the --; usage: {usage.line()}")
        raise UserError(f"{extra!r} is one word too many; usage: {usage.line()} (a text with spaces needs quotes)")
    given |= {a.name: value for a, value in zip(open_places, positionals)}
    if missing := [a for a in usage.arguments if a.default is REQUIRED and a.name not in given]:
        raise UserError(f"{missing[0].shown} is missing ({missing[0].about or 'see --help'}); usage: {usage.line()}")
    for name, text in given.items():  # checked here, because fire would print its own usage page for a bad value
        flags[name].parse(text)
    return given


def render(usage: Usage) -> str:
    """Return the help page of a verb: summary, positionals, and flags with type, description and default."""
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    text = f"{usage.line()}\n\n{usage.summary}\n"
    places = usage.positionals + ([usage.rest] if usage.rest else [])
    for title, arguments in (("arguments", places), ("flags", usage.flags)):
        if arguments:
            text += f"\n{title}:\n" + "".join(_render_argument(a, width) for a in arguments)
    return text


def _render_argument(argument: Argument, width: int) -> str:
    kind = "|".join(argument.choices) or argument.type_name
    head = f"  {argument.place}" if argument.positional else f"  --{argument.name} {kind}"
    if argument.kind is bool:
        head = f"  --{argument.name} / --no{argument.name}"
    default = {REQUIRED: "" if argument.positional else " (must be given)", None: "", "": "", (): ""}
    shown = default[argument.default] if argument.default in default else f" (default {_show(argument.default)})"
    body = textwrap.wrap(argument.about + shown, width - 32) or [""]
    first = f"{head:<30}  {body.pop(0)}\n" if len(head) <= 30 else f"{head}\n"
    return first + "".join(f"{'':<32}{line}\n" for line in body)


def _show(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return ("yes" if default else "no") if isinstance(default, bool) else str(default)
