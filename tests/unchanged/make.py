"""Write the frozen model, runs and numbers that `test_unchanged.py` compares with.

    cd CHECKOUT && PYTHONPATH=. .venv/bin/python PATH/TO/tests/unchanged/make.py

CHECKOUT is commit 3ccb48a, the last one before modules were moved and identifiers were renamed. The script is seeded: a
second run writes the same codes and numbers (codebooks may differ in their last bit). `adapter_3ccb48a.py` calls that commit
by its own names, as adapter.py calls the present one. Run it again only if behaviour is to change.

    model/         model folder of format 1: preset `test`, codec, three priors, masked prior, two artists, two genres
    runs/          run folders of version 2 in float64, without audio, images and index.html (see RUNS and INTERRUPTED)
    prompt.wav     the recording that is continued
    frozen.json    "facts": function of `adapter.py` -> arguments and results; "runs": sampling cases and their codes

Floats in frozen.json are written by `repr`, so they are exact. Codes are sampled in float64 on one CPU thread: rounding
differs between machines by 1e-16, which changes a code about once in 1e13. Only the codes of prompt.wav come from the
float32 codec: the squared distances of their two nearest codebook vectors differ by 5e-6 or more, and rounding by 1e-7.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
import wave
import zlib
from array import array
from pathlib import Path
from typing import Any

import adapter_3ccb48a as adapter
from folders import FROZEN, HERE, arguments_in, codes_in, codes_path, copy_frozen, rewrite_paths

HOPS, RATE = [8, 32, 128], 22050
PUBLISHED = {"published": True}

# ---- calls: function of adapter.py -> keyword arguments of each call

SEQUENTIAL = [
    {"total": total, "n_ctx": n_ctx, "hop": hop, "begin": begin}
    for total, n_ctx in ((1, 32), (31, 32), (32, 32), (33, 32), (68, 32), (688, 32), (2583, 512), (20_000, 8192))
    for hop in (n_ctx // 8, n_ctx // 2, n_ctx - 1, n_ctx)
    for begin in (0, total // 3, total)
]
PARALLEL = [
    {"total": total, "n_ctx": n_ctx, "overlap": overlap, "begin": begin}
    for total, n_ctx in ((20, 32), (32, 32), (172, 32), (688, 32), (2583, 512), (20_000, 8192))
    for overlap in (0, n_ctx // 8, n_ctx // 4)
    for begin in (0, 17, total // 2)
]
REQUESTED = [
    {"hops": HOPS, "level": level, "n_ctx": n_ctx, "total": total * HOPS[-1] // HOPS[level], "begin": begin, **how}
    for level in (2, 1, 0)
    for n_ctx in (32, 256)
    for total in (5, 43, 172)
    for begin in (0, 16)
    for how in ({}, {"hop_fraction": 0.125}, {"hop_fraction": 1.0}, {"parallel": True})
] + [
    {"hops": HOPS, "level": level, "n_ctx": columns * HOPS[-1] // HOPS[level], "total": total * HOPS[-1] // HOPS[level],
     "begin": begin * HOPS[-1] // HOPS[level], "lower": "masked"}
    for level in (1, 0) for columns in (32, 128, 512) for total in (5, 68, 700) for begin in (0, 3)
]  # fmt: skip
SCHEDULED = [
    {"total": total, "n_ctx": n_ctx, "hop": hop, "known": known, **more}
    for total, n_ctx in ((10, 32), (32, 32), (68, 32), (8192, 8192), (20_000, 8192))
    for hop in (n_ctx // 8, n_ctx // 2)
    for known in (0, 7, total // 2)
    for more in ({}, PUBLISHED)
]
COUNTS = [
    {"seconds": seconds, "sample_rate": rate, "hop": hop, "top_hop": 128}
    for seconds in (0.001, 0.25, 1.0, 12.0, 20.48, 239.9999)
    for rate in (22050, 44100)
    for hop in (8, 32, 128)
]
INPAINTED = [
    {"columns": columns, "resampled": resampled, "n_ctx": n_ctx}
    for columns, resampled in (
        (200, []), (200, [[0, 200]]), (200, [[50, 56]]), (200, [[0, 3]]), (200, [[197, 200]]), (20, [[4, 8]]),
        (200, [[10, 14], [150, 190]]), (200, [[10, 14], [22, 26], [60, 61]]), (1000, [[100, 700], [720, 721]]),
        (1000, [[i, i + 1] for i in range(0, 1000, 16)]),
    )
    for n_ctx in (32, 128)
]  # fmt: skip
BATCHES = [
    {"samples": samples, "batch": batch, "ranks": ranks} for samples in (1, 5, 8) for batch in (0, 1, 3) for ranks in (1, 2, 4)
]
GENERATORS = [
    {"seed": seed, "sample": sample, "level": level, "begin": begin}
    for seed in (0, 3, 2**40)
    for sample in (0, 5)
    for level in (0, 2, 3)
    for begin in (0, 16, 20_000)
]
UNIFORMS = [{"seeds": [0, 1, 2**62], "length": 8}, {"seeds": [123456789], "length": 20}]
LENGTHS = [100, 31, 32, 700, 999, 64, 5, 450]
TRAINING_WINDOWS = [
    {"lengths": LENGTHS, "window": 32, "multiple": multiple, "hop": hop, "step": step, "batch": 8, "seed": seed,
     "rank": rank, "world": world}
    for multiple, hop in ((1, None), (4, None), (4, 16)) for step in (0, 1, 9, 1000) for seed in (0, 7)
    for rank, world in ((0, 1), (0, 2), (1, 2))
]  # fmt: skip
TRAINING_MASKS = [
    {"columns": columns, "ratios": [16, 4, 1], "seed": [seed, step, row, 1]}
    for columns in (32, 128)
    for seed in (0, 7)
    for step in (0, 5)
    for row in range(6)
]
STEP_SEEDS = [{"seed": seed, "step": step, "rank": rank} for seed in (0, 7) for step in (0, 1, 999) for rank in (0, 1, 1 << 20)]
MODELS = [{"model": model} for model in ("demo", "small", "test", "5b", "5b_lyrics", "1b_lyrics")]
CODECS = [*MODELS, {"model": "vqvae"}, {"model": "small_vqvae"}]
MASKED = [
    {"preset": preset, "artists": 3, "genres": 4, "characters": characters}
    for preset in ("demo", "small", "test")
    for characters in (0, 80)
]
SAMPLING_MEMORY = [
    {"model": "demo", "seconds": 14.0},
    {"model": "demo", "seconds": 20.0, "takes": 3, "batch": 2, "dtype": "int8", "guidance": 1.5},
    {"model": "small", "seconds": 30.0, "prompt_seconds": 6.0, "parallel": True, "dtype": "bfloat16"},
    {"model": "1b_lyrics", "seconds": 20.0, "takes": 2, "dtype": "float16"},
    {"model": "5b_lyrics", "seconds": 60.0, "takes": 4, "prompt_seconds": 12.0, "dtype": "int8"},
    {"model": "5b", "seconds": 60.0, "parallel": True, "batch": 8},
    {"model": "model", "seconds": 2.0, "takes": 2, "lower": "masked"},
    {"model": "model", "seconds": 2.0, "takes": 2, "dtype": "float64"},
]
_TRAINING = {"gpus": 1, "rows": 4, "zero": 0, "bf16": True, "recompute": False, "offload": False, "device": "cpu"}
TRAINING_MEMORY = [
    {"model": "demo", "level": 2, **_TRAINING},
    {"model": "demo", "level": 0, **_TRAINING, "bf16": False},
    {"model": "1b_lyrics", "level": 2, **_TRAINING, "gpus": 8, "zero": 2, "recompute": True, "device": "cuda"},
    {"model": "5b_lyrics", "level": 2, **_TRAINING, "gpus": 512, "rows": 1, "zero": 3, "device": "cuda"},
    {"model": "5b", "level": 1, **_TRAINING, "gpus": 16, "zero": 1, "offload": True, "device": "cuda"},
]

FACTS = {
    "sequential_windows": SEQUENTIAL,
    "parallel_windows": PARALLEL,
    "requested_windows": REQUESTED,
    "scheduled_windows": SCHEDULED,
    "code_count": COUNTS,
    "inpainting_windows": INPAINTED,
    "first_batches": BATCHES,
    "generator_seed": GENERATORS,
    "uniform_numbers": UNIFORMS,
    "training_windows": TRAINING_WINDOWS,
    "training_masks": TRAINING_MASKS,
    "step_seed": STEP_SEEDS,
    "codec_parameters": CODECS,
    "prior_parameters": MODELS,
    "masked_parameters": MASKED,
    "sampling_memory": SAMPLING_MEMORY,
    "training_memory": TRAINING_MEMORY,
}

# ---- sampling cases

ANN = {"artist": "ann", "genres": ["rock"], "lyrics": "la la la\nli li"}
BOB = {
    "artist": "bob", "genres": ["waltz", "rock"], "lyrics": "oh my oh",
    "words": [["oh", 0.02, 0.08], ["my", 0.1, 0.15], ["oh", 0.2, 0.24]],
}  # fmt: skip
COMMON = {"model": "model", "dtype": "float64"}
SECONDS = 0.25  # 43 codes of the top level, whose window is 32; 172 and 688 codes of the others
PASSES = [3, 2]
# Sampling parameters by level: guidance and top-p at the top, top-k below it, the likeliest code at the bottom.
FILTERED = {
    "2": {"temperature": 0.9, "top_p": 0.9, "guidance": 1.5},
    "1": {"temperature": 1.2, "top_k": 4},
    "0": {"temperature": 0.0},
}

RUNS: dict[str, dict[str, Any]] = {
    "finished": {
        "verb": "sample",
        "arguments": {**COMMON, "songs": [ANN, BOB], "seconds": SECONDS, "seed": 3, "takes": 2},
    },
    "parallel": {
        "verb": "sample",
        "arguments": {**COMMON, "songs": [ANN], "seconds": SECONDS, "seed": 3, "parallel": True, "batch": 3},
    },
    "masked": {
        "verb": "sample",
        "arguments": {**COMMON, "songs": [ANN, {}], "seconds": 0.4, "seed": 3, "lower": "masked", "passes": PASSES},
    },
    "continued": {
        "verb": "continue_",
        "arguments": {
            **COMMON, "songs": [BOB], "prompts": ["runs/finished"], "prompt_seconds": 0.1, "seconds": SECONDS, "seed": 5,
        },
    },
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    **RUNS,
    "filtered": {
        "verb": "sample",
        "arguments": {**COMMON, "songs": [ANN], "seconds": SECONDS, "seed": 1, "levels_settings": FILTERED},
    },
    "continued from a recording": {
        "verb": "continue_",
        "arguments": {
            **COMMON, "songs": [ANN], "prompts": ["prompt.wav"], "prompt_seconds": 0.15, "seconds": SECONDS, "seed": 5,
            "takes": 2,
        },
    },
    "branched": {
        "verb": "branch",
        "arguments": {
            "run": "runs/finished", "keep_seconds": 0.15, "take": 2, "seconds": 0.3, "lyrics": "so so la", "takes": 2,
            "dtype": "float64",
        },
    },
    "upsampled": {
        "verb": "upsample",
        "arguments": {"run": "runs/finished", "level": 2, "seed": 9, "dtype": "float64"},
    },
    "upsampled by the masked prior": {
        "verb": "upsample",
        "arguments": {
            "run": "runs/finished", "level": 2, "seed": 9, "dtype": "float64", "lower": "masked", "passes": [4, 2],
        },
    },
}  # fmt: skip

# Name of a run folder -> the run it is a copy of, and the level and number of codes at which the copy was interrupted. The
# first two are in the middle of a window. The third is between two groups of parallel windows, which are written as a whole.
INTERRUPTED = {"cut": ("finished", 1, 105), "continued_cut": ("continued", 0, 333), "parallel_cut": ("parallel", 1, 80)}
# A run whose batch was halved for lack of memory, twice: in the first window of level 2, and of level 0.
HALVES = [
    {"level": 2, "start": 0, "at": 10, "samples": [0, 1, 2, 3], "into": [[0, 1], [2, 3]]},
    {"level": 0, "start": 0, "at": 10, "samples": [2, 3], "into": [[2], [3]]},
]


def main() -> None:
    """Write everything; see the head of this module."""
    for name in ("model", "runs"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    write_prompt(HERE / "prompt.wav")
    adapter.create_model(HERE / "model")
    (HERE / "model" / ".lock").unlink(missing_ok=True)
    (HERE / "runs").mkdir()
    with tempfile.TemporaryDirectory() as temporary, adapter.no_pages():
        work = copy_frozen(Path(temporary) / "work")
        (work / "runs").mkdir()
        for name, case in RUNS.items():
            sample(case, work, work / "runs" / name)
        make_halved(work / "runs" / "finished", work / "runs" / "halved")
        for name, (source, level, codes) in INTERRUPTED.items():
            shutil.copytree(work / "runs" / source, work / "runs" / name)
            interrupt(work / "runs" / name, level, codes)
        for run in sorted((work / "runs").iterdir()):
            keep(run, HERE / "runs" / run.name, work)
        made = {name: work / "runs" / name for name in [*RUNS, "halved"]}
        for number, (name, case) in enumerate(CASES.items()):
            if name not in made:
                made[name] = work / f"case_{number}"
                sample(case, work, made[name])
        runs = {name: {**CASES.get(name, {}), "codes": codes_in(run)} for name, run in made.items()}
        facts = {name: [fact(name, arguments, work) for arguments in calls] for name, calls in FACTS.items()}
        model = adapter.open_model(work / "model")
    frozen = {"model": model, "runs": runs, "facts": facts}
    FROZEN.write_text(as_text(frozen), encoding="utf-8")
    print_sizes()


def fact(name: str, arguments: dict[str, Any], work: Path) -> dict[str, Any]:
    """One call of a function of adapter.py with its result."""
    asked = {**arguments, "model": str(work / "model")} if arguments.get("model") == "model" else arguments
    return {"arguments": arguments, "result": getattr(adapter, name)(**asked)}


def sample(case: dict[str, Any], work: Path, out: Path) -> None:
    """Carry out a sampling case."""
    getattr(adapter, case["verb"])(out=out, **arguments_in(case, work))


def write_prompt(path: Path) -> None:
    """Write the recording that is continued: a quarter of a second of three rising tones and noise, 16-bit mono."""
    noise, samples = random.Random(0), array("h")
    for i in range(RATE // 4):
        t = i / RATE
        tones = sum(math.sin(2 * math.pi * f * t * (1 + t)) / n for n, f in enumerate((220, 523, 1397), 1))
        samples.append(round(32767 * (0.3 * tones + 0.1 * noise.uniform(-1, 1))))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def make_halved(source: Path, run: Path) -> None:
    """Sample the request of a run again with a batch that is halved on the way."""
    run.mkdir()
    request = json.loads((source / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(request | {"cuts": HALVES}), encoding="utf-8")
    adapter.resume(run=run)


def interrupt(run: Path, level: int, codes: int) -> None:
    """Shorten a run to the state in which a kill leaves it after `codes` codes of a level of each sample.

    A line of progress is cut short, and codes files contain codes that no line of progress accounts for.
    """
    lines, kept, counts = (run / "progress.jsonl").read_text(encoding="utf-8").splitlines(), [], {}
    for line in map(json.loads, lines):
        before = line["codes_total"] - line["rows"]
        last = line["level"] == level and line["codes_total"] >= codes
        if last:
            part = codes - before
            line["music_seconds"] *= part / line["rows"]
            line |= {"rows": part, "codes_total": codes}
            line["crc32"] = [zlib.crc32(codes_path(run, level, i).read_bytes()[: 2 * codes]) for i in line["samples"]]
        counts |= {(line["level"], i): line["codes_total"] for i in line["samples"]}
        kept.append(json.dumps(line) + "\n")
        if last:
            break
    else:
        raise ValueError(f"{run} has fewer than {codes} codes of level {level}")
    (run / "progress.jsonl").write_text("".join(kept) + lines[len(kept)][:20], encoding="utf-8")
    for file in sorted((run / "codes").iterdir()):
        _, of, _, sample = file.stem.split("_")
        if (count := counts.get((int(of), int(sample)))) is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: 2 * count] + (b"\x07" * 11 if int(of) == level else b""))


def keep(run: Path, out: Path, work: Path) -> None:
    """Copy request, codes and progress of a run; paths become relative, times and the machine's name become constants."""
    out.mkdir()
    shutil.copytree(run / "codes", out / "codes")
    shutil.copy(run / "run.json", out / "run.json")
    rewrite_paths(out, lambda path: str(Path(path).relative_to(work.resolve())))
    request = json.loads((out / "run.json").read_text(encoding="utf-8"))
    request["machine"] |= {"system": "Linux", "processor": "x86_64"}
    (out / "run.json").write_text(json.dumps(request, indent=1) + "\n", encoding="utf-8")
    whole, newline, rest = (run / "progress.jsonl").read_text(encoding="utf-8").rpartition("\n")
    lines = [json.dumps(json.loads(line) | {"took": 0.01}) for line in whole.splitlines()]
    (out / "progress.jsonl").write_text("\n".join(lines) + newline + rest, encoding="utf-8")


def as_text(frozen: dict[str, Any]) -> str:
    """JSON with one fact and one codes file in each line."""

    def nested(value: Any, depth: int) -> str:
        if depth and isinstance(value, dict) and value:
            items = [f"{json.dumps(key)}: {nested(item, depth - 1)}" for key, item in value.items()]
            return "{\n" + ",\n".join(items) + "\n}"
        if depth and isinstance(value, list) and value:
            return "[\n" + ",\n".join(nested(item, 0) for item in value) + "\n]"
        return json.dumps(value)

    return nested(frozen, 4) + "\n"


def print_sizes() -> None:
    """Print the size of everything that was written."""
    for name in ("frozen.json", "prompt.wav", "model", "runs"):
        files = [HERE / name] if (HERE / name).is_file() else [f for f in (HERE / name).rglob("*") if f.is_file()]
        print(f"{name:<12} {len(files):>3} files {sum(f.stat().st_size for f in files) / 1000:>8.1f} kB")


if __name__ == "__main__":
    main()
