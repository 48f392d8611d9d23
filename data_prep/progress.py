"""Progress bars: a bar on a terminal, a line every ten seconds in a pipe or file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}"


class ProgressBar(tqdm):
    """tqdm bar on a terminal, else whole lines every ten seconds and at the end.

    Work of less than ten seconds prints no line.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.in_lines, self.printed = not sys.stderr.isatty(), False
        if self.in_lines:
            timing = {"mininterval": EVERY, "miniters": 1, "delay": EVERY}
            options |= timing | {"leave": False, "bar_format": LINE}
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]
        if not self.in_lines:
            return bool(super().display(msg, pos))
        if msg is None:
            self.printed = True
            print(str(self), file=sys.stderr, flush=True)
        return False

    def close(self) -> None:
        if self.in_lines and self.printed and not self.disable:
            self.display()
        super().close()
