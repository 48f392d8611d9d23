"""Errors that speak to the person: what was given, what was expected, what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user in one sentence; the command line prints that line and exits with code 2."""


class BadAudio(UserError):
    """A file whose sound cannot be used: `reason` is one of REASONS, `detail` says more."""

    REASONS = ("unreadable", "too short", "silent", "non-finite", "truncated")

    def __init__(self, path: object, reason: str, detail: str) -> None:
        """Keep the parts apart, so that a table can hold them, and join them for the person."""
        assert reason in self.REASONS, reason
        super().__init__(f"{path}: {reason}: {detail}")
        self.path, self.reason, self.detail = str(path), reason, detail

    def __reduce__(self) -> tuple:
        """Travel between processes (an exception is otherwise rebuilt from its one message)."""
        return type(self), (self.path, self.reason, self.detail)


@contextmanager
def keeping(what: str, there: Callable[[], object]) -> Iterator[None]:
    """An interruption (Ctrl-C) of this block names what is kept of its work, where `there` finds something."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not error.args and there():
            error.args = (what,)
        raise
