"""Conformance: our models against recorded outputs of the public 2020 reference. `python -m tests.conformance DIR`

What a golden is shows in its contents, so a folder may hold others, of other shapes. One line a check, with its largest
error; exit 1 if any is out. The tests in tests/priors run the same checks.
"""

from __future__ import annotations

import math
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
    check_optim,
    check_schedule,
    check_text,
)
from tests.conformance.priors import check_orders, check_prior
from tests.conformance.songs import check_pipeline

Kind = Callable[[Golden], Iterator[Check]]
# keys of the json that identify a kind
KINDS: list[tuple[set[str], Kind]] = [
    ({"vqvae_hps", "prior_hps"}, check_pipeline),
    ({"vqvae_hps", "hps", "sampling"}, check_prior),
    ({"hps", "eval_forward"}, check_vqvae),
    ({"vocab", "lyrics"}, check_text),
    ({"grid", "float32_differs"}, check_lyric_windows),
    ({"starts", "sample_level_trace"}, check_schedule),
    ({"lr_curves"}, check_optim),
]
# keys that every entry of the json has
ENTRIES: list[tuple[set[str], Kind]] = [
    ({"attn_funcs", "depth"}, check_orders),
    ({"n_time", "t_bins"}, check_label_conditioner),
]


def kind_of(golden: Golden) -> Kind | None:
    """The check of a golden file by its content; None if its kind is unknown."""
    top, inner = golden.json.keys(), [v.keys() if isinstance(v, dict) else set() for v in golden.json.values()]
    for keys, check in KINDS:
        if keys <= top:
            return check
    for keys, check in ENTRIES:
        if inner and all(keys <= entry for entry in inner):
            return check
    return check_filters if golden.has_io and "in.logits" in golden.io else None


def check(golden: Golden) -> Iterator[Check]:
    """All checks of one golden; what cannot even be compared is out."""
    try:
        if kind := kind_of(golden):
            yield from kind(golden)
        else:
            yield Check("skipped, this kind of golden is not known here")
    except Exception as error:  # whatever an altered golden provokes
        yield Check(f"cannot be compared, {type(error).__name__}: {' '.join(str(error).split())}", math.inf, 0)


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
