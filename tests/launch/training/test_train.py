"""The real tasks on synthetic songs: their batches, exact resumption at the command line, learning, and mistakes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data_prep.errors import UserError
from data_prep.manifest import audio_path, load_manifest
from jukebox import Jukebox
from jukebox.model.presets import find
from jukebox.model.recipe import Recipe
from launch.corpus.pcm import Pcm
from launch.engines.checkpoint import load_checkpoint
from launch.engines.deepspeed_config import ParallelConfig
from launch.engines.speed import has_bf16
from launch.training.log import read_log
from launch.training.params import FinetuneParams
from launch.training.tasks.codec import VQVAETask, blend, blend_shares, random_gains
from launch.training.tasks.prior import PriorTask
from launch.training.tasks.task import TaskSetup
from launch.training.train import recipe_of, train
from launch.training.trainer import Trained, fit
from priors.transformer.trunk import Transformer

RECIPE = Recipe(steps=40, batch=4, lr=1e-2, warmup=5, log_every=1, save_every=10)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of twelve synthetic songs of 3 s, some of them held out."""
    from data_prep.manifest import prepare
    from data_prep.synthetic.songs import make_corpus

    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 12, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    return root / "data"


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    """A model folder with a codec of the test preset (hardly trained) and the codes of all songs."""
    from launch.corpus.encode import encode

    folder = data.parent / "model"
    train("vqvae", str(data), preset="test", steps=10, out=str(folder))
    encode(str(data), str(folder))
    return folder


def setup(model: Jukebox, part: str, data: Path, recipe: Recipe, seed: int = 0, **more) -> TaskSetup:
    """A task of the preset test, of a stream or a prior."""
    config, labels = find("test").priors.get(part), model.labels
    config = config and config.for_corpus(len(labels.artists), len(labels.genres), model.vocabulary.size)
    return TaskSetup(model, part, data, recipe, seed, "cpu", config, **more)


def tasks(data: Path, model: Path, recipe: Recipe):
    jukebox = Jukebox.from_pretrained(model)
    made: list = [VQVAETask(setup(jukebox, "vq.1", data, replace(recipe, crop=1024)))]
    made += [PriorTask(setup(jukebox, f"prior_{level}", data, replace(recipe, jitter_seconds=0.1))) for level in (2, 1)]
    made.append(PriorTask(setup(jukebox, "masked", data, replace(recipe, drop_labels=0.2))))
    for task in made:
        task.open()
    return made


def test_windows_encoded_while_training_are_those_that_were_encoded_before(data, model):
    jukebox, same = Jukebox.from_pretrained(model), []
    for level in (2, 1, 0):
        setups = [setup(jukebox, f"prior_{level}", data, RECIPE, from_audio=way) for way in (False, True)]
        pair = [PriorTask(each) for each in setups]
        for task in pair:
            task.open()
        stored, sounding = ([flat(task.batch(step, 0, 1)) for step in range(6)] for task in pair)
        for a, b in zip(stored, sounding, strict=True):
            assert [x.shape for x in a] == [x.shape for x in b]
            same += [(x == y).float().mean() for x, y in zip(a, b, strict=True)]
    assert torch.stack(same).mean() > 0.999, "but for ties within rounding"


@pytest.fixture(scope="module")
def spectral(data: Path) -> Path:
    """A model folder with a spectral codec (hardly trained) and the tokens of all songs."""
    from launch.corpus.encode import encode

    folder = data.parent / "spectral"
    train("spectral", str(data), preset="test_spectral", steps=10, out=str(folder))
    encode(str(data), str(folder))
    return folder


def test_frames_encoded_while_training_are_those_that_were_encoded_before(data, spectral):
    jukebox, read = Jukebox.from_pretrained(spectral), []
    for from_audio in (False, True):
        config = find("test_spectral").priors["tokens"].for_corpus(len(jukebox.labels.artists), len(jukebox.labels.genres))
        task = PriorTask(TaskSetup(jukebox, "tokens", data, RECIPE, 0, "cpu", config, from_audio))
        task.open()
        read.append([task.batch(step, 0, 1).sequences["tokens"] for step in range(6)])
    stored, sounding = map(torch.cat, read)
    assert stored.shape == sounding.shape == (24, 32, 2)
    assert (stored == sounding).float().mean() > 0.99, "but for ties within rounding"
    assert (stored == sounding.roll(1, dims=1)).float().mean() < 0.9  # the control


def test_transposed_songs_are_training_songs_with_their_own_length(data, spectral, capsys):
    from launch.corpus.encode import encode

    folder = shutil.copytree(data, data.parent / "transposed", ignore=shutil.ignore_patterns("codes"))
    jukebox, tasks = Jukebox.from_pretrained(spectral), []
    for semitones in ((), (-12.0,)):
        encode(str(folder), str(spectral), semitones=semitones)
        config = find("test_spectral").priors["tokens"].for_corpus(len(jukebox.labels.artists), len(jukebox.labels.genres))
        tasks.append(PriorTask(TaskSetup(jukebox, "tokens", folder, RECIPE, 0, "cpu", config)))
        tasks[-1].open()
    plain, more = tasks
    assert f"{len(plain.songs)} transposed songs are training songs too" in capsys.readouterr().out
    assert more.songs == sorted([*plain.songs, *(f"{song}@-12" for song in plain.songs)])
    totals = {song: prepared.total for song, prepared in zip(more.songs, more.prepared, strict=True)}
    words = {song: prepared.seconds for song, prepared in zip(more.songs, more.prepared, strict=True)}
    for song in plain.songs:
        assert abs(totals[f"{song}@-12"] - 2 * totals[song]) <= 1
        assert np.allclose(words[f"{song}@-12"], 2 * words[song], equal_nan=True)


def test_one_prior_is_trained_by_its_name_and_others_of_its_kind_are_not(data, spectral, tmp_path, capsys):
    folder = shutil.copytree(spectral, tmp_path / "model", ignore=shutil.ignore_patterns("training"))
    train("masked_tokens", str(data), preset="test_spectral", steps=2, out=str(folder))
    assert "masked_tokens: trained, 2 steps" in capsys.readouterr().out
    assert list(Jukebox.from_pretrained(folder).info.priors) == ["masked_tokens"]
    with pytest.raises(UserError, match="nothing to train called 'masked_token'"):
        train("masked_token", str(data), preset="test_spectral", steps=2, out=str(folder))


def test_a_prior_trains_on_sound_without_any_codes(data, model, tmp_path, capsys):
    import shutil

    folder, bare = tmp_path / "data", tmp_path / "model"
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("codes"))
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("training"))
    with pytest.raises(UserError, match="or give --from_audio"):
        train("prior", str(folder), preset="test", level=1, steps=2, out=str(bare))
    train("prior", str(folder), preset="test", level=1, steps=2, out=str(bare), from_audio=True)
    assert "prior_1: trained, 2 steps" in capsys.readouterr().out and not (folder / "codes").exists()
    with pytest.raises(UserError, match="for priors from the beginning"):
        train("vqvae", str(folder), preset="test", steps=2, out=str(bare), from_audio=True)


def flat(batch) -> list[torch.Tensor]:
    """Every tensor of a batch, whatever it is made of, with nan as a number; numbers are of the whole batch."""
    if isinstance(batch, float):
        return []
    if isinstance(batch, torch.Tensor):
        return [batch.nan_to_num(-1.0) if batch.is_floating_point() else batch]
    parts = batch.values() if isinstance(batch, dict) else vars(batch).values() if hasattr(batch, "__dict__") else batch
    return [tensor for part in parts if part is not None for tensor in flat(part)]


def test_a_batch_is_a_pure_function_of_the_step_and_the_same_for_any_number_of_ranks(data, model):
    for task in tasks(data, model, RECIPE):
        whole, again, other = (flat(task.batch(step, 0, 1)) for step in (7, 7, 8))
        halves = [flat(task.batch(7, rank, 2)) for rank in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True)), task.name
        assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True)), task.name
        joined = [torch.cat(parts) for parts in zip(*halves, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(whole, joined, strict=True)), task.name


def test_the_mean_of_the_losses_of_a_batchs_parts_is_the_batchs_loss(data, model):
    """Also of the masked prior, of which each part asks for another number of codes."""
    masked = PriorTask(setup(Jukebox.from_pretrained(model), "masked", data, RECIPE))
    masked.open()
    for task in (*tasks(data, model, RECIPE)[1:], masked):
        share = getattr(task, "share", list)
        (whole,) = (task.loss(batch, 7) for batch in share([task.batch(7, 0, 1)]))
        parts = [task.loss(batch, 7) for batch in share([task.batch(7, rank, 4) for rank in range(4)])]
        assert parts[0].keys() == whole.keys() and len({part["loss"].item() for part in parts}) == 4
        for name, value in whole.items():
            assert sum(part[name].item() for part in parts) / 4 == pytest.approx(value.item(), rel=1e-5), name


def test_a_part_of_a_batch_draws_the_masks_of_its_own_rows_only(data, model, monkeypatch):
    masked, rows = PriorTask(setup(Jukebox.from_pretrained(model), "masked", data, RECIPE)), []
    masked.open()
    draw = masked.model.draw_masks
    monkeypatch.setattr(masked.model, "draw_masks", lambda rngs: rows.extend(rngs) or draw(rngs))
    masked.batch(7, 1, 4)
    own = [np.random.default_rng([0, 7, RECIPE.batch // 4 + i, 1]) for i in range(RECIPE.batch // 4)]
    masked.model.draw_masks(own)
    assert len(rows) == 2 * len(own), "masks of its own rows only"
    assert [x.bit_generator.state for x in rows[: len(own)]] == [x.bit_generator.state for x in own]


def test_priors_train_with_compiled_blocks_or_a_stream_in_bf16_by_a_flag_and_codecs_do_not(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Transformer, "compile_blocks", partialmethod(Transformer.compile_blocks, backend="aot_eager"))
    found = []
    for number, flag in enumerate(({}, {"compile": True}, {"precision": "bf16"}, {"precision": "bf16_stream"})):
        out = shutil.copytree(model, tmp_path / str(number), ignore=shutil.ignore_patterns("training"))
        train("prior", str(data), preset="test", level=1, steps=3, out=str(out), **flag)
        kept, _ = load_checkpoint(out / "training" / "prior_1")
        assert kept is not None and kept.metadata["recipe"]["compile"] == ("compile" in flag)
        found.append(read_log(out / "training" / "prior_1" / "log.jsonl")[-1]["loss"])
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[3] == pytest.approx(found[2], rel=0.01)
    assert found[3] != found[2] or not has_bf16(torch.device("cpu"))
    for flag in ({"compile": True}, {"precision": "bf16_stream"}):
        with pytest.raises(UserError, match="a codec has none"):
            train("vqvae", str(data), preset="test", steps=1, out=str(tmp_path / "codec"), **flag)


def test_muon_trains_priors_by_a_flag_and_no_codec(data, model, tmp_path):
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("training"))
    train("prior", str(data), preset="test", level=1, steps=2, muon=0.01, out=str(tmp_path / "model"))
    kept, _ = load_checkpoint(tmp_path / "model" / "training" / "prior_1")
    assert kept is not None and kept.metadata["recipe"]["muon"] == 0.01 and kept.names("momentum_buffer")
    with pytest.raises(UserError, match="kind vqvae .* without --muon"):
        train("vqvae", str(data), preset="test", steps=2, muon=0.01, out=str(tmp_path / "other"))


def test_crops_are_pieces_of_the_songs_and_never_of_held_out_ones(data, model):
    from data_prep.audio.audio import read

    task = tasks(data, model, RECIPE)[0]
    songs = {s: [read(audio_path(data, r))[0] for r in load_manifest(data) if r.split == s] for s in ("train", "test")}
    assert songs["train"] and songs["test"]

    def holds(song, crop) -> bool:
        places = (song[0, : -len(crop) + 1] - crop[0]).__abs__() < 1e-6
        return any(abs(song[0, i : i + len(crop)] - crop).max() < 1e-4 for i in places.nonzero()[0])

    for crop in torch.cat([task.batch(step, 0, 1) for step in range(3)])[:, 0].numpy():
        assert any(holds(song, crop) for song in songs["train"])
        assert abs(crop).max() < 1e-3 or not any(holds(song, crop) for song in songs["test"])


def test_the_bandwidth_is_measured_once_for_a_corpus_and_kept_with_the_model(data, model, tmp_path, monkeypatch):
    jukebox = Jukebox.create(tmp_path / "model", find("test").codec)
    first = VQVAETask(setup(jukebox, "vq.1", data, replace(RECIPE, crop=1024)))
    first.open()
    assert 0 < first.bandwidth.l2 < first.bandwidth.l1 < 1 < first.bandwidth.spec
    monkeypatch.setattr("launch.training.tasks.codec.measure_bandwidth", lambda *_: pytest.fail("it was measured again"))
    again = VQVAETask(setup(jukebox, "vq.1", data, replace(RECIPE, crop=1024), seed=5))
    again.open()
    assert again.bandwidth == first.bandwidth
    with pytest.raises(pytest.fail.Exception):  # crops of another length have another spectral norm
        VQVAETask(setup(jukebox, "vq.1", data, replace(RECIPE, crop=2048))).open()


def test_every_place_of_the_corpus_is_drawn_alike_and_short_songs_end_in_silence(tmp_path):
    samples = np.arange(1, 1001, dtype="<i2")
    samples.tofile(tmp_path / "a.i16")
    pcm = Pcm(tmp_path / "a.i16", [40, 60, 900], 1)
    draws = pcm.draw((0, 1), 20_000, 50)
    counts = np.bincount([song for song, _ in draws], minlength=3) / 20_000
    assert np.allclose(counts, np.array([1, 11, 851]) / 863, atol=0.01)
    assert {start for song, start in draws if song == 1} == set(range(11)) and {s for g, s in draws if g == 0} == {0}
    assert (pcm.crop(0, 0, 50)[0] * 32768 == np.r_[1:41, [0] * 10]).all()
    assert (pcm.crop(2, 850, 50)[0] * 32768 == np.arange(951, 1001)).all()


def test_stereo_crops_are_mixed_by_their_share_and_mono_ones_are_left_alone():
    crops = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    same, mono, swapped = blend(crops, np.array([0.0, 0.5, 1.0], np.float32))
    assert np.array_equal(same, crops[0]) and np.allclose(mono[0], mono[1]) and np.allclose(swapped, crops[2, ::-1])
    assert np.array_equal(blend(crops[:, :1], np.ones(3, np.float32)), crops[:, :1])
    shares = blend_shares(2000, np.random.default_rng(0))
    assert 0.45 < (shares == 0).mean() < 0.55 and shares.max() <= 1


def test_half_of_the_crops_keep_their_level_and_a_few_are_silent():
    gains = random_gains(4000, 20.0, np.random.default_rng(0))
    assert (gains == 1).mean() == pytest.approx(0.5, abs=0.03) and 0.02 < (gains == 0).mean() < 0.05
    assert gains[gains > 0].min() == pytest.approx(0.1, rel=0.05)
    assert np.array_equal(random_gains(8, 0.0, np.random.default_rng(0)), np.ones(8, np.float32))


def test_codecs_and_priors_that_die_in_a_step_go_on_exactly(data, model, tmp_path):
    recipe, found = replace(RECIPE, steps=25, delay_quantiser=0.2), []
    for dies in (False, True):
        for task in tasks(data, model, recipe):
            folder, task.save = tmp_path / task.name / str(dies), lambda model: None
            if dies:

                def loss(batch, step, whole=task.loss):
                    if step == 17:
                        raise MemoryError
                    return whole(batch, step)

                task.loss = loss
                with pytest.raises(MemoryError):
                    fit(task, recipe, folder)
                task = next(t for t in tasks(data, model, recipe) if t.name == task.name)
                task.save = lambda model: None
            fit(task, recipe, folder)
            lines = [(line["step"], line["loss"], line["gradient_norm"]) for line in read_log(folder / "log.jsonl")]
            found.append((lines, [p.detach().clone() for p in task.model.state_dict().values()]))
    for (lines, weights), (again, weights_again) in zip(found[:4], found[4:], strict=True):
        assert len(lines) == 25 and lines == again
        assert all(torch.equal(a, b) for a, b in zip(weights, weights_again))


@pytest.mark.long
def test_a_codec_and_a_prior_killed_at_the_command_line_go_on_exactly(data, model, tmp_path):
    for what, name in (("vqvae", "vqvae_2"), ("prior", "prior_2")):
        found = []
        for kill in (False, True):
            out = tmp_path / f"{what}_{kill}"
            shutil.copytree(model, out, ignore=shutil.ignore_patterns("training"))
            flags = ["--preset", "test", "--level", "2", "--steps", "60", "--threads", "1", "--out", str(out)]
            call = "import sys; from launch.cli import main; sys.exit(main())"
            command = [sys.executable, "-c", call, "train", what, str(data), *flags]
            log = out / "training" / name / "log.jsonl"
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            while kill and len(read_log(log)) < 23 and process.poll() is None:
                time.sleep(0.002)
            if kill:
                process.kill()
                assert process.wait() == -signal.SIGKILL, "it must not be done before it is killed"
                process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            assert process.wait() == 0
            weights = out / ("codec.safetensors" if what == "vqvae" else "prior_2.safetensors")
            lines = [(line["step"], line["loss"], line["gradient_norm"]) for line in read_log(log)]
            found.append((lines, weights.read_bytes()))
        assert len(found[0][0]) == 60 and found[0] == found[1], what


def test_a_prior_learns_codes_that_follow_a_rule_and_not_shuffled_ones(data, model):
    from data_prep.codes import CodesWriter
    from jukebox.model.codes import codes_folder

    bits = []
    for shuffled in (False, True):
        rng = np.random.default_rng(0)
        jukebox, folder = Jukebox.from_pretrained(model), model.parent / f"rule_{shuffled}"
        shutil.copytree(data, folder, ignore=shutil.ignore_patterns("codes"))
        with CodesWriter(codes_folder(folder, jukebox.info, "vq.2"), ["vq.2"]) as writer:
            for row in load_manifest(data):
                codes = np.arange(500, dtype=np.uint16) % 8
                writer.add(row.song, {"vq.2": rng.permutation(codes) if shuffled else codes})
        recipe = replace(RECIPE, steps=80, lr=1e-2, save_every=100)
        task = PriorTask(setup(jukebox, "prior_2", folder, recipe))
        task.save = lambda model: None  # type: ignore[method-assign]
        fit(task, recipe, folder / "training")
        bits.append(np.mean([line["bits"] for line in read_log(folder / "training" / "log.jsonl")[-10:]]))
    assert bits[0] < 1.0 and bits[1] > 2.5, bits


def test_held_out_songs_are_measured_with_every_checkpoint_and_overfitting_is_one_line(data, model, capsys):
    """Held-out songs have the opposite order of codes, or (the control) the same."""
    from data_prep.codes import CodesWriter
    from jukebox.model.codes import codes_folder

    jukebox, bits, printed = Jukebox.from_pretrained(model), [], []
    for same in (False, True):
        folder, once = data.parent / f"held_out_{same}", np.arange(500, dtype=np.uint16) % 8
        shutil.copytree(data, folder, ignore=shutil.ignore_patterns("codes"))
        with CodesWriter(codes_folder(folder, jukebox.info, "vq.2"), ["vq.2"]) as writer:
            for row in load_manifest(data):
                writer.add(row.song, {"vq.2": once if same or row.split == "train" else once[::-1].copy()})
        recipe = replace(RECIPE, steps=60, lr=1e-2, save_every=20, drop_labels=0.5)
        task = PriorTask(setup(jukebox, "prior_2", folder, recipe))
        task.save = lambda model: None  # type: ignore[method-assign]
        fit(task, recipe, folder / "training")
        lines = {line["step"]: line for line in read_log(folder / "training" / "log.jsonl")}
        assert [step for step, line in lines.items() if "held_out_bits" in line] == [20, 40, 60]
        bits.append([lines[step]["held_out_bits"] for step in (20, 60)])
        printed.append(capsys.readouterr().out)
        other = task.held_out()
        assert other and {row.split for row in load_manifest(data) if row.song in other.songs} == {"test"}
        assert all((other.batch(0, 0, 1).cond.artist > 0).tolist())  # no condition is dropped
    assert bits[0][1] > bits[0][0] and "it overfits" in printed[0]
    assert bits[1][1] < bits[1][0] and "it overfits" not in printed[1]


def test_the_masked_prior_is_trained_by_its_verb_into_the_model_folder(data, model, tmp_path):
    out = tmp_path / "model"
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("training"))
    train("masked", str(data), preset="test", steps=3, out=str(out))
    opened = Jukebox.from_pretrained(out)
    assert opened.prior("masked").config == setup(opened, "masked", data, RECIPE).config
    lines = read_log(out / "training" / "masked" / "log.jsonl")
    assert len(lines) == 3 and all(line["codes_per_second"] > 0 for line in lines)
    for flags, message in (
        ({"level": 2}, "has all levels"),
        ({"preset": "vqvae", "out": str(tmp_path / "bare")}, "has no masked"),
    ):
        with pytest.raises(UserError, match=message):
            train("masked", str(data), **{"preset": "test", "out": str(out), **flags})  # type: ignore[arg-type]


def test_mistakes_are_told_in_one_line_with_what_to_do_next(data, model, tmp_path):
    for arguments, flags, message in [
        (("prior", str(data)), {"out": str(tmp_path / "none")}, "train its codec first"),
        (("vqvae", str(tmp_path / "none")), {}, "make it with `jukebox prepare"),
        (("vqvae", str(data)), {"preset": "huge"}, "choose one of demo, recordings_levels, small"),
        (("vqvae", str(data)), {"levels": "2,7"}, "there is no 7 to choose"),
        (("vqvae", str(data)), {"levels": "all"}, r"there is no all to choose; choose among 0 \(vq.0\)"),
        (
            ("vqvae", str(data)),
            {"preset": "demo", "out": str(model)},
            "was begun with --preset test, and demo has another codec",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            train(*arguments, **{"preset": "test", **flags})  # type: ignore[arg-type]
    twin = Jukebox.create(tmp_path / "twin", find("test").codec)
    codec = Jukebox.from_pretrained(model).codec()
    next(codec.parameters()).data.add_(1.0)
    twin.save_codec(codec)
    with pytest.raises(UserError, match="no codes of this codec"):
        train("prior", str(data), preset="test", out=str(tmp_path / "twin"))


def test_recomputing_activations_keeps_less_and_changes_neither_losses_nor_the_model(data, model, tmp_path):
    found, kept = [], []
    for recompute in (False, True):
        out = tmp_path / str(recompute)
        shutil.copytree(model, out, ignore=shutil.ignore_patterns("training"))
        train("prior", str(data), preset="test", level=2, steps=3, recompute=recompute, out=str(out))
        lines = read_log(out / "training" / "prior_2" / "log.jsonl")
        files = [(out / name).read_bytes() for name in ("config.json", "prior_2.safetensors")]
        found.append(([(line["loss"], line["gradient_norm"]) for line in lines], files))
        task = tasks(data, model, replace(RECIPE, recompute=recompute))[1]
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            losses = task.loss(task.batch(0, 0, 1), 0)
        kept.append(sum(sizes))
        del losses
    assert len(found[0][0]) == 3 and found[0] == found[1]
    assert kept[1] < kept[0]
    with pytest.raises(UserError, match="--recompute is for priors"):
        train("vqvae", str(data), preset="test", recompute=True, out=str(tmp_path / "codec"))


def test_who_says_how_many_steps_gets_them_whatever_the_recipes_limit_on_the_time(data, model, monkeypatch):
    asked: list[Recipe] = []
    done = Trained("vqvae_2", 0, 0, 0.0, "done")
    monkeypatch.setattr("launch.training.trainer.fit", lambda task, recipe, *a, **k: asked.append(recipe) or done)
    for flags in ({}, {"steps": 7}, {"steps": 7, "max_minutes": 2.0, "precision": "bf16"}):
        train("vqvae", str(data), preset="demo", level=2, out=str(model.parent / "demo"), **flags)  # type: ignore[arg-type]
    whole = find("demo").codec_recipes["vq.2"]
    assert asked == [whole, replace(whole, steps=7, max_minutes=0.0), replace(whole, steps=7, max_minutes=2.0)]
    assert whole.max_minutes > 0 and whole.bf16


@pytest.mark.parametrize("given", [{"steps": -5}, {"batch": -5}, {"lr": -1.0}, {"max_minutes": -1.0}])
def test_numbers_below_zero_are_refused(data, tmp_path, given):
    with pytest.raises(UserError, match=f"--{next(iter(given))} -.*expected numbers above 0"):
        train("vqvae", str(data), preset="test", out=str(tmp_path / "model"), **given)


# ---- data that cannot be written, and songs of little use


def test_a_read_only_data_folder_is_trained_on_with_a_cache(data, model, tmp_path, monkeypatch):
    from launch.corpus.encode import encode

    copied = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("pcm", "codes", ".*"))
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("training"))
    for name in ("pcm", "codes"):  # root may write anywhere, and so a file stands where a folder cannot be made
        (copied / name).touch()
    before, out, cache = sorted(copied.iterdir()), str(tmp_path / "model"), str(tmp_path / "cache")
    with pytest.raises(UserError, match="pcm cannot be written .* give --cache"):
        train("vqvae", str(copied), preset="test", steps=1, level=2, out=str(tmp_path / "other"))
    with pytest.raises(UserError, match="cannot be written .* give --cache"):
        encode(str(copied), out)
    train("vqvae", str(copied), preset="test", steps=1, level=2, out=str(tmp_path / "other"), cache=cache)
    encode(str(copied), out, cache=cache)
    train("prior", str(copied), preset="test", steps=1, level=2, out=out, cache=cache)
    assert set(sorted(copied.iterdir())) - set(before) <= {copied / ".in_use.lock"}


def test_a_training_whose_songs_are_all_shorter_than_a_window_names_the_longest(data, model, tmp_path):
    prior = PriorTask(setup(Jukebox.from_pretrained(model), "prior_2", data, RECIPE))
    prior.config = replace(prior.config, trunk=replace(prior.config.trunk, n_ctx=1 << 20))
    with pytest.raises(UserError, match=r"none fills a window of .* the longest has 3.0 s: train on longer songs"):
        prior.open()


def test_a_codec_reports_crops_of_silence_and_songs_shorter_than_a_crop(data, tmp_path, capsys):
    from data_prep.manifest import prepare

    rng, music = np.random.default_rng(0), tmp_path / "music"
    music.mkdir()
    for i in range(4):  # two seconds of noise among eight of silence
        soundfile.write(music / f"{i}.wav", np.pad(0.3 * rng.standard_normal(44100), (0, 4 * 44100)), 22050)
    soundfile.write(music / "short.wav", 0.3 * rng.standard_normal(900), 22050)
    prepare(music, tmp_path / "data", min_seconds=0, test_share=0.0, workers=1)
    train("vqvae", str(tmp_path / "data"), preset="test", steps=2, level=2, out=str(tmp_path / "model"))
    said = capsys.readouterr().out
    assert re.search(r"vqvae_2: \d+ of 64 crops are silent", said) and "1 of 5 songs are shorter than a crop" in said


def test_a_prior_counts_songs_that_are_shorter_than_a_window(model, tmp_path, capsys):
    from data_prep.manifest import prepare
    from launch.corpus.encode import encode

    for i, seconds in enumerate((0.1, 2.0, 2.0)):
        noise = np.random.default_rng(i).uniform(-0.5, 0.5, round(22050 * seconds))
        (tmp_path / "music").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "music" / f"{i}.wav", noise, 22050)
    prepare(tmp_path / "music", tmp_path / "data", test_share=0.0, min_seconds=0.05, workers=1)
    encode(str(tmp_path / "data"), str(model), levels="2")
    task = PriorTask(setup(Jukebox.from_pretrained(model), "prior_2", tmp_path / "data", RECIPE))
    capsys.readouterr()
    task.open()
    assert "prior_2: 1 of 3 songs are shorter than a window and are left out" in capsys.readouterr().out


def test_prepare_does_not_replace_the_tables_of_a_training(data, tmp_path, monkeypatch):
    from data_prep.manifest import prepare
    from launch.training import trainer

    held = []

    def fit(*_, **__):
        with pytest.raises(UserError, match="is read by a training"):
            prepare(data.parent / "corpus" / "songs.jsonl", data, workers=1)
        held.append(True)
        return Trained("a", 1, 1, 0.0, "done")

    monkeypatch.setattr(trainer, "fit", fit)
    train("vqvae", str(data), preset="test", level=2, steps=1, out=str(tmp_path / "model"))
    assert held


def test_every_name_that_a_task_logs_is_explained_with_its_unit(data, model, spectral):
    """Codecs and priors of both routes, with the parts of a batch measured; and the levels and books of each name."""
    from jukebox.report.curves import NAMES, explain

    config = find("test_spectral").priors["tokens"]
    jukebox, folder = Jukebox.from_pretrained(spectral), data.parent / "logs"
    config = config.for_corpus(len(jukebox.labels.artists), len(jukebox.labels.genres))
    codec, *priors = tasks(data, Path(shutil.copytree(model, folder / "model")), RECIPE)
    made = [*priors, codec, PriorTask(TaskSetup(jukebox, "tokens", data, RECIPE, 0, "cpu", config))]
    for task in made:
        fit(task, replace(task.recipe, steps=2), folder / task.name, parallel=ParallelConfig(accumulate=2))
    logs = [*folder.glob("*/log.jsonl"), *data.parent.glob("*/training/*/log.jsonl")]
    names = {name for log in logs for line in read_log(log) for name in line}
    assert {"noise_scale", "bits_book0", "entropy", "phase_loss", "lr", "gradient_norm"} <= names and len(logs) == 9
    assert not [name for name in names if not explain(name)[1]]
    assert all(title and meaning for title, meaning in NAMES.values())


def test_a_prior_that_saw_no_lyrics_is_recorded_as_such_and_its_users_are_warned(data, model, tmp_path, capsys):
    """Of songs without lyrics, and of songs with them; a file without words is one line."""
    from launch.cli import main

    (tmp_path / "music").mkdir()
    for path in sorted((data.parent / "corpus").glob("*.wav"))[:4]:
        shutil.copy(path, tmp_path / "music")
    lyrics, empty = tmp_path / "words.txt", tmp_path / "empty.txt"
    lyrics.write_text("all the cold wind"), empty.write_text("\n")
    for warned in (1, 0):
        source, folder = tmp_path / f"data_{warned}", tmp_path / f"model_{warned}"
        assert main(["prepare", str(tmp_path / "music"), "--out", str(source), "--test_share", "0", "--workers", "1"]) == 0
        shutil.copytree(model, folder)
        (folder / "prior_2.safetensors").unlink(missing_ok=True)
        words = ["--level", "2", "--preset", "test", "--steps", "1", "--out", str(folder), "--from_audio"]
        assert main(["train", "prior", str(source), *words]) == 0
        assert Jukebox.from_pretrained(folder).entry("prior_2").without_lyrics == bool(warned)
        capsys.readouterr()
        run = ["sample", str(folder), "--seconds", "0.05", "--levels", "2"]
        assert main([*run, "--lyrics", str(lyrics), "--out", str(folder / "run")]) == 0
        assert capsys.readouterr().err.count("was trained without lyrics, they have no effect") == warned
        assert main([*run, "--lyrics", str(empty), "--out", str(folder / "run_2")]) == 0
        error = capsys.readouterr().err
        assert error.count("there is no word in it that is sung") == 1 and "no effect" not in error
        for path in (tmp_path / "music").glob("*.wav"):
            path.with_suffix(".txt").write_text("the wind will run")


def test_a_recipe_with_muon_is_trained_by_adamw_where_deepspeed_trains_and_the_flag_itself_is_kept(capsys):
    recipe, tuning, many = find("spectral").prior_recipes["tokens"], FinetuneParams(), ParallelConfig(zero=1)
    assert recipe.muon and recipe_of(recipe, {"steps": 3}, tuning, many) == replace(recipe, steps=3, muon=0.0)
    assert "all weights are trained by AdamW" in capsys.readouterr().out
    assert recipe_of(recipe, {"muon": 0.01}, tuning, many).muon == 0.01, "which then raises"
    assert recipe_of(recipe, {}, tuning, ParallelConfig()) == recipe and not capsys.readouterr().out
