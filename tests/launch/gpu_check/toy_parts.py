"""Parts that fail, or never end; the tests name them in place of the real ones."""

from __future__ import annotations

import time

from launch.gpu_check.part import Part


def fine(part: Part) -> None:
    print("stdout holds rows only")
    part.figure("two", 2.0, "codes", at_least=1)
    part.figure("three", 3.0, "codes", "float32", at_most=1)
    part.figure("not a number", float("nan"), "share")


def broken(part: Part) -> None:
    part.figure("one", 1.0, "codes")
    raise ValueError("weights of no model\nand more")


def endless(part: Part) -> None:
    part.figure("one", 1.0, "codes")
    time.sleep(600)


def without_package(part: Part) -> None:
    import no_such_package  # noqa: F401
