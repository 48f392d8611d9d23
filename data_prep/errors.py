"""Errors for the user: what was given, what was expected, what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error of the user, in one sentence; the command line prints it and exits with code 2."""


class BadAudio(UserError):
    """An audio file that cannot be used; `reason` is one of REASONS, `detail` is a text."""

    REASONS = ("unreadable", "too short", "silent", "non-finite", "truncated")

    def __init__(self, path: object, reason: str, detail: str) -> None:
        """Keep the parts for tables, and join them to the message."""
        assert reason in self.REASONS, reason
        super().__init__(f"{path}: {reason}: {detail}")
        self.path, self.reason, self.detail = str(path), reason, detail

    def __reduce__(self) -> tuple:
        """Pickle all parts; by default an exception is rebuilt from its message only."""
        return type(self), (self.path, self.reason, self.detail)


@contextmanager
def keeping(what: str, there: Callable[[], object]) -> Iterator[None]:
    """On an interruption (Ctrl-C) of this block, name the saved work if `there` finds any."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not error.args and there():
            error.args = (what,)
        raise
