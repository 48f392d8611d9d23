"""Conformance: our models against recorded outputs of the public 2020 reference. `python -m tests.conformance DIR`

What a golden is shows in its contents, so a folder may hold others, of other shapes. One line a check, with its largest
error; exit 1 if any is out. The tests in tests/priors run the same checks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.conformance.codec import check_vqvae
from tests.conformance.golden import Check, Golden
from tests.conformance.parts import (
    check_filters,
    check_label_conditioner,
    check_lyric_windows,
    check_schedule,
    check_text,
)
from tests.conformance.priors import check_orders, check_prior
from tests.conformance.songs import check_pipeline

# What a golden is: a key of its json that no other kind has.
KINDS: dict[str, Callable[[Golden], Iterator[Check]]] = {
    "sampling": check_prior,
    "order2": check_orders,
    "float32_differs": check_lyric_windows,
    "vocab": check_text,
    "eval_forward": check_vqvae,
    "prior_hps": check_pipeline,
    "sample_level_trace": check_schedule,
}
NAMED: dict[str, Callable[[Golden], Iterator[Check]]] = {
    "label_conditioner": check_label_conditioner,
    "filter_logits": check_filters,
}


def check(golden: Golden) -> Iterator[Check]:
    """All checks of one golden, or the one that says it is not checked yet."""
    for key, function in KINDS.items():
        if key in golden.json:
            return function(golden)
    if golden.name in NAMED:
        return NAMED[golden.name](golden)
    return iter([Check("not checked yet")])


def main(folder: str) -> int:
    torch.set_num_threads(1)
    names = sorted(path.stem for path in Path(folder).glob("*.json"))
    if not names:
        print(f"{folder} holds no NAME.json; give a folder of goldens", file=sys.stderr)
        return 2
    out = done = 0
    for name in names:
        print(name, flush=True)
        for result in check(Golden(Path(folder), name)):
            print(result, flush=True)
            out, done = out + (not result.ok), done + (result.limit is not None)
    print(f"{done} checks, {out} out")
    return int(out > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.conformance DIR")
    sys.exit(main(sys.argv[1]))
