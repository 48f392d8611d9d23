"""The packages and commands of docs/extending.md work as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jukebox.sampling.sampler as sampler
import jukebox.sampling.window_checkpoint as window_checkpoint
from data_prep.audio.audio import read, write_wav
from jukebox.model.folder import ModelFolder
from launch.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in FENCES if kind == "bash" for line in text.splitlines()]
RATE = 8000


def files() -> dict[str, str]:
    """The files of the page; each begins with its path as a comment."""
    texts = "".join(text for kind, text in FENCES if kind in ("toml", "python"))
    parts = re.split(r"^# (\w+/\S+\.(?:py|toml))$", texts.partition("if config.tempo")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def install(root: Path) -> list[str]:
    """Write the packages and their metadata, as an installation does; the folders that belong on the path."""
    paths = []
    for name, text in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        if name.endswith(".toml"):
            project = tomllib.loads(text)["project"]
            paths.append(str(root / Path(name).parent))
            info = root / Path(name).parent / f"{project['name']}-{project['version']}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
            groups = [
                (f"[{group}]", *(f"{k} = {v}" for k, v in each.items())) for group, each in project["entry-points"].items()
            ]
            (info / "entry_points.txt").write_text("\n".join(line for group in groups for line in group))
    return paths


def jukebox(line: str) -> int:
    words = shlex.split(line)
    assert words[0] == "jukebox", line
    return main(words[1:])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which all commands of the page were run, in its order."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("extending")
    patch.chdir(root)
    patch.setattr(sys, "path", [*install(root), *sys.path])
    (root / "MUSIC").mkdir()
    t = np.arange(3 * RATE) / RATE
    for i in range(6):
        write_wav(root / "MUSIC" / f"{i}.wav", (0.4 * np.sin(2 * np.pi * (200 + 70 * i) * t))[None].astype(np.float32), RATE)
    write_wav(root / "song.wav", (0.4 * np.sin(2 * np.pi * 300 * t))[None].astype(np.float32), RATE)
    for line in COMMANDS:
        assert jukebox(line) == 0, line
    yield root
    patch.undo()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("block_codec", "infill_prior")]:
        del sys.modules[name]


def codes(run: Path) -> np.ndarray:
    return np.fromfile(run / "codes" / "level_0_sample_0.u16", "<u2")


def test_the_page_is_short_and_its_packages_have_all_their_files():
    assert len(PAGE.splitlines()) <= 250
    assert {Path(name).name for name in files()} == {"pyproject.toml", "config.py", "codec.py", "task.py", "prior.py"}
    verbs = [shlex.split(line)[1] for line in COMMANDS]
    assert verbs == ["prepare", "train", "encode", "train", "sample", "continue", "edit", "resume", "replay"]


def test_configurations_of_the_page_import_no_torch():
    for name, text in files().items():
        assert not name.endswith("config.py") or not re.search(r"^(import|from) (torch|launch)", text, re.MULTILINE), name


def test_training_lowers_the_losses_of_both(work):
    for part in ("block-vq", "infill"):
        lines = [json.loads(line) for line in (work / "MODEL" / "training" / part / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["loss"] < 0.7 * lines[0]["loss"], part


def test_the_codec_encodes_and_decodes_in_pieces_as_the_whole(work):
    codec = ModelFolder.from_pretrained(work / "MODEL").codec()
    audio = torch.from_numpy(read(work / "song.wav")[0])[None, :, :3000]
    whole = codec.encode(audio, ["block"])["block"]
    pieces = torch.cat([each["block"] for each in codec.encoder_stream(audio[0].split(37, dim=1), ["block"])])
    assert torch.equal(pieces, whole[0]) and whole.shape == (1, 3000 // 32)
    decoded = codec.decode({"block": whole}, "block")
    assert torch.equal(torch.cat(list(codec.decode_blocks(whole[0].split(5), "block")), dim=1), decoded[0])
    assert (decoded - audio[..., : decoded.shape[-1]]).square().mean() < 0.5 * audio.square().mean()


def test_the_sizes_of_the_page_are_those_of_the_models(work):
    model = ModelFolder.from_pretrained(work / "MODEL")
    for made, counted in (
        (model.codec(), model.info.codecs[0].config.parameter_count("block")),
        (model.prior("infill"), model.info.priors["infill"].config.parameters().all),
    ):
        assert sum(tensor.numel() for tensor in made.state_dict().values()) == counted


def test_a_sampled_song_is_whole_and_a_replay_gives_the_same_codes(work):
    request = json.loads((work / "RUN" / "run.json").read_text())
    assert request["params"]["0"]["repetition_penalty"] == 1.0 and request["priors"] == {"0": "infill"}
    assert len(codes(work / "RUN")) == 4 * RATE // 32 and len(np.unique(codes(work / "RUN"))) > 1
    assert np.array_equal(codes(work / "AGAIN"), codes(work / "RUN"))


def test_a_continuation_begins_with_the_codes_of_its_prompt(work):
    prompt = torch.from_numpy(read(work / "song.wav")[0])[None, :, :RATE]
    encoded = ModelFolder.from_pretrained(work / "MODEL").codec().encode(prompt, ["block"])["block"][0]
    continued = codes(work / "CONTINUED")
    assert np.array_equal(continued[: RATE // 32], encoded.numpy()) and len(continued) == 3 * RATE // 32


def test_an_edit_changes_the_region_and_nothing_else(work):
    old, new = read(work / "song.wav")[0], read(work / "edited.wav")[0]
    assert np.array_equal(old[:, :RATE], new[:, :RATE]) and np.array_equal(old[:, 2 * RATE :], new[:, 2 * RATE :])
    assert not np.array_equal(old[:, RATE : 2 * RATE], new[:, RATE : 2 * RATE])


@pytest.mark.parametrize("updates", [pytest.param(20, marks=pytest.mark.long), 90])  # in the first window and in the second
def test_a_run_interrupted_in_a_window_resumes_from_its_state_to_the_same_codes(updates, work, monkeypatch):
    from infill_prior.prior import InfillPrior

    line = next(line for line in COMMANDS if "sample" in line).replace("RUN", f"STOPPED_{updates}")
    plain, count, sampled = InfillPrior.sample, 0, []

    def sample(self, state):
        nonlocal count
        sampled.append(state.done)
        for update in plain(self, state):
            yield update
            if (count := count + 1) == updates:
                raise KeyboardInterrupt

    for module, name, value in (
        (sampler, "EVERY", 0.0), (window_checkpoint, "EVERY", 0.0), (window_checkpoint, "RATE", float("inf")),
        (InfillPrior, "sample", sample),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    assert jukebox(line) == 130
    assert len(codes(work / f"STOPPED_{updates}")) < len(codes(work / "RUN"))
    sampled.clear()
    assert jukebox(f"jukebox resume STOPPED_{updates}") == 0
    assert sampled[0] > 0  # the window goes on from its saved state
    assert np.array_equal(codes(work / f"STOPPED_{updates}"), codes(work / "RUN"))


# ---- a condition


def test_every_place_that_the_page_names_for_a_condition_is_there():
    section = PAGE.partition("## A condition")[2]
    paths = [path for top in ("data_prep", "priors", "jukebox", "launch") for path in (ROOT / top).rglob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE)[1:]:
        for name in re.findall(r"`([^`]+)`", row):
            if name.endswith(".py"):
                assert any(f"/{path.relative_to(ROOT)}".endswith(f"/{name}") for path in paths), name
            else:
                defined = re.search(rf"(class|def) {name}\b|^{name}\b.* = ", source, re.MULTILINE)
                assert defined or (ROOT / name).is_dir(), name


def test_the_embedding_of_the_page_is_zero_where_the_tempo_is_unknown():
    text = next(text for kind, text in FENCES if kind == "python" and "TempoEmbedding" in text)
    names = {"nn": torch.nn}
    exec(re.search(r"^class TempoEmbedding.*?(?=^if)", text, re.DOTALL | re.MULTILINE)[0], names)
    made = names["TempoEmbedding"](1, 6, bias=False)(torch.tensor([0.0, 60.0, 240.0]))
    assert made.shape == (3, 1, 6) and made[0].eq(0).all() and torch.allclose(made[1], -made[2]) and made[1].ne(0).all()
