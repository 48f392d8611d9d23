"""Whole sets of published models, from the published layout and from the registry port's, become model folders."""

from __future__ import annotations

import math
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from data_prep.errors import UserError
from jukebox.importers.convert import open_port, open_published
from jukebox.importers.hf_port import published_codec_name, published_prior_name
from jukebox.importers.prior_keys import to_published
from jukebox.importers.streamed import Lazy, write_streamed
from jukebox.model.folder import ModelFolder, is_norm
from jukebox.model.settings import prior_config
from launch.cli import main
from launch.verbs.import_ import import_
from priors.autoregressive.config import AutoregressiveParams
from priors.conditioning.conditions import Conditions, Lyrics
from priors.noise import Generators
from priors.prior import Known, Window, sample_window

PORT = Path(__file__).parents[2] / "golden" / "port"
SETS = {"1b_lyrics": PORT / "lyrics_1b", "5b_lyrics": PORT / "lyrics_5b"}
EACH = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    (folder / "v2_artist_ids.txt").write_text("unknown;0\nvarious;0\nthe_beatles;1\ntoto;6\n")
    (folder / "v2_genre_ids.txt").write_text("unknown;0\nhip;1\nhop;2\nrock;4\n")
    (folder / "v3_artist_ids.txt").write_text("the beatles;2\nspeaker;1\nunknown;0\nspeaker;5\n")
    (folder / "v3_genre_ids.txt").write_text("hip hop;3\nunknown;0\n")
    return folder


@pytest.fixture(scope="module")
def imported(tables, tmp_path_factory):
    """Each set of the port as a model folder; one that is altered must be a copy."""
    made = {name: tmp_path_factory.mktemp(name) for name in SETS}
    for name, folder in made.items():
        import_(name, files=str(SETS[name]), labels=str(tables), out=str(folder))
    return made


def heard(config, io, level) -> tuple[torch.Tensor, Conditions]:
    """The port's row of labels (total, offset, length, artist, genres.., characters..) as conditions."""
    y, n = io[f"y_{level}"], config.n_tokens
    genres = y[:, 4 : y.shape[1] - n]
    lyrics = Lyrics(y[:, y.shape[1] - n :], torch.full((1, n), torch.nan)) if n else None
    return io[f"z_{level}"], Conditions(y[:, 3], genres, y[:, :3], lyrics, io.get(f"above_{level}"))


def errors(model: ModelFolder, io) -> dict[str, float]:
    """How far codes and logits are from what the port computed."""
    codes = model.codec().encode(io["audio"].mT, model.spec.names)
    found = {f"codes {level}": (codes[f"vq.{level}"] != io[f"codes_{level}"]).sum().item() for level in range(3)}
    for level in model.info.levels_with_prior:
        prior = model.prior(f"prior_{level}")
        with torch.no_grad():
            z, cond = heard(prior.config, io, level)
            found[f"logits {level}"] = (prior(z, cond) - io[f"logits_{level}"]).abs().max().item()
    return found


def published_files(source_folder: Path, out: Path, legacy: bool, hps: bool = True) -> Path:
    """The same model as files in the published layout."""
    source = open_port(source_folder)
    for level, weights in source.priors.items():
        state = {f"module.{name}": tensor.read() for name, tensor in weights.items()}
        if not source.prior_hps[level]["merged_decoder"]:
            state["module.prior.x_out.weight"] = state["module.prior.x_emb.weight"]
        content = {"model": state, "step": 7, **({"hps": source.prior_hps[level]} if hps else {})}
        folder = "1b_lyrics" if level == 2 and "1b" in source_folder.name else "5b_lyrics" if level == 2 else "5b"
        path = out / f"jukebox/models/{folder}/prior_level_{level}.pth.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert source.codec is not None
    codec = {"model": {name: tensor.read() for name, tensor in source.codec.items()}, "hps": source.codec_hps}
    torch.save(codec, out / "jukebox/models/5b/vqvae.pth.tar", _use_new_zipfile_serialization=not legacy)
    return out


@EACH
def test_a_folder_of_the_registry_port_computes_what_the_port_computes(name, imported):
    found = errors(ModelFolder.from_pretrained(imported[name]), load_file(SETS[name] / "expected.safetensors"))
    assert len(found) == 6
    assert all(error <= 2e-5 for error in found.values()), found


@EACH
def test_one_wrong_weight_is_heard(name, tmp_path, imported):
    shutil.copytree(imported[name], tmp_path / "model")
    for level, part in ((2, "trunk.layers.9.attn.c_proj.b"), (1, "upsampler.stage.steps.1.conv.bias"), (0, "ln.bias")):
        path = tmp_path / "model" / f"prior_{level}.safetensors"
        state = load_file(path)
        state[next(n for n in sorted(state) if n.endswith(part))][0] += 0.5
        write_streamed(path, {n: Lazy(tuple(t.shape), lambda t=t: t) for n, t in state.items()}, lambda n: torch.float32)
    found = errors(ModelFolder.from_pretrained(tmp_path / "model"), load_file(SETS[name] / "expected.safetensors"))
    assert all(found[f"logits {level}"] > 1e-3 for level in range(3)), found


@EACH
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_files_in_the_published_layout_give_the_same_model_and_go_back_bit_for_bit(name, legacy, tmp_path, tables):
    files = published_files(SETS[name], tmp_path / "files", legacy)
    import_(name, files=str(files), labels=str(tables), out=str(tmp_path / "model"))
    model = ModelFolder.from_pretrained(tmp_path / "model")
    found = errors(model, load_file(SETS[name] / "expected.safetensors"))
    assert len(found) == 6 and all(error <= 2e-5 for error in found.values()), found
    source = open_published(sorted(files.rglob("*.pth.tar")))
    for level, weights in source.priors.items():
        prior = model.prior(f"prior_{level}")
        back = to_published(prior.state_dict(), prior.config)
        assert back.keys() == weights.keys()
        assert all(torch.equal(back[n], tensor.read()) for n, tensor in weights.items())


def test_labels_of_a_set_follow_the_published_rules_level_by_level(imported):
    model = ModelFolder.from_pretrained(imported["1b_lyrics"])
    top, below = model.labels_of("prior_2"), model.labels_of("prior_0")
    assert top.artist_id("The Beatles") == 2 and top.artist_id("Speaker") == 5 and top.artist_id("") == 0
    assert top.genre_ids(["Hip Hop"]) == [3]
    assert below.artist_id("  The  Beatles! ") == 1 and below.artist_id("Various") == 0 and below.artist_id(None) == 0
    assert below.genre_ids(["Hip-Hop / Jazz"]) == [1, 2, 0]
    assert model.vocabulary.size == 79


@pytest.mark.parametrize(("dtype", "kept"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_written_and_run_with_norms_in_float32(dtype, kept, tmp_path, tables):
    import_("5b_lyrics", files=str(SETS["5b_lyrics"]), labels=str(tables), out=str(tmp_path / "model"), dtype=dtype)
    model, io = (ModelFolder.from_pretrained(tmp_path / "model"), load_file(SETS["5b_lyrics"] / "expected.safetensors"))
    for level in range(3):
        with safe_open(tmp_path / "model" / f"prior_{level}.safetensors", "pt") as file:
            names = list(file.keys())
            assert sum(map(is_norm, names)) > 4
            assert all(file.get_tensor(n).dtype == (torch.float32 if is_norm(n) else kept) for n in names)
        prior = model.prior(f"prior_{level}", str(kept).removeprefix("torch."))
        assert all(p.dtype == (torch.float32 if is_norm(n) else kept) for n, p in prior.named_parameters())
        z, cond = heard(prior.config, io, level)
        with torch.no_grad():
            logits = prior(z, cond)
        far = (logits.float() - io[f"logits_{level}"]).abs().max() / io[f"logits_{level}"].abs().max()
        assert logits.dtype == kept and 0 < far < 0.1
        known, noise = Known.prefix(prior.stream, z[:, :5], 9), Generators([torch.Generator()] * len(z))
        params = {prior.stream: AutoregressiveParams(temperature=0.0)}
        made = sample_window(prior, Window(0, 9, 9), known, cond, noise, params)[prior.stream]
        assert made.shape == (len(z), 9) and torch.equal(made[:, :5], z[:, :5])


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    alive, most = weakref.WeakSet(), 0

    def read() -> torch.Tensor:
        nonlocal most
        tensor = torch.randn(64, 65)
        alive.add(tensor.untyped_storage())
        most = max(most, len(alive))
        return tensor

    names = {f"t{i}": Lazy((64, 65), read) for i in range(9)}
    write_streamed(tmp_path / "a.safetensors", names, lambda n: torch.bfloat16 if n == "t3" else torch.float32)
    assert most == 1
    state = load_file(tmp_path / "a.safetensors")
    assert state["t3"].dtype == torch.bfloat16 and state["t0"].shape == (64, 65) and len(state) == 9


def test_a_torn_conversion_leaves_no_file(tmp_path):
    def torn() -> torch.Tensor:
        raise UserError("cut short")

    with pytest.raises(UserError, match="cut short"):
        write_streamed(tmp_path / "a", {"a": Lazy((2,), lambda: torch.ones(2)), "b": Lazy((2,), torn)}, lambda _: torch.float32)
    with pytest.raises(ValueError, match="its header has"):
        write_streamed(tmp_path / "a", {"a": Lazy((2,), lambda: torch.ones(3))}, lambda _: torch.float32)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_one_line(tmp_path, tables, capsys):
    files = published_files(SETS["5b_lyrics"], tmp_path / "files", legacy=True, hps=False)
    words = ["--labels", str(tables), "--out", str(tmp_path / "model")]
    assert main(["import", "5b_lyrics", "--files", str(files), *words]) == 2
    shutil.copytree(SETS["5b_lyrics"], tmp_path / "hub")
    (tmp_path / "hub" / "model-00002-of-00002.safetensors").unlink()
    assert main(["import", "5b_lyrics", "--files", str(tmp_path / "hub"), *words]) == 2
    assert main(["import", "5b_lyrics", "--files", str(tmp_path / "none"), *words]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jukebox import:")]
    assert len(err) == 3
    assert "has shape" in err[0] and "00002-of-00002" in err[1] and "there is no file" in err[2]


def test_names_that_the_port_does_not_have_are_refused():
    for name in ("prior.no_such", "conditioner_blocks.upsampler.upsample_block.0.weight", "encoder.transformer.x"):
        with pytest.raises(ValueError):
            published_prior_name(name)
    with pytest.raises(ValueError, match="no tensor of the port's codec"):
        published_codec_name("encoders.0.no_such", (3, 2, 2))


@EACH
def test_every_name_of_the_port_has_its_own_published_one(name):
    source = open_port(SETS[name])
    for level, weights in source.priors.items():
        config = prior_config(source.prior_hps[level], source.codec_hps or {})
        assert sum(math.prod(tensor.shape) for tensor in weights.values()) > 0 and config.stream == f"vq.{level}"
