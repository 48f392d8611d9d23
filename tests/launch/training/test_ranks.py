"""Several real processes (gloo) train as one does: the same losses, checkpoints for any number of ranks, reported deaths."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from launch.engines.checkpoint import load_checkpoint, written
from launch.training.log import read_log

HERE, ROOT, BIN = Path(__file__).parent, Path(__file__).parents[3], Path(sys.executable).parent
sys.path.insert(0, str(HERE))  # the ranks' program, of which this process runs cases too
import rank_work  # noqa: E402

ROUNDED = {"shared-ema": 30, "decoder": 5, "spectral": 5}  # steps within 1e-6, before Adam has amplified the rounding of sums
CALL = "import sys; from launch.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` (twelve synthetic songs and codes that follow a rule, more or less) and `model` (a hardly trained codec)."""
    from data_prep.codes import CodesWriter
    from data_prep.manifest import load_manifest, prepare
    from data_prep.synthetic.songs import make_corpus
    from jukebox.model.codes import codes_folder
    from jukebox.model.info import ModelInfo
    from launch.training.train import train

    root = tmp_path_factory.mktemp("ranks")
    make_corpus(root / "corpus", 12, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    for what in ("vqvae", "spectral"):
        train(what, str(root / "data"), preset="test_both", steps=10, out=str(root / "model"))
    rng = np.random.default_rng(0)
    for level, n in ((2, 500), (1, 2000), (0, 8000)):
        stream = f"vq.{level}"
        with CodesWriter(codes_folder(root / "data", ModelInfo.read(root / "model"), stream), [stream]) as writer:
            for row in load_manifest(root / "data"):
                codes = np.where(rng.random(n) < 0.7, np.arange(n) % 8, rng.integers(0, 32, n))
                writer.add(row.song, {stream: codes.astype(np.uint16)})
    return root


def environment() -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def starter(kind: str, ranks: int, program: list[str]) -> list[str]:
    """The command by which a starter runs `program` (a file, or -c code, and its words) as ranks."""
    if kind == "torchrun":
        program = ["--no-python", sys.executable, *program] if program[0] == "-c" else program
        return [str(BIN / "torchrun"), "--nproc_per_node", str(ranks), "--master_port", str(port()), *program]
    if kind == "deepspeed":
        return [str(BIN / "deepspeed"), "--no_local_rank", "--num_gpus", str(ranks), "--master_port", str(port()), *program]
    return [str(BIN / "mpirun"), "-n", str(ranks), "-genv", "MASTER_PORT", str(port()), sys.executable, *program]


def work(corpus: Path, out: Path, cases: list[str], kind: str = "torchrun", ranks: int = 2) -> str:
    """Run cases of `rank_work.py` as ranks; return their output."""
    words = [str(HERE / "rank_work.py"), str(corpus / "data"), str(corpus / "model"), str(out), *cases]
    # The ranks' done cases are the verdict: now and then gloo aborts a process whose work is done.
    done = subprocess.run(starter(kind, ranks, words), env=environment(), capture_output=True, text=True, timeout=240)
    assert all((out / f"{case}.rank_{rank}").exists() for case in cases for rank in range(ranks)), done.stdout + done.stderr
    return done.stdout + done.stderr


def alone(corpus: Path, out: Path, cases: list[str]) -> None:
    """The same cases in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for case in cases:
        rank_work.run_case(case, corpus / "data", corpus / "model", out)
    torch.set_num_threads(threads)


def curve(out: Path, case: str, name: str = "loss") -> list[float]:
    return [line[name] for line in read_log(out / case / "log.jsonl")]


def assert_same(out: Path, case: str, other: str, tolerance: float = 1e-4) -> None:
    """The two cases have the same losses in every one of 30 steps, and the same weights (codebooks too)."""
    losses = curve(out, case)
    assert len(losses) == 30 and losses == pytest.approx(curve(out, other), rel=tolerance), case
    weights, others = load_file(out / f"{case}.weights"), load_file(out / f"{other}.weights")
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.allclose(value.float(), others[name].float(), rtol=1e-3, atol=1e-3), (case, name)


@pytest.mark.long
def test_two_ranks_train_codec_and_prior_as_one_process_does(corpus, tmp_path):
    """ZeRO 1 for the codec (its codebook is moved by both ranks), ZeRO 3 with averages, in parts, for the prior, and parts of the
    masked prior's batches, which count different numbers of codes."""
    cases = ["vqvae-zero1", "prior-zero3-accumulate2-recompute-ema-counted", "masked-accumulate2"]
    alone(corpus, tmp_path, ["vqvae", "prior-ema", "masked"])
    work(corpus, tmp_path, cases)
    assert_same(tmp_path, "vqvae-zero1", "vqvae")
    assert_same(tmp_path, cases[1], "prior-ema")
    assert_same(tmp_path, cases[2], "masked")
    assert abs(curve(tmp_path, "vqvae")[0] - curve(tmp_path, "vqvae")[-1]) > 0.1, "or the weights never moved"
    lines = read_log(tmp_path / cases[1] / "log.jsonl")
    assert all(line["gradient_square_of_parts"] > line["gradient_square"] for line in lines)
    assert all(0 < line["share_of_peak"] < 1 for line in lines)


@pytest.mark.long
def test_every_launcher_and_stage_of_zero_gives_the_curve_of_one_process(corpus, tmp_path):
    whats = ("vqvae", "prior")
    alone(corpus, tmp_path, [*whats, "prior-ema", "duel"])
    cases = [f"{what}-zero{stage}" for what in whats for stage in range(4)]
    cases += ["prior-zero1-accumulate2", "prior-zero0-accumulate4", "prior-zero2-offload", "prior-zero3-offload"]
    cases += ["duel-zero0", "duel-zero2"]  # a model of two phases
    averaged = [f"prior-zero{stage}-ema" for stage in range(4)]
    work(corpus, tmp_path, cases + averaged)
    for case in cases:
        assert_same(tmp_path, case, case.split("-")[0])
    for case in averaged:
        assert_same(tmp_path, case, "prior-ema")
    for kind in ("deepspeed", "mpirun"):
        (tmp_path / kind).mkdir()
        work(corpus, tmp_path / kind, ["vqvae-zero2", "prior-zero3"], kind)
        for case in ("vqvae-zero2", "prior-zero3"):
            (tmp_path / kind / case).rename(tmp_path / f"{case}-{kind}")
            (tmp_path / kind / f"{case}.weights").rename(tmp_path / f"{case}-{kind}.weights")
            assert_same(tmp_path, f"{case}-{kind}", case.split("-")[0])


@pytest.mark.long
def test_phases_train_alike_on_one_two_and_four_ranks(corpus, tmp_path):
    """Phases that share a forward pass, one of them in every second step and without average; and the spectral codec's decoder
    against its discriminators. In float32 they agree within 1e-6 of the loss until rounding grows."""
    cases = {"shared-ema": ("zero0", "zero1", "zero2"), "decoder": ("zero1",), "spectral": ("zero1",)}
    alone(corpus, tmp_path, list(cases))
    for ranks in (2, 4):
        out = tmp_path / str(ranks)
        out.mkdir()
        work(corpus, out, [f"{case}-{stage}" for case, stages in cases.items() for stage in stages], ranks=ranks)
        for case, stages in cases.items():
            for stage in stages:
                names = ("loss", "critic_loss", "discriminator_loss")
                for name in names:
                    one, many = (
                        [line[name] for line in read_log(folder / "log.jsonl") if name in line]
                        for folder in (tmp_path / case, out / f"{case}-{stage}")
                    )
                    exact = ROUNDED[case]
                    assert one[:exact] == pytest.approx(many[:exact], rel=1e-6), (case, stage, ranks, name)
                    assert one == pytest.approx(many, rel=1e-4), (case, stage, ranks, name)


def end_one(
    command: list[str], log: Path, steps: int, named: bytes = b"RANK=1", params: int = signal.SIGKILL
) -> tuple[int, float, str, int]:
    """Run `command` until its log has so many lines, signal the rank `named` in its environment: exit code, seconds until the job
    had ended, its words, the rank's process."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len(read_log(log)) < steps:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    pid = next(p for p in descendants(process.pid) if named in Path(f"/proc/{p}/environ").read_bytes().split(b"\0"))
    os.kill(pid, params)
    begun = time.monotonic()
    words, _ = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - begun, words, pid


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


@pytest.mark.long
def test_one_rank_that_is_told_to_stop_stops_all_after_the_same_step(corpus, tmp_path):
    shutil.copytree(corpus / "model", tmp_path / "model", ignore=shutil.ignore_patterns("training"))
    flags = "--preset test --level 2 --steps 100000 --batch 8 --threads 1".split()
    words = ["train", "prior", str(corpus / "data"), *flags, "--out", str(tmp_path / "model")]
    training = tmp_path / "model" / "training" / "prior_2"
    code, _, words, _ = end_one(
        starter("mpirun", 2, ["-c", CALL, *words]), training / "log.jsonl", 13, b"PMI_RANK=1", signal.SIGTERM
    )
    kept, _ = load_checkpoint(training)
    assert kept is not None and kept.metadata["step"] == len(read_log(training / "log.jsonl")) >= 13
    assert code == 130 and words.count(f"stopped at step {kept.metadata['step']} of 100000") == 1


@pytest.mark.long
def test_a_killed_rank_ends_the_job_which_goes_on_exactly_and_on_other_numbers_of_ranks(corpus, tmp_path):
    flags = "--preset test --level 2 --steps 60 --batch 8 --ema 0.9 --threads 1".split()

    def command(name: str, ranks: int, zero: str = "auto") -> list[str]:
        words = ["train", "prior", str(corpus / "data"), *flags, "--zero", zero, "--out", str(tmp_path / name)]
        return starter("torchrun", ranks, ["-c", CALL, *words]) if ranks > 1 else [sys.executable, "-c", CALL, *words]

    def finish(name: str, ranks: int, zero: str = "auto") -> tuple[list[dict[str, float]], str]:
        done = subprocess.run(command(name, ranks, zero), env=environment(), capture_output=True, text=True, timeout=240)
        return read_log(tmp_path / name / "training" / "prior_2" / "log.jsonl"), done.stdout + done.stderr

    for name in ("whole", "killed"):
        shutil.copytree(corpus / "model", tmp_path / name, ignore=shutil.ignore_patterns("training"))
    whole, words = finish("whole", 2)
    assert len(whole) == 60, words
    training = tmp_path / "killed" / "training" / "prior_2"
    code, seconds, words, pid = end_one(command("killed", 2), training / "log.jsonl", 33)
    assert code != 0 and seconds < 30
    assert f"Signal 9 (SIGKILL) received by PID {pid}" in words and "rank      : 1 (local_rank: 1)" in words
    kept, _ = load_checkpoint(training)
    assert kept is not None and kept.metadata["step"] == 30 and len(written(training)) == 2
    for name in ("one", "four", "cut"):
        shutil.copytree(tmp_path / "killed", tmp_path / name)
    file = written(tmp_path / "cut" / "training" / "prior_2")[0] / "tensors_000.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def same(found: list[dict[str, float]], tolerance: float) -> bool:
        return [line["step"] for line in found] == list(range(1, 61)) and all(
            [line[k] for line in found] == pytest.approx([line[k] for line in whole], rel=tolerance) for k in ("loss", "lr")
        )

    assert same(finish("killed", 2)[0], 1e-6)
    assert same(finish("four", 4, zero="3")[0], 1e-4)
    assert same(finish("one", 1)[0], 1e-4)
    lines, words = finish("cut", 1, zero="1")
    assert "is broken" in words and "going on from the one before it, step 20" in words and same(lines, 1e-4)
