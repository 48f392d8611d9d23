"""jukebox export: what a training has in its checkpoints becomes part of a model, as the training's own end would write it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from launch.corpus.encode import encode
from launch.engines.checkpoint import MANIFEST, written
from launch.training.export import export
from launch.training.log import read_log
from launch.training.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model whose codec, prior and masked prior were just trained, and their trainings."""
    from data_prep.manifest import prepare
    from data_prep.synthetic.songs import make_corpus

    root = tmp_path_factory.mktemp("export")
    make_corpus(root / "corpus", 8, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", workers=1)
    params = {"preset": "test", "steps": 12, "ema": 0.9, "threads": 1, "out": str(root / "model")}
    train("vqvae", str(root / "data"), **params)
    encode(str(root / "data"), str(root / "model"))
    train("prior", str(root / "data"), level=2, keep=1, **params)
    train("prior", str(root / "data"), level=1, **params)
    train("masked", str(root / "data"), **params)
    return root


def test_the_last_checkpoint_is_the_model_that_training_wrote_and_an_earlier_one_is_not(trained, tmp_path, capsys):
    parts = {"vqvae_1": "codec.safetensors", "prior_2": "prior_2.safetensors", "masked": "prior_masked.safetensors"}
    for name, file in parts.items():
        training, whole = trained / "model" / "training" / name, (trained / "model" / file).read_bytes()
        out = tmp_path / name
        shutil.copytree(trained / "model", out, ignore=shutil.ignore_patterns("training"))
        if name != "vqvae_1":  # of the codec one level of three is written, and codes of another codec mean nothing
            (out / file).unlink()
        export(str(training), out=str(out))
        assert (out / file).read_bytes() == whole, name
        assert f"{name}: the weights of step 12 are in {out}" in capsys.readouterr().out
    training, early = trained / "model" / "training" / "masked", tmp_path / "early"
    export(str(training), out=str(early), step=10)
    assert (early / "config.json").is_file() and not (early / "training").exists()
    assert (early / "prior_masked.safetensors").read_bytes() != (trained / "model" / "prior_masked.safetensors").read_bytes()


def test_what_cannot_be_exported_is_told_in_one_line(trained, tmp_path):
    training = trained / "model" / "training"
    assert len(written(training / "prior_2")) == 1 and len(written(training / "masked")) == 2, "--keep"
    with pytest.raises(UserError, match="has no checkpoint of step 7; there are: 12, 10"):
        export(str(training / "masked"), step=7)
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        export(str(tmp_path))
    other = tmp_path / "other"
    train("vqvae", str(trained / "data"), preset="test", steps=2, seed=1, threads=1, out=str(other))
    with pytest.raises(UserError, match="codes of another codec"):
        export(str(training / "prior_2"), out=str(other))
    shutil.copytree(training / "prior_2", tmp_path / "broken" / "training" / "prior_2")
    next((tmp_path / "broken" / "training" / "prior_2").glob("step_*/manifest.json")).unlink()
    with pytest.raises(UserError, match="has no whole checkpoint"):
        export(str(tmp_path / "broken" / "training" / "prior_2"), out=str(other))


def as_version_1(training: Path, model: ModelFolder) -> None:
    """Rewrite the checkpoints of a training as version 1 had them: one hash of the codec, levels, other names of tensors."""
    for path in written(training):
        manifest = json.loads((path / MANIFEST).read_text())
        identity = manifest["identity"]
        part, kind = identity.pop("part"), identity.pop("kind")
        codes = [identity.pop(name) for name in [*identity] if name.startswith("codes of ")]
        if codes:
            identity["codec"] = model.info.old_codes_hash("vq.2")
        if kind == "autoregressive":
            del identity["setting stream"], identity["setting reads"]
            identity["setting level"] = part.removeprefix("prior_")
        if kind == "masked":
            del identity["setting streams"]
            identity["setting fine"] = identity.pop("setting head_width")
        for name in manifest["files"]:
            tensors = load_file(path / name)
            save_file({key.replace("/heads.", "/fine."): value for key, value in tensors.items()}, path / name)
            manifest["files"][name] = (path / name).stat().st_size
        (path / MANIFEST).write_text(json.dumps(manifest))


def test_checkpoints_of_version_1_are_exported_and_go_on(trained, tmp_path):
    parts = {"vqvae": ("vqvae_1", "codec"), "prior": ("prior_1", "prior_1"), "masked": ("masked", "prior_masked")}
    for what, (name, file) in parts.items():
        found = []
        for old in (False, True):
            out = tmp_path / f"{name}_{old}"
            shutil.copytree(trained / "model", out)
            if old:
                as_version_1(out / "training" / name, ModelFolder.from_pretrained(out))
            export(str(out / "training" / name), step=10)
            exported = (out / f"{file}.safetensors").read_bytes()
            shutil.copy(trained / "model" / "codec.safetensors", out)
            flags = {"preset": "test", "steps": 16, "ema": 0.9, "threads": 1, "out": str(out)}
            train(what, str(trained / "data"), **({} if what == "masked" else {"level": 1}), **flags)
            lines = [line["loss"] for line in read_log(out / "training" / name / "log.jsonl")]
            found.append((exported, lines, (out / f"{file}.safetensors").read_bytes()))
        assert found[0] == found[1] and len(found[0][1]) == 16, name
    changed = tmp_path / "changed"
    shutil.copytree(trained / "model", changed)
    as_version_1(changed / "training" / "prior_1", ModelFolder.from_pretrained(changed))
    train("vqvae", str(trained / "data"), level=0, preset="test", steps=14, ema=0.9, threads=1, out=str(changed))
    with pytest.raises(UserError, match="prior_1 began with codec"):
        train("prior", str(trained / "data"), level=1, preset="test", steps=16, threads=1, out=str(changed))
    with pytest.raises(UserError, match="codes of another codec"):
        export(str(changed / "training" / "prior_1"))


def test_a_prior_goes_on_after_another_stream_or_decoder_changed_and_not_after_the_codes_did(trained, tmp_path):
    for level, valid in ((0, True), (1, False), (2, False)):
        out, flags = tmp_path / str(level), {"preset": "test", "ema": 0.9, "threads": 1}
        shutil.copytree(trained / "model", out)
        train("vqvae", str(trained / "data"), level=level, steps=14, out=str(out), **flags)
        if valid:
            opened = ModelFolder.from_pretrained(out)
            codec = opened.codec()
            assert [values.add_(0.1) for name, values in codec.state_dict().items() if "decoder" in name]
            opened.save_codec(codec)
            train("prior", str(trained / "data"), level=1, steps=14, out=str(out), **flags)
            export(str(out / "training" / "prior_1"))
            continue
        with pytest.raises(UserError, match=f"prior_1 began with codes of vq.{level}"):
            train("prior", str(trained / "data"), level=1, steps=14, out=str(out), **flags)
        with pytest.raises(UserError, match="codes of another codec"):
            export(str(out / "training" / "prior_1"))
