"""The audio of a prompt: kept sample for sample, and joined with the new audio without a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.audio.audio import mix, read
from jukebox.model.code_file import Codes
from jukebox.params import SamplingOptions
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling import prompt, walk
from jukebox.sampling.prompt import joined_path, prompt_of
from jukebox.song import Song
from tests.runs import continue_, sample

RATE, HOP = 22050, 128  # of the model
SONG = Song("ann", ("rock",), "la la la\nli li")
FORMS = {
    "16-bit wav, stereo, 44.1 kHz": ("song.wav", 44100, 2, {"subtype": "PCM_16"}),
    "24-bit flac, stereo, 48 kHz": ("song.flac", 48000, 2, {"subtype": "PCM_24"}),
    "float wav, mono, 22.05 kHz": ("song.wav", 22050, 1, {"subtype": "FLOAT"}),
    "mp3, stereo, 44.1 kHz": ("song.mp3", 44100, 2, {}),
}


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


def write_song(path: Path, rate: int, channels: int, seconds: float = 1.0, **form: str) -> Path:
    """Tones that differ between the channels, with a little noise."""
    at = np.arange(round(seconds * rate)) / rate
    tones = [0.4 * np.sin(2 * np.pi * (220 + 60 * c) * at * (1 + 0.1 * at)) for c in range(channels)]
    soundfile.write(path, np.stack(tones, axis=1) + np.random.default_rng(0).normal(0, 0.01, (len(at), channels)), rate, **form)
    return path


def samples(path: Path) -> np.ndarray:
    """(n, c) in float64, which holds every sample of 16, 24 and 32 bits exactly; of an mp3 what its decoder returns."""
    return (
        read(path)[0].T.astype(np.float64)
        if path.suffix == ".mp3"
        else soundfile.read(path, dtype="float64", always_2d=True)[0]
    )


def joined(run: Run, sample: int = 0) -> np.ndarray:
    path = joined_path(run, sample)
    assert path is not None
    return samples(path)


def frames_of(run: Run, rate: int) -> int:
    """Samples of a recording at `rate` that the prompt of a run has."""
    return run.request["given"]["2"] * HOP * rate // RATE


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request) -> tuple[str, int, int, dict]:
    return request.param


def test_joined_audio_begins_with_the_samples_of_the_recording_bit_for_bit(form, tiny_model, tmp_path):
    name, rate, channels, how_written = form
    song = write_song(tmp_path / name, rate, channels, **how_written)
    run = continue_(tiny_model, [SONG], [song], 0.3, 0.6, tmp_path / "run", levels=(2, 1))
    old, new, kept = samples(song), joined(run), frames_of(run, rate)
    assert 0.25 * rate < kept < 0.31 * rate and np.array_equal(new[:kept], old[:kept])
    assert new.shape == (run.total(1) * 32 * rate // RATE, channels) and np.abs(new[kept:]).max() > 0.01
    (copied,) = run.prompt_paths
    assert np.array_equal(samples(copied), old[:kept])
    exact = name.endswith((".wav", ".flac")) and how_written["subtype"] != "FLOAT"
    assert copied.name == ("prompt.flac" if exact else "prompt.wav")
    path = joined_path(run, 0)
    assert path == run.folder / "audio" / f"joined_level_1_sample_0{copied.suffix}"
    for each in (copied, path):
        info = soundfile.info(each)
        assert (info.samplerate, info.channels, info.subtype) == (rate, channels, how_written.get("subtype", "FLOAT"))


def without_correction(blocks: Iterable[np.ndarray], old: np.ndarray) -> Iterator[np.ndarray]:
    """The new audio as the codec decodes it."""
    skip = old.shape[1]
    for block in blocks:
        yield mix(block, len(old))[:, skip:]
        skip = max(0, skip - block.shape[1])


def test_the_step_at_the_join_is_no_larger_than_those_beside_it_and_without_the_correction_it_is(
    form, tiny_model, tmp_path, monkeypatch
):
    name, rate, channels, how_written = form
    song = write_song(tmp_path / name, rate, channels, **how_written)
    run = continue_(tiny_model, [SONG], [song], 0.3, 0.6, tmp_path / "run", levels=(2,), seed=1)
    kept = frames_of(run, rate)

    def step(audio: np.ndarray) -> float:
        return float(np.abs(audio[kept] - audio[kept - 1]).max())

    corrected = joined(run)
    beside = np.abs(np.diff(corrected[kept - rate // 50 : kept + rate // 50], axis=0))
    assert step(corrected) <= np.quantile(np.delete(beside, rate // 50 - 1, axis=0), 0.95)
    monkeypatch.setattr(prompt, "after_recording", without_correction)
    path = joined_path(run, 0)
    path.unlink()
    plain = joined(walk.resume(Run.open(run.folder)))
    assert np.array_equal(plain[:kept], corrected[:kept]) and step(plain) > 5 * step(corrected)
    fade = round(prompt.FADE * rate)
    assert np.array_equal(plain[kept + fade :], corrected[kept + fade :])  # only the first samples are corrected


def test_joined_audio_that_was_deleted_is_written_again_to_the_same_bytes(form, tiny_model, tmp_path):
    name, rate, channels, how_written = form
    song = write_song(tmp_path / name, rate, channels, **how_written)
    run = continue_(tiny_model, [SONG], [song], 0.3, 0.6, tmp_path / "run", levels=(2,), takes=2)
    paths = [joined_path(run, i) for i in range(2)]
    data = [path.read_bytes() for path in paths]
    assert data[0] != data[1]
    paths[1].unlink()
    song.unlink()  # the prompt audio in the run serves
    walk.resume(Run.open(run.folder))
    assert [path.read_bytes() for path in paths] == data


def test_a_replay_keeps_the_prompt_audio_though_the_recording_is_gone(tiny_model, tmp_path):
    song = write_song(tmp_path / "song.wav", 44100, 2)
    run = continue_(tiny_model, [SONG], [song], 0.3, 0.6, tmp_path / "run", levels=(2,))
    song.unlink()
    again = walk.replay(run.folder, tmp_path / "again")
    assert joined_path(again, 0).read_bytes() == joined_path(run, 0).read_bytes()


# ---- of a run that another run begins with


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    """Two takes of a continuation of a stereo recording."""
    folder = tmp_path_factory.mktemp("prompt")
    song = write_song(folder / "song.wav", 44100, 2)
    return continue_(tiny_model, [SONG], [song], 0.3, 0.6, folder / "run", levels=(2, 1), takes=2)


@pytest.mark.parametrize("verb", ["branch", "continue"])
@pytest.mark.parametrize("seconds", [0.2, 0.3, 0.5])  # less than the prompt, as much, and more
def test_a_branch_and_a_continuation_keep_the_prompt_audio(verb, seconds, run, tiny_model, tmp_path):
    if verb == "branch":
        made = walk.branch(run, tmp_path / "made", RunSettings(), keep_seconds=seconds, seconds=0.8)
    else:
        made = continue_(tiny_model, [SONG], [run.folder], seconds, 0.8, tmp_path / "made", levels=(2, 1))
    old, kept = samples(run.folder / "prompt.flac"), min(frames_of(run, 44100), frames_of(made, 44100))
    assert made.n_samples == 2
    for i in range(2):
        new, copied = joined(made, i), prompt_of(made, i)
        assert copied.suffix == ".flac" and np.array_equal(samples(copied), old[:kept])
        assert len(new) == made.total(1) * 32 * 2 and np.array_equal(new[:kept], old[:kept])
        same = frames_of(made, 44100) - 44100 // 10  # without what the codec decodes from new codes
        if seconds > 0.3:  # what was sampled after the prompt is decoded and joined as before, but for rounding
            assert np.abs(new[:same] - joined(run, i)[:same]).max() <= 2**-15


def test_a_copy_with_other_finer_levels_keeps_the_prompt_audio(run, tmp_path):
    made = walk.upsample(run, tmp_path / "made", level=2, seed=9)
    assert made.request["levels"] == [2, 1, 0]
    assert all(prompt_of(made, i).read_bytes() == (run.folder / "prompt.flac").read_bytes() for i in range(2))
    new, old = joined(made), joined(run)
    kept = frames_of(run, 44100)
    assert joined_path(made, 0).name == "joined_level_0_sample_0.flac" and np.array_equal(new[:kept], old[:kept])
    assert not np.array_equal(new[kept:], old[kept:])


# ---- several sources, and none


def test_every_recording_has_prompt_audio_of_its_own_and_codes_have_none(run, tiny_model, tmp_path):
    a, b = write_song(tmp_path / "a.wav", 44100, 2), write_song(tmp_path / "b.flac", 48000, 1)
    streams = {name: np.zeros(n, np.uint16) for name, n in (("vq.2", 60), ("vq.1", 240))}
    Codes(streams, RATE, 60 * HOP, {}).save(tmp_path / "c.npz")
    made = continue_(tiny_model, [SONG], [a, tmp_path / "c.npz", b], 0.2, 0.3, tmp_path / "made", levels=(2,), takes=2)
    assert [path.name for path in made.prompt_paths] == ["prompt.flac", "prompt_3.flac"]
    prompts = [prompt_of(made, i) for i in range(6)]
    assert [path and path.name for path in prompts] == ["prompt.flac"] * 2 + [None] * 2 + ["prompt_3.flac"] * 2
    for i, (song, rate) in ((0, (a, 44100)), (1, (a, 44100)), (4, (b, 48000)), (5, (b, 48000))):
        kept = frames_of(made, rate)
        assert np.array_equal(joined(made, i)[:kept], samples(song)[:kept])
    assert joined_path(made, 2) is None
    assert len(list((made.folder / "audio").glob("joined_*"))) == 4


def test_a_song_without_a_recording_has_no_prompt_audio(tiny_model, tmp_path):
    made = sample(tiny_model, [SONG], 0.2, tmp_path / "made", levels=(2,))
    branch = walk.branch(made, tmp_path / "branch", RunSettings(SamplingOptions()), keep_seconds=0.1)
    for each in (made, branch):
        assert not each.prompt_paths and joined_path(each, 0) is None
        assert not list((each.folder / "audio").glob("joined_*"))


def test_an_unfinished_run_has_no_joined_audio_yet(tiny_model, tmp_path):
    class Interrupted(Exception):
        pass

    def report(written):
        raise Interrupted

    song = write_song(tmp_path / "song.wav", 44100, 2)
    made = continue_(tiny_model, [SONG], [song], 0.3, 0.6, tmp_path / "made", levels=(2,))
    asked = {**made.request, "model_hash": {}}
    with pytest.raises(Interrupted):
        walk.resume(Run.create(tmp_path / "part", asked), report=report)
    part = Run.open(tmp_path / "part")
    assert [path.name for path in part.prompt_paths] == ["prompt.flac"] and not joined_path(part, 0).exists()
    assert joined_path(walk.resume(part), 0).read_bytes() == joined_path(made, 0).read_bytes()
