"""Progress bars: a bar on a terminal, a line every ten seconds in a pipe or file."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}"
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"  # as tqdm's own


class ProgressBar(tqdm):
    """tqdm bar on a terminal, else whole lines every ten seconds and at the end.

    Work of less than ten seconds prints no line. Work that ends after `limit` seconds at the latest (0: no limit) has no more
    than these left.
    """

    def __init__(self, *args: Any, limit: float = 0.0, **options: Any) -> None:
        self.in_lines, self.printed, self.limit = not sys.stderr.isatty(), False, limit
        if limit:
            options["bar_format"] = BAR
        if self.in_lines:
            timing = {"mininterval": EVERY, "miniters": 1, "delay": EVERY}
            options |= timing | {"leave": False, "bar_format": LINE}
        super().__init__(*args, **options)

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        """tqdm's values of the line; with a limit also the time left."""
        found = super().format_dict
        if self.limit and found["elapsed"]:
            rate = found["rate"] or (found["n"] - found["initial"]) / found["elapsed"]
            steps = (found["total"] - found["n"]) / rate if rate else float("inf")
            found["remaining"] = self.format_interval(max(0.0, min(steps, self.limit - found["elapsed"])))
        return found

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
