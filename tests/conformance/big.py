"""A checkpoint of a published size, really converted and run. `python -m tests.conformance.big DIR`

Random weights of the 1b_lyrics top prior under the published names, in torch's old file format (3.8 GB), a codec and id
tables are written into DIR, imported in every dtype, and a few codes are sampled in bf16. Every step is a process of its
own, whose peak memory is printed. It takes some minutes and 8 GB of disk; what was made is deleted when it has served.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

SET, TOP = "1b_lyrics", "prior_1b_lyrics"
DTYPES = ("float32", "fp16", "bf16")
# what a child process runs: its words, then what it has held at most (VmHWM)
CHILD = """
import re, sys
from {module} import {name}
code = {name}({argument})
print("peak", re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


class Ran(NamedTuple):
    """What a step has printed, the most memory that it held in bytes, and how many seconds it took."""

    output: str
    peak: int
    seconds: float

    def __str__(self) -> str:
        return f"peak {self.peak / 1e6:,.0f} MB, {self.seconds:.0f} s"


def write_checkpoint(folder: Path) -> None:
    """The files of the set in the published layout, as far as they are needed: codec and top prior."""
    import torch

    from jukebox.importers.prior_keys import to_published
    from jukebox.importers.vqvae_keys import published_vqvae_key
    from jukebox.model.settings import PRIORS, VQVAES, prior_config, vqvae_config
    from launch.verbs.import_ import parts_of
    from priors.autoregressive.model import AutoregressivePrior
    from tests.conformance.codec import SUMS
    from vqvae.jukebox.vqvae import VQVAE

    torch.manual_seed(0)
    codec_path, *_, prior_path = (folder / part for part in parts_of(SET))
    codec = VQVAE(vqvae_config(VQVAES["vqvae"]))
    for stream in codec.spec.names:
        codec.autoencoder(stream).codebook.k.normal_()
    names = {published_vqvae_key(n, codec.config.downs_t): t for n, t in codec.state_dict().items() if not n.endswith(SUMS)}
    save(codec_path, names)
    config = prior_config(PRIORS[TOP], VQVAES["vqvae"])
    with torch.device("meta"):
        shapes = AutoregressivePrior(config).state_dict()
    save(prior_path, to_published({n: torch.randn(t.shape) * 0.02 for n, t in shapes.items()}, config))


def save(path: Path, state: dict) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "step": 1}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_tables(folder: Path) -> None:
    """Id tables of invented names, as many as the published ones have."""
    folder.mkdir(parents=True)
    for kind, count in (("artist", 7897), ("genre", 603)):
        lines = [f"{kind} {i};{i}\n" for i in range(1, count + 1)] + ["unknown;0\n"]
        (folder / f"v3_{kind}_ids.txt").write_text("".join(lines), encoding="utf-8")


def sample_codes(folder: Path, count: int = 16) -> None:
    """The first codes of a song from the top prior in bf16."""
    import torch

    from jukebox.model.folder import ModelFolder
    from jukebox.song import PreparedSong, Song, window_conditions
    from priors.autoregressive.config import AutoregressiveParams
    from priors.conditioning.conditions import stack
    from priors.noise import Generators
    from priors.prior import Known, Window, sample_window

    model = ModelFolder.from_pretrained(folder)
    prior = model.prior("prior_2", "bfloat16")
    song = Song("artist 7", ("genre 3",), "a song of no meaning", (), 60.0)
    prepared = PreparedSong.of(song, model.labels_of("prior_2"), model.vocabulary, model.sample_rate)
    cond = stack([window_conditions(prepared, prior.config, 0, None)])
    known, noise = (
        Known.prefix("vq.2", torch.zeros(1, 0, dtype=torch.long), count),
        Generators([torch.Generator().manual_seed(0)]),
    )
    made = sample_window(prior, Window(0, count, count), known, cond, noise, {"vq.2": AutoregressiveParams()})
    print(f"codes {made['vq.2'][0].tolist()}")


def child(module: str, name: str, argument: str) -> Ran:
    """Run a function in a process of its own."""
    words = [sys.executable, "-c", CHILD.format(module=module, name=name, argument=argument)]
    began, ended = time.perf_counter(), subprocess.run(words, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{name} {argument} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    output, _, peak = ended.stdout.rpartition("peak ")
    return Ran(output.strip(), int(peak) * 1024, time.perf_counter() - began)


def convert(folder: Path, dtype: str) -> Ran:
    """`jukebox import` of the files in `folder`, as a user types it."""
    paths = [str(path) for path in sorted((folder / "files").rglob("*.pth.tar"))]
    words = ["import", SET, "--files", ",".join(paths), "--labels", str(folder / "ids"), "--dtype", dtype]
    return child("launch.cli", "main", str([*words, "--out", str(folder / dtype)]))


def main(folder: Path) -> None:
    made = folder / "big"
    made.mkdir(parents=True)
    try:
        child("tests.conformance.big", "write_checkpoint", f"__import__('pathlib').Path({str(made / 'files')!r})")
        write_tables(made / "ids")
        size = sum(path.stat().st_size for path in (made / "files").rglob("*.pth.tar"))
        print(f"{SET}: files of {size / 1e9:.2f} GB", flush=True)
        for dtype in DTYPES:
            ran, written = convert(made, dtype), (made / dtype / "prior_2.safetensors").stat().st_size
            print(f"import --dtype {dtype}: writes {written / 1e9:.2f} GB, {ran}", flush=True)
            if dtype != "bf16":
                shutil.rmtree(made / dtype)
        shutil.rmtree(made / "files")
        ran = child("tests.conformance.big", "sample_codes", repr(str(made / "bf16")))
        print(f"bf16, {ran.output}: {ran}", flush=True)
        words = ["sample", str(made / "bf16"), "--levels", "2", "--artist", "artist 7", "--genre", "genre 3"]
        words += ["--seconds", "0.05", "--total_seconds", "60", "--out", str(made / "run")]
        ran = child("launch.cli", "main", str(words))
        print(f"jukebox sample --levels 2 --seconds 0.05: {ran}\n{ran.output}")
    finally:
        shutil.rmtree(made)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.conformance.big DIR")
    main(Path(sys.argv[1]))
