"""Compare two checkouts on one machine: float32 codes byte for byte, and training losses and weights.

    python compare.py OLD NEW [--python PYTHON] [--work FOLDER] [--only sampling|training] [--seconds 1.2] [--steps 20]

OLD is commit 3ccb48a, NEW is what it is compared with. Each tree runs with its own .venv/bin/python, or both with
--python. The trees are reached through the command line (`from launch.cli import main`). Only CORPUS and CODEBOOKS, which
make the inputs, import modules, those of OLD. Both trees run alternately, one process at a time, on one CPU thread.

    training    preset `demo`, --steps steps of every task (codec, priors, masked prior, LoRA fine-tuning). The demo logs one
                line, the mean over all steps, so the final weights are compared too. The same at preset `test`, which logs
                every step. Every task begins from the same files in both trees: those of OLD.
    sampling    a model at the shapes of `demo`: OLD's weights after these steps, with seeded noise added, so that all
                conditions matter. Every verb that samples or edits, its codes and its audio (see VERBS).

Prints two tables. The exit code is 1 where codes or audio differ, or where losses or weights differ by more than 1e-6.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import wave
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOLERANCE = 1e-6
SHOWN = 3  # differences of a row that are printed
CALL = "import sys; from launch.cli import main; sys.exit(main(sys.argv[1:]))"
SONGS, SONG_SECONDS = 12, 12.0  # of the corpus; shorter songs have hardly any lyrics
CORPUS = """
import sys
from pathlib import Path
from data_prep.audio import write_wav
from data_prep.band import NEWCOMER
from data_prep.songs import make_corpus, make_song
out, songs, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
make_corpus(out / "corpus", songs, seed=0, seconds=seconds, workers=1)
make_corpus(out / "newcomer", songs, seed=1, seconds=seconds, artist=NEWCOMER.name, workers=1)
song = make_song(1_000_003, seconds=4.0)
write_wav(out / "recording.wav", song.audio[None], song.sample_rate)
(out / "words.txt").write_text(make_song(1_000_004, seconds=12.0).lyrics + "\\n", encoding="utf-8")
"""
CODEBOOKS = """
import sys
from pathlib import Path
import torch
from data_prep.audio import read
from jukebox.model import Jukebox
torch.set_num_threads(1)
model, audio = Jukebox.from_pretrained(sys.argv[1]), torch.from_numpy(read(Path(sys.argv[2]))[0])[None]
codec, rng = model.codec(), torch.Generator().manual_seed(0)
for level in model.trained_levels():
    part, book = codec.level(level), codec.level(level).codebook
    vectors = part.encoder(audio[..., : audio.shape[-1] // 128 * 128])[0].T.detach()
    chosen = vectors[torch.randperm(len(vectors), generator=rng)[: len(book.k)]]
    book.k.copy_(chosen + 0.01 * chosen.std() * torch.randn(chosen.shape, generator=rng))
    book.k_sum.copy_(book.k)
    book.k_elem.fill_(1.0)
model.save_codec(codec)
"""
NOISE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
for path in sorted(Path(sys.argv[1]).glob("prior_*.safetensors")):
    rng = torch.Generator().manual_seed(0)
    tensors = load_file(path)
    noisy = {name: x + 0.05 * torch.randn(x.shape, generator=rng) for name, x in sorted(tensors.items())}
    save_file(noisy, path)
"""
# What differs between two files of codes, or the codes of two data folders; streams are compared by their level.
FRAMES = """
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
def sequences(path):
    if path.suffix == ".npz":
        with np.load(path) as file:
            yield from (("", name, file[name]) for name in file.files if file[name].ndim)
    for file in sorted(path.glob("codes/**/*.arrow")):
        for row in pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist():
            yield from ((row["song"], name, np.array(frames)) for name, frames in row.items() if isinstance(frames, list))
old, new = ({(song, name[-1]): x for song, name, x in sequences(Path(each))} for each in sys.argv[1:])
if not old:
    print("0 sequences")
for song, level in sorted(old.keys() | new.keys()):
    if not np.array_equal(old.get((song, level)), new.get((song, level))):
        print(f"{song} level {level} differs")
    else:
        print("same")
"""
TIMED_LYRICS = "[00:00.05] fly over the moon\n[00:00.50] the river will sing\n[00:01.00] all the golden stars\n"
# Name -> command of every comparison of sampling. MODEL is the model folder, RUN the run folder of "sample", FILE the file to
# write; the other words in capitals are set in `Comparison.sample`.
VERBS = {
    "sample": "sample MODEL SONG --seconds LENGTH --takes 2 --seed 1 CPU",
    "sample top level": "sample MODEL NAMED PLAIN --seconds 7 --seed 1 --levels 2 CPU",
    "sample parallel": "sample MODEL SONG --seconds LENGTH --seed 1 --parallel CPU",
    "sample masked": "sample MODEL SONG --seconds 3 --seed 1 --lower masked --passes 6,4 CPU",
    "sample filtered": "sample MODEL SONG --seconds LENGTH --seed 2 --levels 2,1 --guidance 1.5 --top_k 40 --top_p 0.95 "
    "--temperature 1.1 --batch 1 --takes 2 --hop_fractions 0.5,0.25,0.75 CPU",
    "sample compiled": "sample MODEL SONG --seconds LENGTH --seed 1 --levels 2,1 --compile on CPU",
    "sample int8": "sample MODEL SONG --seconds LENGTH --seed 1 --levels 2,1 --dtype int8 CPU",
    "sample bfloat16": "sample MODEL SONG --seconds LENGTH --seed 1 --levels 2,1 --dtype bfloat16 CPU",
    "continue": "continue MODEL RECORDING SONG --prompt_seconds KEPT --seconds LONGER --seed 3 CPU",
    "continue a run": "continue MODEL RUN SONG --prompt_seconds KEPT --seconds LONGER --seed 3 --levels 2,1 CPU",
    "branch": "branch RUN --keep_seconds KEPT --take 2 --takes 2 --seconds LONGER CPU",
    "upsample": "upsample RUN --level 2 --seed 5 CPU",
    "upsample masked": "upsample RUN --level 2 --seed 5 --lower masked CPU",
    "replay": "replay RUN",
    "edit": "edit MODEL RECORDING SONG --start 1 --end 1.5 --passes 4,4,2 --seed 1 CPU --out FILE.wav",
    "vary": "vary MODEL RECORDING NAMED --periodic 8 --end 1 --passes 4,4,2 --seed 1 CPU --out FILE.wav",
    "extend": "extend MODEL RECORDING SONG --after 0.5 --passes 4,4,2 --seed 1 CPU --out FILE.wav",
    "codec encode": "codec encode RECORDING --model MODEL CPU --out FILE.npz",
    "codec reconstruct": "codec reconstruct RECORDING --model MODEL CPU --out FILE.wav",
}
# Seconds that an edit samples; only what is outside is compared, because the order in which edits sample their levels has changed.
EDITED = {"edit": (1.0, 1.5), "vary": (0.0, 1.0), "extend": (4.0, float("inf"))}
# Values of a log line that are times, or follow from them.
TIMES = ("minutes", "data_wait", "share_of_peak", "_per_second")


@dataclass(frozen=True)
class Tree:
    """One checkout, the Python that runs it, and the folder that its results go to."""

    root: Path
    python: Path
    work: Path

    def run(self, name: str, arguments: Sequence[str], code: str = CALL) -> float:
        """Run a command in this tree, its output in a log file; the seconds it took. RuntimeError where it fails."""
        log = self.work / "logs" / f"{name.replace(' ', '_').replace('/', '_')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "JUKEBOX_TRACEBACK": "1",
                       "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            command = [str(self.python), "-c", code, *arguments]
            ended = subprocess.run(command, cwd=self.root, env=environment, stdout=file, stderr=subprocess.STDOUT)
        if ended.returncode:
            last = "\n    ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
            raise RuntimeError(f"{name} failed with exit code {ended.returncode} in {self.root}:\n    {last}")
        return time.monotonic() - began


@dataclass
class Row:
    """One comparison: cells of a table, and what differs, in words."""

    name: str
    cells: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


class Comparison:
    """Runs both trees and collects the rows of the two tables."""

    def __init__(self, old: Tree, new: Tree, inputs: Path, seconds: float, steps: int):
        self.old, self.new, self.inputs, self.seconds, self.steps = old, new, inputs, seconds, steps
        self.training: list[Row] = []
        self.sampling: list[Row] = []

    def both(self, name: str, row: Row, arguments: Callable[[Tree], Sequence[str]]) -> bool:
        """Run a command in OLD, then in NEW; whether NEW could run it. OLD must."""
        print(f"{name} ...", flush=True)
        took = [self.old.run(name, arguments(self.old))]
        try:
            took.append(self.new.run(name, arguments(self.new)))
        except RuntimeError as error:
            row.differences.append(str(error))
            row.cells = ["failed"]
            return False
        row.cells = [f"{seconds:.1f}" for seconds in took]
        return True

    def share(self, *names: str) -> None:
        """Copy files or folders of OLD's results into NEW's, so that the next command begins from the same."""
        for name in names:
            shutil.rmtree(self.new.work / name, ignore_errors=True)
            shutil.copytree(self.old.work / name, self.new.work / name)

    # ---- inputs and training

    def prepare(self) -> None:
        """Synthetic songs of known artists and of a new one, a recording and lyrics, and their data folders, all by OLD."""
        print("corpus ...", flush=True)
        self.inputs.mkdir(parents=True, exist_ok=True)
        self.old.run("corpus", [str(self.inputs), str(SONGS), str(SONG_SECONDS)], CORPUS)
        for corpus, data in (("corpus", "data"), ("newcomer", "new_data")):
            source, out = self.inputs / corpus / "songs.jsonl", self.inputs / data
            self.old.run(f"prepare {data}", ["prepare", str(source), "--out", str(out), "--workers", "1"])

    def train(self, preset: str) -> None:
        """Train everything at a preset; the model folder is `PRESET/model`, the fine-tuned one `PRESET/tuned`."""
        for tree in (self.old, self.new):
            for data in ("data", "new_data"):
                shutil.copytree(self.inputs / data, tree.work / preset / data)
        self.task(preset, "codec", ["vqvae"], "data", "model")
        # After few steps a codebook may have collapsed: vectors of the encoder make all codes occur.
        self.old.run(
            f"codebooks {preset}", [str(self.old.work / preset / "model"), str(self.inputs / "recording.wav")], CODEBOOKS
        )
        self.share(f"{preset}/model")
        for data in ("data", "new_data"):
            self.encode(preset, data)
        self.task(preset, "priors", ["prior"], "data", "model")
        self.task(preset, "masked prior", ["masked"], "data", "model")
        self.share(f"{preset}/model")
        more = ["--from_model", "MODEL", "--tune", "lora"]
        self.task(preset, "LoRA", ["prior", *more], "new_data", "tuned")

    def task(self, preset: str, name: str, what: Sequence[str], data: str, out: str) -> None:
        """Train one kind of model in both trees, all levels in one process; compare logs and weights."""

        def arguments(tree: Tree) -> list[str]:
            model = str(tree.work / preset / "model")
            first, *more = [model if word == "MODEL" else word for word in what]
            return ["train", first, str(tree.work / preset / data), *more, "--out", str(tree.work / preset / out), "--preset", preset,
                    "--steps", str(self.steps), "--seed", "7", "--threads", "1", "--device", "cpu"]  # fmt: skip

        folders = [tree.work / preset / out for tree in (self.old, self.new)]
        before = set(logs_in(folders[0]))
        row = Row(f"{preset}: {name}")
        if self.both(f"train {preset} {name}", row, arguments):
            self.compare_training(row, *folders, before)
        self.training.append(row)

    def compare_training(self, row: Row, old: Path, new: Path, before: set[str]) -> None:
        """Compare the logs that this task has written and all weights of the model folder."""
        lines, largest, where = 0, 0.0, ""
        for name in sorted(set(logs_in(old)) - before):
            path = Path("training") / name / "log.jsonl"
            found = read_log(new / path)
            for i, expected in enumerate(read_log(old / path)):
                lines += 1
                for difference, key in log_differences(expected, found[i] if i < len(found) else {}):
                    if difference > largest:
                        largest, where = difference, f"{name}, step {expected['step']}, {key}"
                    if difference > TOLERANCE:
                        row.differences.append(f"{name}, step {expected['step']}: {key} differs by {difference:.3g}")
        if not lines:
            row.differences.append(f"{old} has no log of this task")
        weight, tensor = weights_difference(old, new)
        if weight > TOLERANCE:
            row.differences.append(f"{tensor} differs by {weight:.3g}")
        row.cells += [str(lines), f"{largest:.2g}", f"{weight:.2g}", where if largest else ""]

    def encode(self, preset: str, data: str) -> None:
        """Encode a data folder in both trees with OLD's codec; compare the codes, then go on with OLD's."""
        row, name = Row(f"{preset}: encode {data}"), f"{preset}/{data}"
        ran = self.both(
            f"encode {preset} {data}", row,
            lambda tree: ["encode", str(tree.work / name), str(tree.work / preset / "model"), "--threads", "1"],
        )  # fmt: skip
        if ran:
            count, row.differences = self.compare_frames(self.old.work / name, self.new.work / name)
            row.cells += [f"{count} sequences", "0" if not row.differences else "DIFFERENT", "", ""]
        self.training.append(row)
        self.share(name)

    def compare_frames(self, old: Path, new: Path) -> tuple[int, list[str]]:
        """The number of sequences of codes in two data folders or files of codes, and those that differ in length or value."""
        self.old.run("frames", [str(old), str(new)], FRAMES)
        lines = (self.old.work / "logs" / "frames.log").read_text(encoding="utf-8").splitlines()
        return len(lines), [line for line in lines if line != "same"]

    # ---- sampling

    def sample(self) -> None:
        """Every verb of VERBS in both trees, with the same weights; from and into run folders of the tree's own."""
        model, timed = self.old.work / "model", self.inputs / "timed.lrc"
        shutil.copytree(self.old.work / "demo" / "model", model)
        shutil.rmtree(model / "training", ignore_errors=True)
        self.old.run("noise", [str(model)], NOISE)
        self.share("model")
        timed.write_text(TIMED_LYRICS, encoding="utf-8")
        labels = json.loads((model / "labels.json").read_text(encoding="utf-8"))
        named = ["--artist", labels["artists"][1], "--genre", labels["genres"][1]]
        words = {
            "NAMED": named, "SONG": [*named, "--lyrics", str(timed)], "PLAIN": ["--lyrics", str(self.inputs / "words.txt")],
            "RECORDING": [str(self.inputs / "recording.wav")], "LENGTH": [f"{self.seconds:g}"],
            "LONGER": [f"{self.seconds * 1.5:g}"], "KEPT": [f"{self.seconds * 0.6:g}"],
            "CPU": ["--threads", "1", "--device", "cpu"],
        }  # fmt: skip
        for name, command in VERBS.items():
            self.verb(name, command, words)

    def verb(self, name: str, command: str, words: Mapping[str, Sequence[str]]) -> None:
        """Run one verb in both trees and compare what it has written into its own folder: byte for byte, or code for code."""
        out = Path("runs") / name
        is_run = "FILE" not in command

        def arguments(tree: Tree) -> list[str]:
            target = tree.work / out
            (target.parent if is_run else target).mkdir(parents=True, exist_ok=True)
            own = {"MODEL": [str(tree.work / "model")], "RUN": [str(tree.work / "runs" / "sample")]}
            own |= {"FILE.wav": [str(target / "made.wav")], "FILE.npz": [str(target / "made.npz")]}
            chosen = [part for word in command.split() for part in {**words, **own}.get(word, [word])]
            return [*chosen, "--out", str(target)] if is_run else chosen

        row = Row(name)
        if self.both(name, row, arguments):
            made = "made.npz" if "FILE.npz" in command else "made.wav"
            for pattern in ("codes/*.u16", "audio/*.wav") if is_run else (made,):
                old, new = self.old.work / out, self.new.work / out
                is_npz = pattern.endswith(".npz")
                if name in EDITED:
                    count, differences = compare_outside(old / pattern, new / pattern, *EDITED[name])
                else:
                    count, differences = (
                        self.compare_frames(old / pattern, new / pattern) if is_npz else compare_files(old, new, pattern)
                    )
                row.differences += differences
                row.cells.append(f"{count} same" if not differences else f"{len(differences)} of {count} DIFFERENT")
        self.sampling.append(row)


# ---- files


def compare_files(old: Path, new: Path, pattern: str) -> tuple[int, list[str]]:
    """The number of files of `old` that match a pattern, and what differs in `new`, byte by byte."""
    names = sorted(str(path.relative_to(old)) for path in old.glob(pattern))
    differences = [f"{extra} is new" for extra in (str(p.relative_to(new)) for p in new.glob(pattern)) if extra not in names]
    if not names:
        differences.append(f"{old} has no files {pattern}")
    for name in names:
        if not (new / name).is_file():
            differences.append(f"{name} is missing in {new}")
            continue
        a, b = (old / name).read_bytes(), (new / name).read_bytes()
        if a != b:
            first = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            differences.append(f"{name}: {len(a)} and {len(b)} bytes, different from byte {first} on")
    return len(names), differences


def compare_outside(old: Path, new: Path, start: float, end: float) -> tuple[int, list[str]]:
    """1, and what differs between two wav files of equal length before `start` or after `end` seconds."""
    with wave.open(str(old)) as a, wave.open(str(new)) as b:
        size, count = a.getsampwidth() * a.getnchannels(), a.getnframes()
        first, last = (min(count, round(x * a.getframerate())) if x < float("inf") else count for x in (start, end))
        if a.getparams() != b.getparams():
            return 1, [f"{a.getparams()} and {b.getparams()}"]
        parts = [(data[: first * size], data[last * size :]) for data in (a.readframes(count), b.readframes(count))]
    return 1, [] if parts[0] == parts[1] else [f"{new} differs outside {start:g} s to {end:g} s"]


def logs_in(model: Path) -> list[str]:
    """The tasks that have a log in a model folder."""
    return sorted(path.parent.name for path in model.glob("training/*/log.jsonl"))


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def log_differences(old: dict[str, float], new: dict[str, float]) -> Iterator[tuple[float, str]]:
    """(difference, key) of every value of a log line but times; infinite where NEW has no such value.

    Differences of values above 1 are relative: the log has seven digits.
    """
    for key, value in old.items():
        if not any(key.endswith(name) for name in TIMES):
            difference = abs(value - new[key]) / max(1.0, abs(value)) if key in new else float("inf")
            yield difference, key


def weights_difference(old: Path, new: Path) -> tuple[float, str]:
    """The largest difference of any weight of two model folders, and the file and tensor it is in.

    Tensors that NEW has renamed are matched by shape: each with the one that it differs from least.
    """
    largest, where = 0.0, ""
    for path in sorted(old.glob("*.safetensors")):
        if not (new / path.name).is_file():
            return float("inf"), f"{path.name} (missing in {new})"
        a, b = read_tensors(path), read_tensors(new / path.name)
        unmatched = {name: b[name] for name in b.keys() - a.keys()}
        for name, (shape, data) in a.items():
            others = [b[name]] if name in b else list(unmatched.values())
            difference = min((apart(data, x) for s, x in others if s == shape), default=float("inf"))
            if difference > largest:
                largest, where = difference, f"{path.name}: {name}"
    return largest, where


def read_tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    """The tensors of a safetensors file: name -> dtype and shape in words, and the bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = (f"{entry['dtype']} {entry['shape']}", data[8 + length + begin : 8 + length + end])
    return tensors


def apart(a: bytes, b: bytes) -> float:
    """The largest difference of two tensors of the same shape, read as float32; infinite where they are of other dtypes."""
    if a == b:
        return 0.0
    if len(a) % 4 or len(a) != len(b):
        return float("inf")
    return max(abs(x - y) for x, y in zip(array("f", a), array("f", b)))


# ---- the command


def table(rows: Sequence[Row], head: Sequence[str]) -> str:
    """Rows as a table with the same widths in every line."""
    lines = [list(head), *([row.name, *row.cells] for row in rows)]
    lines = [[*line, *[""] * (len(head) - len(line))] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines)


def read_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description="Compare codes, losses and weights of two checkouts.")
    parser.add_argument("old", type=Path, help="checkout of commit 3ccb48a")
    parser.add_argument("new", type=Path, help="checkout to compare with it")
    parser.add_argument("--python", type=Path, help="Python that runs both (default: .venv/bin/python of each)")
    parser.add_argument("--work", type=Path, help="folder for all results, which stays (default: a temporary one)")
    parser.add_argument("--only", choices=("training", "sampling"), help="print and judge one part only")
    parser.add_argument("--seconds", type=float, default=1.2, help="seconds that are sampled")
    parser.add_argument("--steps", type=int, default=20, help="training steps of every task")
    return parser.parse_args()


def main() -> int:
    """Run everything, print the tables; the exit code is 1 where something differs."""
    asked, began = read_arguments(), time.monotonic()
    work = asked.work.resolve() if asked.work else Path(tempfile.mkdtemp(prefix="compare_"))
    trees = []
    for name, root in (("old", asked.old.resolve()), ("new", asked.new.resolve())):
        # Not resolved: the python of a virtual environment is a link.
        python = asked.python.absolute() if asked.python else root / ".venv" / "bin" / "python"
        if not (python.is_file() and (root / "launch").is_dir()):
            raise SystemExit(f"{root} has no package launch, or there is no {python}; give two checkouts, or --python")
        trees.append(Tree(root, python, work / name))
    comparison = Comparison(*trees, work / "inputs", asked.seconds, asked.steps)
    comparison.prepare()
    comparison.train("demo")
    if asked.only != "sampling":
        comparison.train("test")
    if asked.only != "training":
        comparison.sample()
    parts = {
        "training": (comparison.training, ("training", "old s", "new s", "log lines", "loss", "weights", "largest at")),
        "sampling": (comparison.sampling, ("sampling", "old s", "new s", "codes or file", "audio")),
    }
    differences: list[Row] = []
    for part, (rows, head) in parts.items():
        if asked.only in (None, part):
            print(f"\n{table(rows, head)}")
            differences += [row for row in rows if row.differences]
    print(f"\n{len(differences)} rows differ, {time.monotonic() - began:.0f} s")
    for row in differences:
        more = f" and {len(row.differences) - SHOWN} more" if len(row.differences) > SHOWN else ""
        print(f"  {row.name}: {'; '.join(row.differences[:SHOWN])}{more}")
    if asked.work or differences:
        print(f"results and logs are in {work}")
    else:
        shutil.rmtree(work)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
