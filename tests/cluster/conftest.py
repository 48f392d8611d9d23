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


def until(what, seconds: float = 60.0):
    """The first true value of what(), which must come in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


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

    def processes(self, host: int, word: str) -> list[int]:
        """Ids of the processes on a host whose command holds a word."""
        pids = sh(f"ip netns pids jukebox-{host}").split()
        return [int(p) for p in pids if word in sh(f"tr '\\0' ' ' < /proc/{p}/cmdline", check=False)]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts that are up."""
    missing = [
        program for program in ("ip", "unshare", "ssh", "ssh-keygen", "/usr/sbin/sshd") if not shutil.which(program)
    ]
    if os.geteuid() or missing:
        pytest.skip(
            f"needs root, and {', '.join(missing) or 'no program'} is missing: apt install iproute2 openssh-server"
        )
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
