"""NSynth by the verbs: encoder and decoder trained together, exact resumption, codec and prior written together, the decoder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox import Jukebox
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from launch.cli.commands import main
from launch.training.log import read_log
from launch.training.tasks.nsynth import NSynthTask
from launch.training.tasks.task import TaskSetup
from launch.training.trainer import fit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 6, seconds=1.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.5, workers=1)
    return root / "data"


@pytest.fixture(scope="module")
def model(data: Path) -> Jukebox:
    out = str(data.parent / "model")
    words = ["train", "nsynth", str(data), "--preset", "test_nsynth", "--steps", "3", "--threads", "1", "--out", out]
    assert main([*words, "--examples_every", "3"]) == 0
    return Jukebox.from_pretrained(out)


def test_one_training_writes_the_codec_and_the_prior_that_decodes_it(model):
    assert model.trained_streams() == ("mulaw", "nsynth") and model.decodable_streams() == ("mulaw",)
    routes = {name: dict(route.priors) for name, route in model.info.routes.items()}
    assert routes == {"wavenet": {"mulaw": "wavenet"}, "nsynth_decoder": {"nsynth": "prior_1", "mulaw": "nsynth_decoder"}}
    examples = {path.name for path in (model.folder / "training" / "nsynth" / "examples").iterdir()}
    assert examples == {"original.wav", "step_0000003_reconstruction.wav"}


def test_its_latents_are_encoded_and_the_decoder_is_trained_once_more_alone(data, model, tmp_path):
    flags = ["--threads", "1", "--out", str(model.folder)]
    assert main(["encode", str(data), str(model.folder), "--threads", "1"]) == 0
    before = model.info.codes_hash("nsynth")
    assert main(["train", "nsynth_decoder", str(data), "--steps", "2", *flags]) == 0
    assert ModelFolder.from_pretrained(model.folder).info.codes_hash("nsynth") == before
    assert (
        main(["evaluate", str(model.folder), str(data), "--windows", "2", "--songs", "2", "--out", str(tmp_path / "e.json")])
        == 0
    )


def task_of(data: Path, folder: Path, **changes) -> NSynthTask:
    preset = find("test_nsynth")
    for config in preset.codecs:
        model = ModelFolder.create(folder, config)
    model.add_preset("test_nsynth")
    recipe = replace(preset.codec_recipes["nsynth"], **{"steps": 6, "save_every": 2, **changes})
    return NSynthTask(TaskSetup(model, "nsynth", data, recipe, 0, "cpu"))


def test_a_training_that_dies_in_a_step_goes_on_exactly_and_moves_the_encoder(data, tmp_path):
    found, first = [], None
    for dies in (False, True):
        task, folder = task_of(data, tmp_path / f"model_{dies}"), tmp_path / str(dies)
        first = first or [p.detach().clone() for p in task.model.codec.parameters()]
        if dies:

            def loss(batch, step, whole=task.loss):
                if step == 3:
                    raise MemoryError
                return whole(batch, step)

            task.loss = loss
            with pytest.raises(MemoryError):
                fit(task, task.recipe, folder)
            task = task_of(data, tmp_path / f"model_{dies}")
        fit(task, task.recipe, folder)
        lines = [(line["step"], line["loss"], line["gradient_norm"]) for line in read_log(folder / "log.jsonl")]
        found.append((lines, [p.detach().clone() for p in task.model.state_dict().values()]))
        assert not any(map(torch.equal, first, task.model.codec.parameters()))
    (lines, weights), (again, weights_again) = found
    assert len(lines) == 6 and lines == again and all(map(torch.equal, weights, weights_again))
    assert lines[0][1] > lines[-1][1]


def test_a_crop_that_is_no_window_of_the_decoder_is_one_line(data, tmp_path):
    with pytest.raises(UserError, match="a crop of 2048 samples; expected the decoder's window of 1024"):
        task_of(data, tmp_path / "model", crop=2048)
