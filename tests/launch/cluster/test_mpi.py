"""`mpirun jukebox prepare|encode`: the tables of one process, whatever dies on the way, and no rank that waits for ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.audio.audio import write_wav
from data_prep.manifest import JOURNAL
from jukebox import Jukebox
from jukebox.model.codes import codes_folder, open_codes
from jukebox.model.presets import find
from vqvae.jukebox.vqvae import VQVAE

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.long, pytest.mark.skipif(MPIRUN is None, reason="no MPI")]
pytest.importorskip("mpi4py")

# In every worker that decodes: one file takes its process down by a true segmentation fault; each takes SLOW seconds, and
# its name is written into the file DECODED.
DECODER = """
import sys
if "serve()" in " ".join(sys.orig_argv):
    import ctypes, os, time
    import data_prep.manifest as manifest
    whole = manifest.probe
    def probe(path):
        time.sleep(float(os.environ.get("SLOW", "0")))
        with open(os.environ.get("DECODED", os.devnull), "a") as file:
            file.write(path.name + "\\n")
        if path.name == "deadly.wav":
            ctypes.string_at(0)
        return whole(path)
    manifest.probe = probe
"""
# Rank 1 of mpirun fails where rank 0 waits for it.
BROKEN = """
import os
if os.environ.get("PMI_RANK") == "1" or os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
    import data_prep.manifest as manifest
    def fail(*_, **__):
        raise {error}
    manifest.map_songs = fail
"""


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Eleven noises, one file that kills its decoder, one that is none, and (made here) a site that does the killing."""
    rng = np.random.default_rng(0)
    for i in range(11):
        write_wav(tmp_path / "music" / f"{i:02d}.wav", 0.3 * rng.standard_normal((1, 22050 + 331 * i)), 22050)
    shutil.copy(tmp_path / "music" / "00.wav", tmp_path / "music" / "deadly.wav")
    (tmp_path / "music" / "torn.wav").write_bytes(b"RIFF of nothing")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DECODER)
    return tmp_path / "music"


def begin(music: Path, ranks: int, *words: str, **variables: str) -> subprocess.Popen:
    """`mpirun -n ranks jukebox words`, or without mpirun for 0 ranks, in a session of its own."""
    place = os.pathsep.join([str(music.parent / "site"), str(ROOT)])
    # two MPIs may be installed: mpirun and the library of the ranks must be of one
    environment = {**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1", **variables}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [str(MPIRUN), "-n", str(ranks)] * bool(ranks) + [sys.executable, "-m", "launch.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def run(music: Path, ranks: int, *words: str, **variables: str) -> subprocess.CompletedProcess:
    process = begin(music, ranks, *words, **variables)
    out, err = process.communicate(timeout=150)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to mpirun and to every rank of it."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.split("\n")[1:]
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listed if line}
    family = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def same_tables(a: Path, b: Path) -> bool:
    """Whether two data folders hold the same, byte by byte but for the folder's own place in the metadata."""
    left, right = (pq.read_table(folder / "manifest.parquet") for folder in (a, b))
    return left.equals(right) and all((a / n).read_bytes() == (b / n).read_bytes() for n in ("refused.parquet", "labels.json"))


@pytest.fixture
def alone(music: Path, tmp_path: Path) -> Path:
    done = run(music, 0, "prepare", str(music), "--out", str(tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    return tmp_path / "alone"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_write_the_tables_of_one_process_and_a_deadly_file_costs_itself_alone(music, alone, tmp_path, ranks):
    done = run(music, ranks, "prepare", str(music), "--out", str(tmp_path / "data"))
    assert done.returncode == 0 and done.stdout.count("kept 11 songs") == 1, done.stderr
    assert same_tables(alone, tmp_path / "data")
    refused = {row["path"]: row for row in pq.read_table(tmp_path / "data" / "refused.parquet").to_pylist()}
    assert set(refused) == {"deadly.wav", "torn.wav"}
    assert "decoder crashed" in refused["deadly.wav"]["detail"] and "exit code -11" in refused["deadly.wav"]["detail"]


def test_a_preparation_that_is_killed_goes_on_from_its_finished_songs_on_another_number_of_ranks(music, alone, tmp_path):
    words = ("prepare", str(music), "--out", str(tmp_path / "data"))
    process, journal = begin(music, 2, *words, SLOW="0.5"), tmp_path / "data" / JOURNAL
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    kill(process)
    assert not (tmp_path / "data" / "manifest.parquet").exists()
    finished = {json.loads(line)[1]["path"] for line in journal.read_text().splitlines()[:-1]}
    done = run(music, 4, *words, DECODED=str(tmp_path / "decoded"))
    assert done.returncode == 0, done.stderr
    decoded = (tmp_path / "decoded").read_text().split()
    assert len(finished) >= 2 and not finished & set(decoded) and len(decoded) == len(set(decoded)) < 13
    assert same_tables(alone, tmp_path / "data")


@pytest.mark.parametrize("error, code, output", [
    ("RuntimeError('lost')", 1, "RuntimeError: lost"),
    ("manifest.UserError('not here')", 2, "jukebox prepare: not here"),
])  # fmt: skip
def test_a_rank_that_fails_alone_ends_the_job(music, tmp_path, error, code, output):
    (tmp_path / "site" / "sitecustomize.py").write_text(BROKEN.format(error=error))
    done = run(music, 2, "prepare", str(music), "--out", str(tmp_path / "data"))
    assert done.returncode == code and output in done.stderr, (done.returncode, done.stderr)


def test_a_mistake_of_all_ranks_is_said_once(music, tmp_path):
    done = run(music, 3, "prepare", str(tmp_path / "nothing"), "--out", str(tmp_path / "data"))
    assert done.returncode == 2 and done.stderr.count("no such folder") == 1, done.stderr


def test_ranks_encode_the_codes_of_one_process_also_after_a_kill(music, alone, tmp_path):
    torch.manual_seed(0)
    config = find("test").codec
    model = Jukebox.create(tmp_path / "model", config)
    model.save_codec(VQVAE(config))
    streams, expected = ("vq.0", "vq.1", "vq.2"), None
    folders = [codes_folder(alone, model.info, stream) for stream in streams]
    words = ("encode", str(alone), str(model.folder), "--threads", "1")
    for ranks, killed in ((0, False), (1, False), (2, False), (4, False), (4, True)):
        shutil.rmtree(alone / "codes", ignore_errors=True)
        if killed:  # two ranks, as soon as a song of either is on disk; how much they leave undone is up to the machine
            process = begin(music, 2, *words)
            while len([*folders[0].glob(".codes*.part"), *folders[0].glob("codes*.arrow")]) < 2:
                assert process.poll() is None or process.returncode == 0, process.communicate()
                time.sleep(0.002)
            kill(process)
        done = run(music, ranks, *words)
        assert done.returncode == 0, done.stderr
        reader = open_codes(alone, model.info, streams)
        codes = {(song, stream): reader.read(song, stream).tolist() for song in reader.songs for stream in streams}
        expected = expected or codes
        assert codes == expected and len(codes) == 33
        for folder, stream in zip(folders, streams):
            index = pq.read_table(folder / "index.parquet").to_pydict()
            assert sorted(zip(index["song"], index["stream"])) == sorted(key for key in codes if key[1] == stream)
            files = len(set(index["shard"]))
            assert files >= 2 if killed else files == max(ranks, 1), index["shard"]
            assert not list(folder.glob(".codes*.part"))
