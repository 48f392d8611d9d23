"""A run on its device: exact arithmetic, audio decoded there, and what changes when another device goes on with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read
from data_prep.errors import UserError
from jukebox import device
from jukebox.loaded import LoadedModel
from jukebox.runs import request
from jukebox.runs.run import Run
from jukebox.sampling import walk, wav_writer
from jukebox.sampling.writer_thread import WriterThread
from jukebox.song import Song
from tests.jukebox.sampling.kills import Killed, assert_same, cut_off, in_blocks
from tests.runs import pace, sample, settings_of, top_levels
from vqvae.codec import as_tensor

SONG = Song("ann", ("rock",), "la la la\nli li")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


def test_codes_are_sampled_with_exact_arithmetic_and_settings_are_as_before_afterwards(tiny_model, tmp_path):
    run = Run.create(tmp_path / "run", request.sampled(tiny_model.info, [SONG], 0.1, settings_of(tiny_model, levels=(2,))))
    before, seen = exact_settings(), []
    for _ in walk.steps(run):
        seen.append(exact_settings())
    assert seen and all(value in (False, "ieee") for each in seen for value in each) and exact_settings() == before


def exact_settings() -> list:
    return [getattr(owner, name) for owner, name, _ in device._exact_settings()]


def test_one_gpu_for_several_processes_is_one_line_before_anything_is_done(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = Run.create(tmp_path / "run", request.sampled(tiny_model.info, [SONG], 0.1, settings_of(tiny_model)))
    with pytest.raises(UserError, match="--device cuda:0 is one GPU for 2 processes"):
        walk.resume(run, device="cuda:0", rank=0, ranks=2)
    assert not (run.folder / ".locks").exists()


@pytest.mark.parametrize("compile_steps", ["on", "off"])
def test_a_default_device_of_torch_that_is_not_that_of_the_run_changes_nothing(compile_steps, each_model, tmp_path):
    """Every tensor that is made names its device; one that does not would be on torch's meta device here, and raise."""
    options = {"levels": top_levels(each_model), "compile": compile_steps, "takes": 2}
    model, seconds = LoadedModel(each_model.info), 0.3 * pace(each_model)
    plain = sample(model, [SONG], seconds, tmp_path / "plain", **options)
    with torch.device("meta"):
        run = sample(model, [SONG], seconds, tmp_path / "run", **options)
    assert_same(plain, run)
    for path in (plain.folder / "audio").iterdir():
        assert path.read_bytes() == (run.folder / "audio" / path.name).read_bytes()


def test_audio_is_decoded_on_the_device_of_the_run(tiny_model, tmp_path):
    run = Run.create(tmp_path / "run", request.sampled(tiny_model.info, [SONG], 0.1, settings_of(tiny_model)))
    writers = walk._wav_writers(tiny_model, run, 2, [0], "meta", WriterThread())
    (values,) = (torch.zeros(1, dtype=torch.long, device=writer.device) for writer in writers.values())
    assert writers[0].decoder.line[0].step(values, False).device == values.device == torch.device("meta")  # type: ignore[attr-defined]


def test_audio_that_cannot_be_written_stops_the_run_which_resumes_to_the_whole(tiny_model, tmp_path, monkeypatch):
    whole = sample(tiny_model, [SONG], 0.1, tmp_path / "whole", levels=(2,))
    with monkeypatch.context() as patch:
        patch.setattr(wav_writer, "to_pcm", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="the disk is full"):
            sample(tiny_model, [SONG], 0.1, tmp_path / "run", levels=(2,))
    run = walk.resume(Run.open(tmp_path / "run"))
    assert_same(whole, run)
    assert run.audio_path(2, 0).read_bytes() == whole.audio_path(2, 0).read_bytes()


def test_steps_that_a_gpu_captured_are_plain_where_a_cpu_goes_on_in_a_dtype_that_is_not_compiled(tiny_model, tmp_path):
    asked = request.sampled(tiny_model.info, [SONG], 0.1, settings_of(tiny_model, levels=(2,), dtype="float16"))
    on_gpu = asked | {"device": "cuda", "dtype": "float16"}
    runs = [Run.create(tmp_path / str(compiled), on_gpu | {"compiled": compiled}) for compiled in (True, False)]
    assert_same(*(walk.resume(run, device="cpu") for run in runs))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("compile_steps", ["on", "off"])
def test_a_run_on_a_gpu_resumes_to_its_codes_and_its_audio_is_that_of_its_codes(
    compile_steps, each_model, tmp_path, monkeypatch
):
    levels, seconds = top_levels(each_model), 0.3 * pace(each_model)
    settings = settings_of(each_model, levels=levels, device="cuda", compile=compile_steps)
    asked = request.sampled(each_model.info, [SONG, SONG], seconds, settings)
    whole = walk.resume(Run.create(tmp_path / "whole", asked))
    in_blocks(monkeypatch, 8)
    with monkeypatch.context() as patch:
        cut_off(patch, 2)
        with pytest.raises(Killed):
            walk.resume(Run.create(tmp_path / "run", asked))
    assert_same(whole, walk.resume(Run.open(tmp_path / "run")))
    name = whole.stream(levels[-1]).name
    decoded = each_model.codec([name]).decode_long(as_tensor(whole.codes(levels[-1])), name)
    for i, audio in enumerate(decoded.numpy()):
        assert np.abs(read(whole.audio_path(levels[-1], i))[0] - audio.clip(-1, 1)).max() < 1e-3
