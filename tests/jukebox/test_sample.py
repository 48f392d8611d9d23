"""The walk over levels and windows: what is kept, what repeats, what survives a kill."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio import read, write_wav
from data_prep.errors import UserError
from jukebox import sample as sampling
from jukebox.run import Run, generator
from jukebox.song import Song
from priors.prior import How

SONG = Song("ann", ("rock",), "la la la\nli li")
SECONDS = 0.4  # 68 codes of the top level, whose window is 32


def codes_of(run: Run) -> dict[int, np.ndarray]:
    return {level: run.codes(level) for level in run.request["levels"]}


def assert_same(a: Run, b: Run) -> None:
    for level, codes in codes_of(a).items():
        assert np.array_equal(codes, b.codes(level)), f"level {level} differs"


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    return sampling.sample(tiny_model, [SONG, SONG], SECONDS, tmp_path_factory.mktemp("run") / "a", seed=3)


def test_a_run_has_every_level_at_its_full_length_and_wavs_of_the_finished_length(run, tiny_model):
    for level, hop in enumerate(tiny_model.hops):
        codes = run.codes(level)
        assert codes.shape == (2, 68 * 128 // hop)
        assert len(np.unique(codes)) > 8  # not one code for ever
        for i in range(2):
            with wave.open(str(run.audio_path(level, i))) as file:
                assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (68 * 128, 22050, 2)
    assert (run.folder / "index.html").is_file()
    assert not np.array_equal(run.codes(2)[0], run.codes(2)[1])  # same request, other generator


def test_windows_are_really_used(run, tiny_model):
    windows = [line["start"] for line in run.progress if line["level"] == 2]
    assert windows == [0, 16, 32, 36]


def test_the_same_seed_gives_the_same_codes_and_the_same_bytes_of_sound(run, tiny_model, tmp_path):
    again = sampling.sample(tiny_model, [SONG, SONG], SECONDS, tmp_path / "b", seed=3)
    assert_same(run, again)
    for path in (run.folder / "audio").iterdir():
        assert path.read_bytes() == (again.folder / "audio" / path.name).read_bytes()
    other = sampling.sample(tiny_model, [SONG, SONG], SECONDS, tmp_path / "c", seed=4)
    assert not np.array_equal(run.codes(2), other.codes(2))


def test_a_song_needs_no_artist_genre_or_lyrics_and_each_of_them_changes_it(tiny_model, tmp_path):
    bare = sampling.sample(tiny_model, [Song()], 0.3, tmp_path / "bare", levels=(2,))
    for i, song in enumerate([Song("bob"), Song(genres=("waltz",)), Song(lyrics="oh\nmy")]):
        named = sampling.sample(tiny_model, [song], 0.3, tmp_path / f"named{i}", levels=(2,))
        assert not np.array_equal(bare.codes(2), named.codes(2)), song


def test_a_batch_gives_the_codes_of_batches_of_one_exactly_in_float64(tiny_model, tmp_path, monkeypatch):
    plain = type(tiny_model).prior
    monkeypatch.setattr(type(tiny_model), "prior", lambda self, level: plain(self, level, torch.float64))
    songs = [Song("ann", ("rock",), "la"), Song("bob", (), "li la"), Song(), Song("ann"), Song(None, ("waltz",))]
    batch = sampling.sample(tiny_model, songs, 0.3, tmp_path / "batch", seed=1)
    for i, song in enumerate(songs):
        # a batch of one draws from the generator of its place in the batch
        monkeypatch.setattr(
            sampling, "generator", lambda seed, sample, level, start, i=i: generator(seed, sample + i, level, start)
        )
        alone = sampling.sample(tiny_model, [song], 0.3, tmp_path / f"alone{i}", seed=1)
        monkeypatch.undo()
        monkeypatch.setattr(type(tiny_model), "prior", lambda self, level: plain(self, level, torch.float64))
        for level in range(3):
            assert np.array_equal(alone.codes(level)[0], batch.codes(level)[i])


def test_a_run_cut_anywhere_resumes_to_the_codes_of_an_uninterrupted_one(run, tiny_model, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    for cut in (1, 5, 11):
        folder = tmp_path / f"cut{cut}"
        append, count = Run.append, iter(range(1000))

        def fail(self, *args, append=append, count=count, cut=cut):
            if next(count) == cut:
                with open(self.codes_path(args[0]), "ab") as file:
                    file.write(b"\x07" * 10)  # codes that no progress line vouches for
                raise Killed
            append(self, *args)

        monkeypatch.setattr(Run, "append", fail)
        with pytest.raises(Killed):
            sampling.sample(tiny_model, [SONG, SONG], SECONDS, folder, seed=3)
        monkeypatch.undo()
        assert_same(run, sampling.resume(Run.open(folder)))


def test_resuming_a_finished_run_changes_nothing(run):
    before = codes_of(run)
    again = sampling.resume(Run.open(run.folder))
    assert all(np.array_equal(before[level], again.codes(level)) for level in before)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    t = np.arange(22050) / 22050
    wave = (
        0.3 * np.sin(2 * np.pi * 220 * t * (1 + 0.2 * t)) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
    )[None]
    path = tmp_path_factory.mktemp("recording") / "tune.wav"
    write_wav(path, wave.astype(np.float32), 22050)
    return path


def test_the_primed_part_of_a_continuation_is_bit_equal_to_its_prompts_codes(tiny_model, recording, tmp_path):
    run = sampling.continue_(tiny_model, [SONG, Song()], [recording], 0.2, 0.5, tmp_path / "more", seed=5)
    kept = 22050 // 5 // 128  # whole codes of the top level in 0.2 s
    heard = torch.from_numpy(read(recording)[0][None, :, : kept * 128])
    prompt = tiny_model.codec().encode(heard, (0, 1, 2))
    for level, hop in enumerate(tiny_model.hops):
        codes = run.codes(level)
        assert codes.shape[1] == int(0.5 * 22050) // 128 * (128 // hop)
        for row in codes:
            assert np.array_equal(row[: kept * 128 // hop], prompt[level][0].numpy())
    assert not np.array_equal(run.codes(2)[0, kept:], run.codes(2)[1, kept:])


def test_a_prompt_that_is_too_long_is_one_clear_error(tiny_model, recording, tmp_path):
    with pytest.raises(UserError, match="smaller --prompt_seconds"):
        sampling.continue_(tiny_model, [SONG], [recording], 3.0, 5.0, tmp_path / "x")
    with pytest.raises(UserError, match="finished length"):
        sampling.continue_(tiny_model, [SONG], [recording], 0.5, 0.4, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_upsample_keeps_the_top_and_writes_the_levels_below(run, tiny_model, tmp_path):
    top = sampling.sample(tiny_model, [SONG, SONG], SECONDS, tmp_path / "top", seed=3, levels=(2,))
    assert not top.count(0)
    other = sampling.upsample(top, tmp_path / "other", seed=9)
    assert np.array_equal(other.codes(2), run.codes(2))
    assert not np.array_equal(other.codes(1), run.codes(1))
    assert_same(run, sampling.upsample(top))  # the same seed: as if it had been sampled whole


def test_a_damaged_run_is_named(run, tiny_model, tmp_path):
    made = sampling.sample(tiny_model, [SONG], 0.3, tmp_path / "made")
    path = made.codes_path(1)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="level_1.u16 does not match its checksum"):
        Run.open(made.folder)
    path.write_bytes(data[:20])
    with pytest.raises(UserError, match="level_1.u16 is shorter"):
        Run.open(made.folder)
    with pytest.raises(UserError, match="already holds a run"):
        sampling.sample(tiny_model, [SONG], 0.3, tmp_path / "made")


def test_the_request_says_everything(run):
    request = json.loads((run.folder / "run.json").read_text())
    assert request["seed"] == 3 and request["seconds"] == SECONDS and request["hops"] == [8, 32, 128]
    assert request["samples"][0]["artist"] == "ann" and request["samples"][0]["word_times"]
    assert set(request["model_hash"]) == {
        "codec.safetensors",
        "prior_0.safetensors",
        "prior_1.safetensors",
        "prior_2.safetensors",
    }
    assert How(**request["how"]["2"]) == How()
