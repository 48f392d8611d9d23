"""What interrupts a run in a test: frames in small blocks, a death at a write, and the comparison with an uninterrupted one."""

from __future__ import annotations

import numpy as np

from jukebox.runs.run import Run
from priors.autoregressive.model import AutoregressivePrior
from priors.tokens.model import TokenPrior


class Killed(Exception):
    pass


def in_blocks(monkeypatch, frames: int) -> None:
    """From now on priors that sample frame by frame yield so many at a time."""

    def blocked(plain):
        def sample_in_blocks(self, state):
            self.block = frames
            yield from plain(self, state)

        return sample_in_blocks

    for kind in (AutoregressivePrior, TokenPrior):
        monkeypatch.setattr(kind, "sample", blocked(kind.sample))


def cut_off(monkeypatch, appends: int) -> None:
    """From now on the walk dies at its append number `appends`, after some codes that no progress line vouches for."""
    append, count = Run.append, iter(range(1000000))

    def fail(self, level, samples, *args):
        if next(count) == appends:
            self.codes_path(level, samples[0]).parent.mkdir(exist_ok=True)
            with open(self.codes_path(level, samples[0]), "ab") as file:
                file.write(b"\x07" * 11)
            with open(self.folder / "progress.jsonl", "ab") as file:
                file.write(b'{"level": 2, "sa')
            raise Killed
        append(self, level, samples, *args)

    monkeypatch.setattr(Run, "append", fail)


def assert_same(a: Run, b: Run) -> None:
    """Both are whole, with equal codes of every level."""
    for level in a.request["levels"]:
        assert a.count(level) == b.count(level) == a.total(level), f"level {level} is not whole"
        assert np.array_equal(a.codes(level), b.codes(level)), f"level {level} differs"
