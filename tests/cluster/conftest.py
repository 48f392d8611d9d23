"""Two hosts on one machine, each with a network, a name and an sshd of its own; everything is taken down again.

Two network namespaces hang on a bridge by a pair of virtual cables. Their files are this machine's, as on a cluster with
a shared file system. Nothing resolves their names: ranks that ask for their own name's address find none, which is
what happens on many a machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BRIDGE, NET = "jukebox0", "10.77.31"


def sh(line: str, check: bool = True) -> str:
    """Output of a shell line."""
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{line}\n{done.stderr}"
    return done.stdout


def until(what, seconds: float = 300.0):
    """The first true value of what(), which must come in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


@pytest.fixture(name="until")
def until_fixture():
    """`until`, for tests."""
    return until


STEPS = 120


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of eight synthetic songs."""
    from data_prep.manifest import prepare
    from data_prep.synthetic.songs import make_corpus

    folder = tmp_path_factory.mktemp("corpus")
    prepare(make_corpus(folder / "songs", 8, seconds=3.0, workers=1) / "songs.jsonl", folder / "data", workers=1)
    return folder / "data"


@pytest.fixture(scope="session")
def training(corpus: Path):
    """The words that train a small codec into a model folder: `training(out)`, `training(out, steps)`."""
    words = ["train", "vqvae", str(corpus), "--preset", "test", "--level", "2", "--device", "cpu"]
    return lambda out, steps=STEPS: [*words, "--steps", str(steps), "--out", str(out)]


@pytest.fixture(scope="session")
def losses():
    """Step -> loss of a training into a model folder, from its log."""
    from launch.training.log import read_log

    return lambda out: {line["step"]: line["loss"] for line in read_log(Path(out) / "training" / "vqvae_2" / "log.jsonl")}


@pytest.fixture(scope="session")
def uninterrupted(training, losses, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, float]]:
    """The losses of one process, and of two ranks on this machine, that nothing disturbs."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name, params in (("one", []), ("two", ["launch", "--ranks", "2", "--"])):
        command = [sys.executable, "-m", "launch.cli", *params, *training(folder / name)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    found = {name: losses(folder / name) for name in ("one", "two")}
    assert list(found["one"]) == list(found["two"]) == list(range(1, STEPS + 1))
    return found


@dataclass
class Hosts:
    """Addresses of the hosts, a hostfile that names them, options by which ssh gets there."""

    folder: Path
    addresses: tuple[str, ...]
    hostfile: Path
    options: str
    here: str = f"{NET}.254"
    net: str = f"{NET}.0/24"

    def launch(self, *words: str, **variables: str) -> subprocess.Popen:
        """`jukebox launch --hostfile ...` on this machine, in the hosts' folder."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        command = [sys.executable, "-m", "launch.cli", "launch", "--hostfile", str(self.hostfile), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=environment | variables, stdout=pipe, stderr=pipe, text=True)

    def processes(self, host: int) -> dict[int, str]:
        """Our processes on a host and their commands."""
        pids = sh(f"ip netns pids jukebox-{host}").split()
        commands = {int(pid): sh(f"tr '\\0' ' ' < /proc/{pid}/cmdline", check=False) for pid in pids}
        return {pid: command for pid, command in commands.items() if "launch." in command}

    def ranks(self, host: int) -> list[int]:
        """Those of them that are ranks themselves, and do not look after one."""
        return [pid for pid, command in self.processes(host).items() if command.startswith(f"{sys.executable} -m launch.cli")]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts that are up."""
    missing = [program for program in ("ip", "unshare", "ssh", "ssh-keygen", "/usr/sbin/sshd") if not shutil.which(program)]
    if os.geteuid() or missing:
        pytest.skip(f"needs root, and {', '.join(missing) or 'no program'} is missing: apt install iproute2 openssh-server")
    take_down()
    sh(f"ip link add {BRIDGE} type bridge && ip addr add {NET}.254/24 dev {BRIDGE} && ip link set {BRIDGE} up")
    sh(
        f"ssh-keygen -q -t ed25519 -N '' -f {tmp_path}/key && ssh-keygen -q -t ed25519 -N '' -f {tmp_path}/hostkey; mkdir -p /run/sshd"
    )
    known = "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    (tmp_path / "ssh_config").write_text(f"IdentityFile {tmp_path}/key\nIdentitiesOnly yes\n{known}")
    sshds = []
    for i in (1, 2):
        name = f"jukebox-{i}"
        sh(f"ip netns add {name} && ip link add jukebox-v{i} type veth peer name eth0 netns {name}")
        sh(f"ip link set jukebox-v{i} master {BRIDGE} up && ip -n {name} addr add {NET}.{i}/24 dev eth0")
        sh(f"ip -n {name} link set eth0 up && ip -n {name} link set lo up")
        (tmp_path / f"sshd_{i}").write_text(
            f"ListenAddress {NET}.{i}\nHostKey {tmp_path}/hostkey\nAuthorizedKeysFile {tmp_path}/key.pub\nStrictModes no\n"
            f"UsePAM no\nPermitRootLogin prohibit-password\nPidFile {tmp_path}/sshd_{i}.pid\nMaxStartups 100\n"
        )
        serve = f"hostname {name} && exec /usr/sbin/sshd -D -e -f {tmp_path}/sshd_{i}"
        with (tmp_path / f"sshd_{i}.log").open("w") as log:
            command = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", serve]
            sshds.append(subprocess.Popen(command, stderr=log, start_new_session=True))
    (tmp_path / "hostfile").write_text(f"{NET}.1 slots=1\n{NET}.2 slots=1\n")
    up = Hosts(tmp_path, (f"{NET}.1", f"{NET}.2"), tmp_path / "hostfile", f"-F {tmp_path}/ssh_config")
    try:
        for address in up.addresses:
            until(lambda a=address: sh(f"ssh {up.options} {a} hostname", check=False).startswith("jukebox-"), 20)
        yield up
    finally:
        for sshd in sshds:
            sshd.send_signal(signal.SIGTERM)
            sshd.wait()
        take_down()


def take_down() -> None:
    """Remove what an earlier run may have left, and whatever still runs in it."""
    for i in (1, 2):
        for pid in sh(f"ip netns pids jukebox-{i}", check=False).split():
            sh(f"kill -9 {pid}", check=False)
        sh(f"ip netns del jukebox-{i}", check=False)
        sh(f"ip link del jukebox-v{i}", check=False)
    sh(f"ip link del {BRIDGE}", check=False)


SLURM_CONF = """
ClusterName=jukebox
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort=26817
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
TmpFS={folder}/tmp.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=60
SchedulerParameters=sched_interval=2,batch_sched_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=27001 CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=27002 CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


@dataclass
class Slurm:
    """A SLURM of two nodes: its folder, and the environment in which its commands find it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str) -> str:
        """Output of a command in the environment of this SLURM."""
        done = subprocess.run(words, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ..."""
        return next(word for word in self.run("scontrol", "show", "job", job).split() if word.startswith("JobState="))[9:]

    def output(self, job: str) -> str:
        """The output of the job so far."""
        path = self.folder / "logs" / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    """Two nodes that are up, with a munge of their own."""
    missing = [
        name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path="/usr/sbin:/usr/bin")
    ]
    if os.geteuid() or missing:
        pytest.skip(f"needs root, and {', '.join(missing) or 'no program'} is missing: apt install slurm-wlm munge")
    for name in ("state", "spool.n1", "spool.n2", "tmp.n1", "tmp.n2"):
        (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)
    (tmp_path / "munge.key").write_bytes(os.urandom(128))
    (tmp_path / "munge.key").chmod(0o400)
    (tmp_path / "slurm.conf").write_text(SLURM_CONF.format(folder=tmp_path, host=sh("hostname -s").strip()))
    environment = {**os.environ, "SLURM_CONF": f"{tmp_path}/slurm.conf", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}:/usr/sbin"
    munge = f"munged --foreground --force --socket={tmp_path}/munge.socket --key-file={tmp_path}/munge.key"
    munge += f" --pid-file={tmp_path}/munged.pid --log-file={tmp_path}/munged.log --seed-file={tmp_path}/munged.seed"
    daemons = []
    try:
        for command in (munge, "slurmctld -D", "slurmd -D -N n1", "slurmd -D -N n2"):
            with (tmp_path / "daemons.log").open("a") as log:
                daemons.append(
                    subprocess.Popen(command.split(), env=environment, stdout=log, stderr=log, start_new_session=True)
                )
            if command == munge:
                until(lambda: (tmp_path / "munge.socket").exists(), 20)
        up = Slurm(tmp_path, environment)
        until(lambda: sh(f"SLURM_CONF={tmp_path}/slurm.conf sinfo -h -o '%D %t'", check=False).strip() == "2 idle", 60)
        yield up
    finally:
        if len(daemons) == 4:
            sh(f"export SLURM_CONF={tmp_path}/slurm.conf; scancel --user root", check=False)
            until(lambda: not sh(f"SLURM_CONF={tmp_path}/slurm.conf squeue -h", check=False).strip())
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
