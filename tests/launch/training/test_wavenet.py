"""WaveNet by the verbs: training from sound and from codes, exact resumption of trainings and of windows, sample, continue, upsample."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read
from data_prep.errors import UserError
from data_prep.manifest import load_manifest, prepare
from data_prep.synthetic.songs import make_corpus
from data_prep.transpose import transpose
from jukebox import Jukebox
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.runs.run import Run
from jukebox.sampling import sampler, walk, window_checkpoint
from jukebox.sampling.window_checkpoint import WindowCheckpoint
from jukebox.song import Song
from launch.cli.commands import main
from launch.corpus.controls import note_density
from launch.training.log import read_log
from launch.training.tasks.prior import PriorTask, control_curves
from launch.training.tasks.task import TaskSetup
from launch.training.trainer import fit
from priors.wavenet.config import WaveNetConfig
from tests.jukebox.sampling.kills import Killed, assert_same
from tests.runs import sample
from vqvae.mulaw.codec import companded

SONG = Song("ann", ("rock",))
MULAW = 3  # the level of the samples: after those of the three-level codec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 4, seconds=1.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    return root / "data"


@pytest.fixture(scope="module")
def model(data: Path) -> Jukebox:
    """A folder with both routes, hardly trained: from sound before any other codec, then the decoder of its codes."""
    out = str(data.parent / "model")
    flags = ["--preset", "test_wavenet", "--steps", "3", "--threads", "1", "--out", out]
    assert main(["train", "wavenet", str(data), *flags, "--from_audio"]) == 0
    assert main(["train", "vqvae", str(data), *flags, "--level", "2"]) == 0
    assert main(["encode", str(data), out, "--threads", "1"]) == 0
    assert main(["train", "prior_2", str(data), *flags]) == 0
    assert main(["train", "wavenet_codes", str(data), *flags]) == 0
    return Jukebox.from_pretrained(out)


def test_its_two_routes_are_those_of_the_preset(model):
    routes = {name: dict(route.priors) for name, route in model.info.routes.items()}
    assert routes["wavenet"] == {"mulaw": "wavenet"} and next(iter(routes)) == "wavenet"
    assert routes["wavenet_codes"] == {"vq.2": "prior_2", "mulaw": "wavenet_codes"}


def test_a_prior_on_learned_codes_still_needs_their_codec_first(data, tmp_path):
    assert main(["train", "wavenet_codes", str(data), "--preset", "test_wavenet", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none" / "config.json").exists()


def task_of(data: Path, model: Jukebox, part: str, config: WaveNetConfig | None = None, **changes) -> PriorTask:
    config = (config or find("test_wavenet").priors[part]).for_corpus(len(model.labels.artists), len(model.labels.genres))
    recipe = replace(find("test_wavenet").prior_recipes[part], steps=6, save_every=2, **changes)
    task = PriorTask(TaskSetup(model, part, data, recipe, 0, "cpu", config))
    task.open()
    task.save = lambda model: None  # type: ignore[method-assign]
    return task


def test_batches_hold_the_samples_of_the_songs_and_the_codes_of_the_same_time(data, model):
    task = task_of(data, model, "wavenet_codes")
    batch = task.batch(1, 0, 1)
    assert batch.sequences["mulaw"].shape == (4, 512) and batch.cond.above.shape == (4, 4)
    places = task.windows.batch(1, 4, 0)
    for row, (song, start) in enumerate(places):
        assert start % 128 == 0
        codes = task.codes.read(task.songs[song], "vq.2", start // 128, start // 128 + 4)
        assert np.array_equal(codes, batch.cond.above[row].numpy())
        samples = task.codes.read(task.songs[song], "mulaw", start, start + 512)
        assert np.array_equal(samples, batch.sequences["mulaw"][row].numpy())


def test_tempo_and_note_density_are_controls_by_frame_in_training_and_flags_of_sample(data, model, tmp_path):
    measured = {row.hash: {"tempo": 90.0 + i, "onsets": [0.1, 0.6]} for i, row in enumerate(load_manifest(data))}
    (data / "controls.json").write_text(json.dumps(measured))
    plain = find("test_wavenet").priors["wavenet"]
    task = task_of(data, model, "wavenet", replace(plain, controls=("tempo", "density")))
    task.recipe = replace(task.recipe, drop_labels=0.0)
    controls, rows = task.batch(0, 0, 1).cond.controls, {row.song: row for row in load_manifest(data)}
    songs = [rows[task.songs[song]] for song, _ in task.windows.batch(0, 4, 0)]
    assert controls["tempo"].shape == (4, 4) and controls["tempo"][:, 0].tolist() == [
        measured[row.hash]["tempo"] for row in songs
    ]
    assert (controls["density"] > 0).all() and controls["density"].std() > 0
    song = songs[0].song
    slow, fast = (control_curves(task, each)[song] for each in (rows, rows | {song: transpose(songs[0], 12.0)}))
    assert np.array_equal(fast["tempo"], 2 * slow["tempo"])  # a transposed song is twice as fast
    assert np.array_equal(fast["density"], note_density([0.05, 0.3], len(slow["tempo"]), 128 / 22050))
    other = ModelFolder.from_pretrained(shutil.copytree(model.folder, tmp_path / "model"))
    other.save_prior("wavenet", task.model)
    words = ["sample", str(other.folder), "--route", "wavenet", "--seconds", "0.05", "--artist", "ann"]
    found = []
    for name, flags in (("unknown", []), ("asked", ["--tempo", "140"]), ("again", ["--tempo", "140"])):
        assert main([*words, *flags, "--out", str(tmp_path / name)]) == 0
        found.append(Run.open(tmp_path / name).codes(MULAW))
    assert not np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])


@pytest.mark.parametrize("part", ["wavenet", "wavenet_codes"])
def test_a_training_that_dies_in_a_step_goes_on_exactly(part, data, model, tmp_path):
    found = []
    for dies in (False, True):
        task, folder = task_of(data, model, part), tmp_path / str(dies)
        if dies:

            def loss(batch, step, whole=task.loss):
                if step == 3:
                    raise MemoryError
                return whole(batch, step)

            task.loss = loss
            with pytest.raises(MemoryError):
                fit(task, task.recipe, folder)
            task = task_of(data, model, part)
        fit(task, task.recipe, folder)
        lines = [(line["step"], line["loss"], line["gradient_norm"]) for line in read_log(folder / "log.jsonl")]
        found.append((lines, [p.detach().clone() for p in task.model.state_dict().values()]))
    (lines, weights), (again, weights_again) = found
    assert len(lines) == 6 and lines == again and all(map(torch.equal, weights, weights_again))
    assert lines[0][1] > lines[-1][1]


# -------------------- sampling


@pytest.fixture
def kill_every_save(monkeypatch):
    """Updates of 100 samples; the process dies whenever it has saved the state of a window."""
    keep = WindowCheckpoint.save

    def kill(self, frames):
        keep(self, frames)
        raise Killed

    monkeypatch.setattr(WaveNetConfig, "block", 100)
    monkeypatch.setattr(sampler, "EVERY", 0.0)
    monkeypatch.setattr(window_checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(window_checkpoint, "RATE", torch.inf)
    monkeypatch.setattr(walk, "write_page", lambda folder: None)
    return lambda: monkeypatch.setattr(WindowCheckpoint, "save", kill)


@pytest.mark.parametrize("options", [{"route": "wavenet", "compile": "on"}, {"route": "wavenet_codes", "compile": "off"}])
def test_a_run_killed_in_the_middle_of_its_windows_comes_to_the_codes_of_an_uninterrupted_one(
    options, model, tmp_path, kill_every_save
):
    whole = sample(model, [SONG, Song("bob")], 0.05, tmp_path / "whole", seed=3, **options)
    kill_every_save()
    with pytest.raises(Killed):
        sample(model, [SONG, Song("bob")], 0.05, tmp_path / "run", seed=3, **options)
    for kills in range(1, 1000):  # noqa: B007
        try:
            run = walk.resume(Run.open(tmp_path / "run"))
            break
        except Killed:
            continue
    assert_same(run, whole)
    assert kills >= 8 and len(np.unique(whole.codes(MULAW))) > 20


def test_windows_overlap_by_the_receptive_field_whatever_the_flags(model, tmp_path):
    run = sample(model, [SONG], 0.05, tmp_path / "run", route="wavenet", hop_fractions=(0.9,))
    windows = run.segments(MULAW, 0)
    assert [each.prime for each in windows][:2] == [0, 31] and min(each.prime for each in windows[1:]) == 31


def test_a_run_of_codes_is_decoded_by_a_wavenet_and_a_prompt_is_kept(model, tmp_path):
    run = sample(model, [SONG], 0.1, tmp_path / "run", route="wavenet_codes")
    assert run.request["levels"] == [2, MULAW] and run.count(MULAW) == 128 * run.count(2) == 128 * 17
    audio, rate = read(run.audio_path(MULAW, 0))
    assert rate == 22050 and audio.shape == (1, 128 * 17)
    assert np.array_equal(companded(torch.from_numpy(audio[0])).numpy(), run.codes(MULAW)[0])
    wav, folder = str(run.audio_path(MULAW, 0)), str(model.folder)
    assert main(["continue", folder, wav, "--prompt_seconds", "0.06", "--seconds", "0.1", "--out", str(tmp_path / "more")]) == 0
    more = Run.open(tmp_path / "more")
    kept = more.request["given"][str(MULAW)]
    assert kept == 128 * 10 and np.array_equal(more.codes(MULAW, stop=kept), run.codes(MULAW, stop=kept))
    assert main(["replay", str(tmp_path / "more"), "--out", str(tmp_path / "again")]) == 0
    codes, decoded = str(tmp_path / "x.npz"), str(tmp_path / "decoded")
    assert main(["codec", "encode", wav, "--model", folder, "--out", codes, "--levels", "2"]) == 0
    assert main(["upsample", codes, "--model", folder, "--route", "wavenet_codes", "--out", decoded]) == 0
    assert Run.open(decoded).count(MULAW) == 128 * 17


def test_an_edit_is_one_line_that_names_what_is_missing(model, tmp_path, capsys):
    run = sample(model, [SONG], 0.05, tmp_path / "run", route="wavenet")
    wav = str(run.audio_path(MULAW, 0))
    assert main(["edit", str(model.folder), wav, "--start", "0.01", "--end", "0.02", "--out", str(tmp_path / "e.wav")]) == 2
    assert "has no prior that inpaints" in capsys.readouterr().err
    with pytest.raises(UserError, match="level 1 .* is not of the route"):
        model.info.check_levels((), model.info.route("wavenet_codes"), 1)
