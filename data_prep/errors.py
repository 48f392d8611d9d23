"""Errors for the user: each states what was given, what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error that the user can correct, described in one sentence; the command line prints it and exits with code 2."""


class BadAudio(UserError):
    """An audio file that cannot be used; `reason` is one of REASONS, and `detail` describes the fault."""

    REASONS = ("unreadable", "too short", "silent", "non-finite", "truncated")

    def __init__(self, path: object, reason: str, detail: str) -> None:
        """Join the parts to the message, and keep them for tables."""
        assert reason in self.REASONS, reason
        super().__init__(f"{path}: {reason}: {detail}")
        self.path, self.reason, self.detail = str(path), reason, detail

    def __reduce__(self) -> tuple:
        """Pickle all parts, because by default an exception is rebuilt from its message only."""
        return type(self), (self.path, self.reason, self.detail)


@contextmanager
def keeping(what: str, there: Callable[[], object]) -> Iterator[None]:
    """Add the text `what` to an interruption (Ctrl-C) of this block if the function `there` finds saved work."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not error.args and there():
            error.args = (what,)
        raise
