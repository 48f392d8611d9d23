"""The run folder: what a kill, a full disk or a damaged file leave, and who may write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox.runs.request import sampled
from jukebox.runs.run import Run
from jukebox.runs.run_file import versions
from jukebox.sampling import walk
from jukebox.song import Song
from tests.runs import sample, settings_of
from vqvae.streams import Stream

SONG = Song("ann", ("rock",), "la la la")
CODES = np.arange(40).reshape(2, 20) % 30


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


@pytest.fixture
def run(tiny_model, tmp_path) -> Run:
    """A run of two samples with 20 codes of each at level 2, of 51."""
    asked = sampled(tiny_model.info, [SONG, SONG], 0.3, settings_of(tiny_model, levels=(2,)))
    made = Run.create(tmp_path / "run", asked)
    made.append(2, [0, 1], 0, CODES, 0.1)
    return made


def test_what_was_appended_is_what_is_read(run):
    opened = Run.open(run.folder)
    assert np.array_equal(opened.codes(2), CODES)
    assert np.array_equal(opened.codes(2, [1], 3, 6), [[23, 24, 25]])
    assert opened.count(2) == 20 and opened.count(1) == 0 and opened.codes(1).shape == (2, 0)
    opened.append(2, [1], 0, np.array([[7, 8]]), 0.1)
    assert opened.count(2) == 20 and opened.count(2, [1]) == 22 and opened.codes(2).shape == (2, 20)


FRAMES = {
    "codes": Stream("toy.codes", 64, books=2, bins=256, dtype="uint8"),
    "latents": Stream("toy.latents", 64, width=3, dtype="float32"),
}


@pytest.mark.parametrize("stream", FRAMES.values(), ids=FRAMES)
def test_latents_and_codes_of_several_books_are_on_disk_in_their_own_dtype(stream, run, tmp_path):
    """Little-endian frames without a header, after each other; what no line vouches for is cut off at a whole frame."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 20, 2)) if stream.books > 1 else rng.standard_normal((2, 20, 3))
    frames = frames.astype(stream.dtype)
    request = {**run.request, "hops": [64], "levels": [0], "streams": [asdict(stream)]}
    made = Run.create(tmp_path / "toy", request)
    made.append(0, [0, 1], 0, frames[:, :12], 0.1)
    made.append(0, [1], 0, frames[1:, 12:], 0.1)
    path = made.codes_path(0, 1)
    assert path.name == {"toy.codes": "level_0_sample_1.u8", "toy.latents": "level_0_sample_1.f32"}[stream.name]
    assert path.read_bytes() == frames[1].astype(np.dtype(stream.dtype).newbyteorder("<")).tobytes()
    with open(path, "ab") as file:
        file.write(b"a frame in part"[: made.frame_bytes(0) - 1])
    opened = Run.open(made.folder)
    assert opened.stream(0) == stream and opened.frame_bytes(0) == frames[0, 0].nbytes
    with opened.lock_samples([0, 1]):
        assert path.stat().st_size == frames[1].nbytes
    assert (opened.count(0), opened.count(0, [1])) == (12, 20)
    assert np.array_equal(opened.codes(0), frames[:, :12]) and opened.codes(0).dtype == frames.dtype
    assert np.array_equal(opened.codes(0, [1], 11, 15)[0], frames[1, 11:15])
    assert opened.codes(0, [0], 12).shape == (1, 0, *stream.frame_shape)
    values, mask = opened.known_frames(0, 1, 8, 16, upto=20)
    assert np.array_equal(values[:12], frames[1, 8:]) and mask.tolist() == [True] * 12 + [False] * 4


def test_what_no_line_vouches_for_is_cut_off_by_whoever_goes_on_and_by_nobody_else(run):
    path = run.codes_path(2, 0)
    with open(path, "ab") as file:
        file.write(b"half")
    with open(run.folder / "progress.jsonl", "ab") as file:
        file.write(b'{"level": 2, "samp')
    opened = Run.open(run.folder)
    assert opened.count(2) == 20 and path.stat().st_size == 44
    with opened.lock_samples([0]):
        assert path.stat().st_size == 40
        opened.append(2, [0], 0, np.array([[1]]), 0.1)
    assert Run.open(run.folder).codes(2, [0])[0, -1] == 1


def test_a_damaged_file_is_named(run, tiny_model):
    path, progress, asked = run.codes_path(2, 1), run.folder / "progress.jsonl", run.folder / "run.json"
    kept = {each: each.read_bytes() for each in (path, progress, asked)}

    def damage(each: Path, data: bytes, line: str) -> None:
        each.write_bytes(data)
        with pytest.raises(UserError, match=line):
            Run.open(run.folder)
        each.write_bytes(kept[each])

    damage(path, b"\x01" + kept[path][1:], "level_2_sample_1.u16 is damaged: it does not match its checksum")
    damage(path, kept[path][:20], "level_2_sample_1.u16 is damaged: it is shorter than progress.jsonl specifies, 10 of 20")
    damage(progress, b"\x00" + kept[progress][1:], "progress.jsonl is damaged: a line cannot be read")
    damage(progress, b'{"level": 2}\n', "progress.jsonl is damaged: a line without 'samples'")
    damage(asked, kept[asked][:-30], "run.json is damaged: it cannot be read")
    damage(asked, b'{"version": 3}', "run.json is damaged: it has no verb, model")
    damage(asked, b'{"version": 1}', "is of version 1, this program writes 3: sample it again")
    path.unlink()
    with pytest.raises(UserError, match="level_2_sample_1.u16 is damaged"):
        Run.open(run.folder)
    with pytest.raises(UserError, match="holds no run.json"):
        Run.open(run.folder / "codes")
    with pytest.raises(UserError, match="already holds a run"):
        sample(tiny_model, [SONG], 0.3, run.folder)


def test_a_sample_that_another_process_writes_is_one_line(run):
    code = f"""if True:
        from data_prep.errors import UserError
        from jukebox.runs.run import Run
        try:
            with Run.open({str(run.folder)!r}).lock_samples([0, 1]):
                print("mine")
        except UserError as error:
            print(error)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env).stdout

    with run.lock_samples([1]), Run.open(run.folder).lock_samples([0]):  # other samples of the run are free
        printed = other()
    assert "is being written by another process" in printed and printed.count("\n") == 1
    assert other() == "mine\n"


def test_a_stale_lock_blocks_nobody(run):
    for name in (".lock", ".progress.lock", ".locks/sample_0", ".locks/sample_1"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text("4711")  # left by a process that was killed
    assert walk.resume(Run.open(run.folder)).count(2) == 51


def test_ranks_of_one_command_share_a_run_and_nobody_else_does(run):
    same = {**run.request, "versions": {}, "cuts": [1]}
    assert Run.create(run.folder, same, join=True).count(2) == 20
    for changed, join in ((same, False), ({**same, "seed": 9}, True)):
        with pytest.raises(UserError, match="already holds a run"):
            Run.create(run.folder, changed, join)


def test_a_run_begins_in_a_checkout_that_is_not_installed(monkeypatch):
    def version(name: str, found=metadata.version) -> str:
        if name == "jukebox-music":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    assert versions().keys() == {"python", "torch", "numpy", "jukebox-music"}
    monkeypatch.setattr(metadata, "version", version)
    assert versions().keys() == {"python", "torch", "numpy"}


def test_a_process_without_a_batch_does_nothing(run):
    assert len(run.request["batches"]) == 1
    assert walk.resume(run, rank=1, ranks=2).count(2) == 20


def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_when_there_is_room(tiny_model, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(UserError, match="the disk is full; .* go on with `jukebox resume"):
            sample(tiny_model, [SONG, SONG], 0.3, disk / "run", seed=3)
        assert json.loads((disk / "run" / "run.json").read_text())["seed"] == 3
        cut = Run.open(disk / "run")
        assert 0 < cut.count(2) and cut.count(0) < cut.total(0)
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        made = walk.resume(cut)
        whole = sample(tiny_model, [SONG, SONG], 0.3, tmp_path / "whole", seed=3)
        assert all(np.array_equal(made.codes(level), whole.codes(level)) for level in (2, 1, 0))
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- a run from elsewhere


def rewrite(folder: Path, **changes) -> None:
    request = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(request | changes))


@pytest.mark.parametrize("place", ["../../elsewhere.wav", "/etc/hosts.wav", "../run/../../x.wav", "inside.wav"])
def test_a_run_that_is_to_write_outside_of_its_place_is_not_opened(run, place):
    rewrite(run.folder, outputs=["../song.wav"])
    Run.open(run.folder)
    rewrite(run.folder, outputs=["../song.wav", place])
    with pytest.raises(UserError, match="outside of .*; a run from elsewhere may not"):
        Run.open(run.folder)


def test_levels_that_are_no_numbers_of_streams_are_damage(run):
    for levels in (["../../x"], [7], [-1], [2.0]):
        rewrite(run.folder, levels=levels)
        with pytest.raises(UserError, match="is damaged: its levels are"):
            Run.open(run.folder)
    rewrite(run.folder, levels=[2])
    line = json.loads((run.folder / "progress.jsonl").read_text())
    (run.folder / "progress.jsonl").write_text(json.dumps(line | {"level": "/../../x"}) + "\n")
    with pytest.raises(UserError, match="progress.jsonl is damaged"):
        Run.open(run.folder)


def test_codes_that_are_a_link_to_another_file_are_not_cut_off(run, tmp_path):
    path = run.codes_path(2, 0)
    (tmp_path / "mine.txt").write_bytes(path.read_bytes() + b"what follows")
    path.unlink()
    path.symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="it is a link to a file elsewhere"), run.lock_samples([0]):
        pass
    assert (tmp_path / "mine.txt").read_bytes().endswith(b"what follows")
