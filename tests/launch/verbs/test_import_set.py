"""`jukebox import` of whole sets as a user meets it: interrupted downloads, wrong files, the user's own sets."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from jukebox.importers.prior_keys import to_published
from jukebox.importers.vqvae_keys import published_vqvae_key
from jukebox.model.folder import ModelFolder
from jukebox.model.settings import PRIORS, VQVAE_DEFAULTS, VQVAES, prior_config, vqvae_config
from launch.cli import main
from launch.verbs.import_ import parts_of
from priors.autoregressive.model import AutoregressivePrior
from tests.conformance import big
from tests.conformance.codec import SUMS
from vqvae.jukebox.vqvae import VQVAE

NARROW = {"prior_width": 16, "prior_depth": 3, "heads": 2, "n_ctx": 32, "blocks": 4, "t_bins": 8}
LABELS = {"y_bins": (4, 5), "min_duration": 0.01, "max_duration": 60.0}
UPPER = {"cond_width": 8, "cond_depth": 1}
LYRICS = {"n_tokens": 8, "prior_depth": 16, "max_bow_genre_size": 1}
# the sets that the tests import, each prior shrunk from a published one
PUBLISHED: dict[int, dict[str, Any]] = {
    2: {**PRIORS["prior_1b_lyrics"], **NARROW, **LABELS, **LYRICS, "labels_v3": True},
    1: {**PRIORS["upsampler_level_1"], **NARROW, **LABELS, **UPPER},
    0: {**PRIORS["upsampler_level_0"], **NARROW, **LABELS, **UPPER},
}
OWN: dict[int, dict[str, Any]] = {  # of a user who trained the published code's small models, two levels
    1: {**PRIORS["small_single_enc_dec_prior"], **NARROW, **LABELS, **LYRICS, "labels_v3": True},
    0: {**PRIORS["small_upsampler"], **NARROW, **UPPER, "labels": False},
}
CODEC = VQVAE_DEFAULTS | VQVAES["vqvae"] | {"l_bins": 8, "width": 4, "depth": 1, "emb_width": 4}
OWN_CODEC = VQVAE_DEFAULTS | VQVAES["small_vqvae"] | {"l_bins": 8, "width": 4, "depth": 1, "emb_width": 4, "downs_t": (2, 1)}


def write_set(
    folder: Path, codec: dict[str, Any], priors: dict[int, dict[str, Any]], place: Callable[[str], str], **extra: Any
) -> None:
    """Random weights of a set in torch's old format; `place` returns the path of a part such as prior_level_2 in `folder`."""
    torch.manual_seed(0)
    net = VQVAE(vqvae_config(codec))
    state = {published_vqvae_key(n, codec["downs_t"]): t for n, t in net.state_dict().items() if not n.endswith(SUMS)}
    contents: dict[str, dict[str, Any]] = {"vqvae": {"model": state, "hps": codec}}
    for level, hps in priors.items():
        config = prior_config(hps, codec)
        weights = to_published(AutoregressivePrior(config).state_dict(), config)
        contents[f"prior_level_{level}"] = {"model": weights, "hps": hps, "step": 3, **extra}
    for name, content in contents.items():
        path = folder / place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path, _use_new_zipfile_serialization=False)


def published_place(name: str) -> str:
    return next(part for part in parts_of("1b_lyrics") if f"/{name}." in part)


def flat(name: str) -> str:
    return f"{name}.pth.tar"


def write_tables(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for version, artist in (("v2", "bob"), ("v3", "ann")):
        (folder / f"{version}_artist_ids.txt").write_text(f"unknown;0\n{artist};3\n")
        (folder / f"{version}_genre_ids.txt").write_text("unknown;0\nrock;2\n")
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with all files of a set, and the id tables in `ids`."""
    write_set(tmp_path / "files", CODEC, PUBLISHED, flat)
    write_tables(tmp_path / "ids")
    return tmp_path / "files"


def run(files: Path | str, *more: str, name: str = "1b_lyrics", out: str = "model") -> int:
    """`jukebox import NAME --files FILES` into the folder `out` beside."""
    beside = Path(str(files).split(",")[0]).parent
    beside = beside if (beside / "ids").is_dir() else beside.parent
    return main(["import", name, "--files", str(files), "--labels", str(beside / "ids"), "--out", str(beside / out), *more])


# -------------------- downloads


class Site(BaseHTTPRequestHandler):
    """Serves a folder with ranges; every answer breaks off after `server.cut` bytes."""

    def do_GET(self) -> None:
        server: Any = self.server
        path = server.folder / self.path.lstrip("/")
        server.asked.append(self.path)
        if not path.is_file():
            return self.send_error(404, "Not Found")
        data, start = (
            path.read_bytes(),
            int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-")),
        )
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + server.cut])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path):
    write_set(tmp_path / "site", CODEC, PUBLISHED, published_place)
    write_tables(tmp_path / "site/jukebox/data/ids")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.folder, server.asked, server.cut = tmp_path / "site", [], 20_000
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_set_is_downloaded_over_a_line_that_breaks_and_then_never_again(site, tmp_path, capsys):
    words = ["--url", f"http://127.0.0.1:{site.server_port}/", "--cache", str(tmp_path / "cache")]
    assert main(["import", "1b_lyrics", *words, "--out", str(tmp_path / "model")]) == 0
    assert len(site.asked) > 8 + 2, "the line did break"  # 4 checkpoints, 4 id tables
    for path in (tmp_path / "cache").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "site" / path.relative_to(tmp_path / "cache")).read_bytes()
    model = ModelFolder.from_pretrained(tmp_path / "model")
    assert set(model.info.priors) == {"prior_0", "prior_1", "prior_2"}
    assert model.labels_of("prior_2").artist_id("Ann") == 3 and model.labels_of("prior_0").artist_id("Bob") == 3
    asked = len(site.asked)
    assert main(["import", "1b_lyrics", *words, "--dtype", "fp16", "--out", str(tmp_path / "again")]) == 0
    assert len(site.asked) == asked
    assert "noncommercial" in capsys.readouterr().out


def test_offline_is_one_line_and_leaves_no_model(tmp_path, capsys):
    words = ["--url", "http://127.0.0.1:9/", "--cache", str(tmp_path / "cache")]
    assert main(["import", "5b", *words, "--out", str(tmp_path / "model")]) == 2
    err = capsys.readouterr().err
    assert "cannot be reached" in err and "are you online?" in err and "--files" in err
    assert not (tmp_path / "model").exists()


# -------------------- files that are wrong


def test_a_pickle_that_is_a_program_is_not_run(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it_ran'}",)

    write_set(tmp_path / "files", CODEC, PUBLISHED, flat, opt=Bomb())
    write_tables(tmp_path / "ids")
    assert run(tmp_path / "files") == 0  # beside the weights it does nothing
    path = tmp_path / "files" / flat("prior_level_2")
    torch.save({"model": {"prior.x_emb.weight": Bomb()}}, path, _use_new_zipfile_serialization=False)
    assert run(tmp_path / "files", out="other") == 2  # in the set it raises
    assert "unknown class" in capsys.readouterr().err
    assert not (tmp_path / "it_ran").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize("part", ["prior_level_2", "vqvae"])
@pytest.mark.parametrize("share", [0.2, 0.97])
def test_a_truncated_file_is_named_before_anything_is_written(files, part, share, capsys):
    path = files / flat(part)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert run(files) == 2
    err = capsys.readouterr().err
    assert part in err and "cut short or damaged" in err and err.count("\n") == 1
    assert not (files.parent / "model").exists()


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no codec": (lambda f: (f / flat("vqvae")).unlink(), "no vqvae.pth.tar among the files"),
    "an empty folder": (lambda f: [p.unlink() for p in f.iterdir()], "holds no checkpoints of 1b_lyrics"),
    "a web page": (lambda f: (f / flat("prior_level_1")).write_text("<html>404</html>"), "is a web page"),
    "the other upsampler": (
        lambda f: os.replace(f / flat("prior_level_2"), f / flat("prior_level_1")),
        "is it of another set?",
    ),
    "a table that is a web page": (lambda f: (f.parent / "ids/v3_genre_ids.txt").write_text("<html>"), "expected name;id"),
    "no table": (lambda f: (f.parent / "ids/v2_artist_ids.txt").unlink(), "has no v2_artist_ids.txt"),
    "a table of other labels": (
        lambda f: (f.parent / "ids/v3_artist_ids.txt").write_text("unknown;0\nzed;77\n"),
        "names 78 artists",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_is_wrong_is_one_line_before_anything_is_written(files, what, capsys):
    change, words = MISTAKES[what]
    change(files)
    assert run(files) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert not list((files.parent / "model").glob("*.safetensors"))


@pytest.mark.parametrize("other", ["5b", "5b_lyrics"])
def test_a_set_under_the_name_of_another_is_refused(files, other, capsys):
    assert run(files, name=other) == 2
    assert "is it of another set?" in capsys.readouterr().err


def test_a_wrong_dtype_names_those_there_are(files, capsys):
    assert run(files, "--dtype", "int4") == 2
    assert "bf16" in capsys.readouterr().err


# -------------------- the published size

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if Path("/proc/self/status").exists() else 0


@pytest.mark.long
@pytest.mark.skipif(MEMORY < 8e9 or shutil.disk_usage(tempfile.gettempdir()).free < 8e9, reason="8 GB of memory and of disk")
def test_a_checkpoint_of_the_published_size_is_converted_in_a_fraction_of_its_memory(tmp_path):
    """The 1b_lyrics top prior, 3.8 GB in torch's old format; `python -m tests.conformance.big DIR` does more and prints it."""
    try:
        big.child("tests.conformance.big", "write_checkpoint", f"__import__('pathlib').Path({str(tmp_path / 'files')!r})")
        big.write_tables(tmp_path / "ids")
        ran = big.convert(tmp_path, "bf16")
        written = (tmp_path / "bf16" / "prior_2.safetensors").stat().st_size
        assert 1.88e9 < written < 1.90e9
        assert ran.peak < 0.35 * written, "the interpreter and torch, a tensor of 65 MB, and little else"
    finally:
        shutil.rmtree(tmp_path)


# -------------------- parts, and sets of one's own


def test_levels_may_come_one_after_another(files, capsys):
    first = ",".join(str(files / flat(part)) for part in ("vqvae", "prior_level_2"))
    assert run(first) == 0
    assert "no prior of level 1, 0 was among the files" in capsys.readouterr().out
    assert run(str(files / flat("prior_level_0"))) == 0 and run(str(files / flat("prior_level_1"))) == 0
    assert "among the files" not in capsys.readouterr().out.splitlines()[-2]
    model = ModelFolder.from_pretrained(files.parent / "model")
    assert set(model.info.priors) == {"prior_0", "prior_1", "prior_2"} and model.vocabulary.size == 79
    rules = [model.labels_of(f"prior_{level}").rules for level in range(3)]
    assert rules == ["v2", "v2", "v3"]


def test_a_small_set_of_ones_own_loads_with_the_settings_in_its_files(tmp_path):
    """Two levels, a labelled top prior with lyrics, an upsampler that knows no labels: no table of v2 is asked for."""
    write_set(tmp_path / "files", OWN_CODEC, OWN, flat)
    write_tables(tmp_path / "ids")
    for path in (tmp_path / "ids").glob("v2_*"):
        path.unlink()
    assert run(tmp_path / "files") == 0
    model = ModelFolder.from_pretrained(tmp_path / "model")
    assert model.info.levels_with_prior == [0, 1] and model.hops == (4, 8) and model.sample_rate == 22050
    top, bottom = (model.info.priors[f"prior_{level}"].config for level in (1, 0))
    assert top.lyric_prefix == 8 and bottom.labels is None  # type: ignore[attr-defined]
    assert model.labels_of("prior_1").artist_id("Ann") == 3 and model.vocabulary.size == 79
