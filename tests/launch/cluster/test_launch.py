"""`jukebox launch`: commands word by word, and true processes that die, raise, hang, are stopped and are asked to end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.errors import UserError
from launch.cli.launch import fresh_folder, launch, read_hostfile
from launch.cluster.agent import MeetingPlace
from launch.cluster.carriers import batch_script, commands
from launch.cluster.heartbeat import Beat, read_beat
from launch.cluster.supervise import End, first_cause, lagging_ranks

ROOT = Path(__file__).parents[3]
PYTHON = sys.executable
HOSTS = (("a", 2), ("b", 3))
MASTER = "a:29500"
LOGS = Path("/logs/0001")
PROGRAM = ["program", "with space"]
AGENT = [PYTHON, "-m", "launch.cluster.agent", "--hosts", "a:2,b:3"]
TAIL = ["--master", MASTER, "--logs", "/logs/0001", "--", *PROGRAM]

# Forty steps of two ranks that wait for each other; the first word specifies the action of rank 1 at step 5.
TOY = """
import os, signal, sys, time
from launch.cluster.heartbeat import beat, beat_while_writing, open_heartbeat
open_heartbeat()
rank, mode, place = int(os.environ["RANK"]), sys.argv[1], sys.argv[2]
def wait_for_ever():
    while True:
        time.sleep(0.05)
def wait_for_the_other(step):
    open(f"{place}/{rank}_{step}", "w").close()
    while not os.path.exists(f"{place}/{1 - rank}_{step}"):
        time.sleep(0.01)
print("begin", rank, os.getpid(), file=open(f"{place}/pid_{rank}", "w"), flush=True)
for step in range(40):
    beat("batch", step)
    if step == 5 and rank == 1:
        print("last words", flush=True)
        if mode == "kill": os.kill(os.getpid(), signal.SIGKILL)
        if mode == "raise": raise RuntimeError("lost my way")
        if mode == "hang": wait_for_ever()
        if mode.startswith("write"):
            with beat_while_writing("a checkpoint"), open(f"{place}/slow", "wb", 0) as file:
                for _ in range(20):
                    file.write(bytes(100_000))
                    time.sleep(0.2)
                if mode == "write and hang": wait_for_ever()
        if mode == "freeze": os.kill(os.getpid(), signal.SIGSTOP)
    beat("gradients", step)
    wait_for_the_other(step)
    if rank == 0: print("step", step)
    time.sleep(0.02 if mode != "slow" else 0.2)
"""
GO = """
import sys
from pathlib import Path
from launch.cli.launch import fresh_folder
from launch.cluster.agent import MeetingPlace
from launch.cluster.carriers import commands
from launch.cluster.supervise import Job
folder = Path(sys.argv[1])
place, own = MeetingPlace((("localhost", 2),), "127.0.0.1:29500"), fresh_folder(folder / "logs")
program = [sys.executable, str(folder / "toy.py"), sys.argv[2], str(folder)]
sys.exit(Job(commands(None, place, own, program, []), place, own, 1.5).run())
"""


def start(folder: Path, mode: str) -> subprocess.Popen:
    """The watcher of a toy job, its ranks in `mode`."""
    (folder / "toy.py").write_text(TOY)
    (folder / "go.py").write_text(GO)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [PYTHON, str(folder / "go.py"), str(folder), mode]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ranks_of(folder: Path) -> list[int]:
    """The process ids of both ranks, once they have begun."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        texts = [path.read_text().split() for path in folder.glob("pid_*")]
        if len(texts) == 2 and all(len(text) == 3 for text in texts):
            return [int(text[2]) for text in texts]
        time.sleep(0.02)
    raise AssertionError("the ranks did not begin")


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still are (a zombie is not)."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [pid for pid, stat in states.items() if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"]


def all_gone(pids: list[int], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pids)


def test_a_job_that_ends_well_shows_rank_0_and_keeps_a_log_of_each(tmp_path):
    process = start(tmp_path, "well")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("step")] == [f"step {i}" for i in range(40)]
    assert (tmp_path / "logs" / "0001" / "rank_1.log").read_text() == "last words\n"


@pytest.mark.long
def test_a_rank_that_writes_for_longer_than_the_patience_does_not_hang_and_one_that_writes_no_more_does(tmp_path):
    found = {}
    for mode in ("write", "write and hang"):  # 4 s of writing, and a patience of 1.5 s
        (tmp_path / mode).mkdir()
        process = start(tmp_path / mode, mode)
        _, found[mode] = process.communicate(timeout=60)
        assert process.returncode == (mode != "write"), found[mode]
    assert found["write"] == ""
    assert re.search(
        r"rank 1 on localhost: step 5, a checkpoint, in .*toy\.py line \d+ \(wait_for_ever\)", found["write and hang"]
    )


@pytest.mark.parametrize("mode, code, words", [
    ("kill", 137, ["rank 1 on localhost was killed by signal 9 (SIGKILL) at step 5, batch", "| last words"]),
    ("raise", 1, ["rank 1 on localhost ended with exit code 1 at step 5, batch", "| RuntimeError: lost my way"]),
])  # fmt: skip
def test_a_dead_rank_ends_the_job_and_is_named_with_its_last_words(tmp_path, mode, code, words):
    process = start(tmp_path, mode)
    began, pids = time.monotonic(), ranks_of(tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and time.monotonic() - began < 30
    assert all(word in err for word in [*words, "goes on from the last checkpoint"]), err
    assert not alive(pids)


@pytest.mark.parametrize("mode, stands", [
    ("hang", r"toy\.py line \d+ \(wait_for_ever\)"),
    pytest.param("freeze", r"no answer \(its process is stopped\)", marks=pytest.mark.long),
])  # fmt: skip
def test_of_a_job_that_hangs_it_is_said_which_rank_is_behind_and_where_the_other_waits(tmp_path, mode, stands):
    process = start(tmp_path, mode)
    pids = ranks_of(tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and all_gone(pids)
    assert re.search(rf"Behind:\n  rank 1 on localhost: step 5, batch, .*{stands}, for \d+ s\n", err), err
    assert re.search(r"waiting: rank 0: step 5, gradients, in .*toy\.py line \d+ \(wait_for_the_other\)", err), err


def test_ctrl_c_asks_every_rank_once_and_the_watcher_waits_for_them(tmp_path):
    process = start(tmp_path, "slow")
    pids = ranks_of(tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "rank" not in err and not alive(pids)
    for rank in (0, 1):
        assert (tmp_path / "logs" / "0001" / f"rank_{rank}.log").read_text().count("KeyboardInterrupt") == 1


def test_a_watcher_that_is_killed_leaves_no_rank_behind(tmp_path):
    process = start(tmp_path, "slow")
    pids = ranks_of(tmp_path)
    process.kill()
    process.communicate()
    assert all_gone(pids)


def test_what_a_rank_learns_of_itself_and_the_others():
    place = MeetingPlace(HOSTS, MASTER)
    assert [place.host_of(rank) for rank in range(5)] == ["a", "a", "b", "b", "b"]
    found = place.environment(3)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert [found[name] for name in names] == ["3", "5", "1", "3", "1", "a", "29500"]


@pytest.mark.parametrize("text, hosts", [
    ("a\nb slots=8 # the big one\n\n# c\n", (("a", 1), ("b", 8))),
    ("10.0.0.1:4\nnode-2.net slots=2", (("10.0.0.1", 4), ("node-2.net", 2))),
])  # fmt: skip
def test_a_hostfile_names_hosts_and_their_ranks(tmp_path, text, hosts):
    (tmp_path / "hosts").write_text(text)
    assert read_hostfile(str(tmp_path / "hosts")) == hosts


@pytest.mark.parametrize("text, output", [
    ("a slots=x", "line 1"), ("a\na slots=2", "twice"), ("# none", "names no host"), ("a slots=0", "line 1"),
    ("-oProxyCommand=x", "line 1"),
])  # fmt: skip
def test_a_hostfile_with_a_mistake_is_refused(tmp_path, text, output):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match=output):
        read_hostfile(str(tmp_path / "hosts"))


def test_ssh_and_pdsh_carry_folder_environment_and_the_agent_of_the_host(monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    for name in [name for name in os.environ if name.startswith(("PYTHONPATH", "LD_", "OMP_", "JUKEBOX_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NCCL_DEBUG", "it's on")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    place = MeetingPlace(HOSTS, MASTER)
    a, b = commands("ssh", place, LOGS, PROGRAM, ["-p", "2222"])
    assert (
        a.command[0] == "ssh"
        and a.command[1:3] == ("-p", "2222")
        and a.command[-2] == "a"
        and (a.ranks, b.ranks) == (range(2), range(2, 5))
    )
    (p,) = commands("pdsh", place, LOGS, PROGRAM, [])
    assert p.command[:-1] == ("pdsh", "-R", "ssh", "-S", "-f", "1024", "-w", "a,b") and p.ranks == range(5)
    for line, host in ((a.command[-1], "a"), (b.command[-1], "b"), (p.command[-1], "%h")):
        there = ["cd", os.getcwd(), "&&", "exec", "env", "NCCL_DEBUG=it's on", f"PATH={Path(PYTHON).parent}:/bin"]
        there = there if not any(n.startswith(("MKL_", "GLOO_", "TORCH_", "DS_")) for n in os.environ) else there[:5]
        words = shlex.split(line)
        assert words[: len(there)] == there and words[-len([*AGENT, "--host", host, *TAIL]) :] == [
            *AGENT,
            "--host",
            host,
            *TAIL,
        ]
        assert "secret" not in line


def test_mpirun_and_srun_start_one_agent_a_rank(monkeypatch):
    for name in [
        name for name in os.environ if name.startswith(("LD_", "OMP_", "MKL_", "GLOO_", "NCCL_", "TORCH_", "DS_", "JUKEBOX_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", "/x")
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    place, agent = MeetingPlace(HOSTS, MASTER), [*AGENT, *TAIL]
    expected = {
        "mpich": f"mpirun -n 5 -hosts a:2,b:3 env PATH={Path(PYTHON).parent}:/bin PYTHONPATH=/x",
        "openmpi": f"mpirun -n 5 --host a:2,b:3 --bind-to none env PATH={Path(PYTHON).parent}:/bin PYTHONPATH=/x",
        "srun": "srun --nodes 2 --ntasks 5 --distribution block --kill-on-bad-exit=1 --export=ALL",
    }
    for carrier, words in expected.items():
        (only,) = commands(carrier, place, LOGS, PROGRAM, [])  # type: ignore[arg-type]
        assert list(only.command) == [*words.split(), *agent] and only.ranks == range(5), carrier


def test_a_batch_script_is_one_that_bash_reads_and_asks_for_what_was_said(tmp_path):
    words = ["train", "prior", "my data", "--level", "2"]
    script = batch_script(words, tmp_path, 4, 8, "1-0", "gpu", 900, ["--gpus-per-node=8"])
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    asked = re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)
    assert asked == [
        "--job-name=jukebox-train", "--nodes=4", "--ntasks-per-node=8", "--time=1-0", "--partition=gpu", "--requeue",
        "--open-mode=append", "--signal=B:USR1@120", f"--output={tmp_path}/slurm-%j.out", "--gpus-per-node=8",
    ]  # fmt: skip
    inner = [PYTHON, "-m", "launch.cli", "launch", "--with", "srun", "--logs", str(tmp_path), "--patience", "900", "--", *words]
    assert f"\n{shlex.join(inner)} &\n" in script


def test_print_says_what_would_be_run_and_makes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch("train", "prior", "DATA", ranks=3, print_=True)
    (line,) = capsys.readouterr().out.splitlines()
    words = shlex.split(line)
    assert words[:5] == [PYTHON, "-m", "launch.cluster.agent", "--hosts", "localhost:3"]
    assert words[-6:] == [PYTHON, "-m", "launch.cli", "train", "prior", "DATA"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, flags, output", [
    ((), {}, "behind --"),
    (("trian", "prior", "DATA"), {}, "did you mean train"),
    (("train", "prior"), {}, "DATA is missing"),
    (("train", "prior", "DATA", "--level", "x"), {}, "whole number"),
    (("evaluate", "MODEL", "DATA"), {"ranks": 2}, "does not share its work"),
    (("launch",), {}, "no verb 'launch'"),
    (("train", "prior", "DATA"), {"ranks": 2, "hostfile": "h"}, "--ranks is for this machine"),
    (("train", "prior", "DATA"), {"with_": "pdsh"}, "needs a --hostfile"),
    (("train", "prior", "DATA"), {"with_": "srun"}, "inside a SLURM job"),
    (("train", "prior", "DATA"), {"slurm": True}, "--ranks_per_node"),
    (("train", "prior", "DATA"), {"patience": 0.0}, "--patience"),
    (("train", "prior", "DATA"), {"patience": 1800.0}, "below 1800, because ranks stop waiting"),
    (("train", "prior", "DATA"), {"hostfile": "/no/file"}, "cannot be read"),
])  # fmt: skip
def test_what_cannot_be_launched_is_refused_before_anything_starts(words, flags, output):
    with pytest.raises(UserError, match=re.escape(output)):
        launch(*words, **{"ranks": 1} | flags if not {"hostfile", "with_", "slurm"} & set(flags) else flags)


def test_every_start_has_a_folder_of_its_own(tmp_path):
    (tmp_path / "notes").mkdir()
    assert [fresh_folder(tmp_path).name for _ in range(3)] == ["0001", "0002", "0003"]


def test_the_cause_is_what_a_signal_killed_and_not_what_fell_over_it():
    first, killed, late = End(0, 1, "a", False, 1.0), End(1, -9, "b", False, 2.0), End(2, 1, "b", False, 3.0)
    assert first_cause([first, killed, late]) == killed and first_cause([late, first]) == first
    mistakes = [End(1, 2, "a", False, 1.0), End(0, 2, "a", False, 2.0)]
    assert first_cause(mistakes).rank == 0


def test_those_who_wait_in_a_collective_are_not_behind_where_another_does_not():
    beats = {0: Beat(7, 1, "learning"), 1: Beat(7, 2, "agreeing"), 2: Beat(7, 1, "learning")}
    assert lagging_ranks(beats, dict.fromkeys(beats, "")) == [0, 2]
    output = {0: "File torch/distributed/c10d.py", 1: "File launch/corpus/pcm.py", 2: "File torch/distributed/c10d.py"}
    assert lagging_ranks(beats, output) == [1]
    assert lagging_ranks(beats, dict.fromkeys(beats, output[0])) == [0, 2]


def test_of_two_ranks_the_one_with_the_smaller_beat_is_behind(tmp_path):
    assert Beat(3, 9, "x") < Beat(4, 0, "a") < Beat(4, 1, "a")
    (tmp_path / "beat").write_text("12.3.7 gradients    \n")
    assert read_beat(tmp_path / "beat") == Beat(12, 3, "gradients", 7) and read_beat(tmp_path / "none") is None
