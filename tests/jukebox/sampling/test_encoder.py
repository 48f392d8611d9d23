"""Levels of another codec: what they hold, what begins from them, what survives a kill, and which combinations raise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read
from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.editing.recording import Recording, read_codes
from jukebox.runs import request
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling import encoder, sampler, walk
from jukebox.sampling.layout import Layout
from jukebox.song import Song
from launch.verbs.plan import plan
from tests.jukebox.sampling.kills import Killed, assert_same, cut_off, in_blocks
from tests.runs import sample, settings_of
from vqvae.jukebox.vqvae import VQVAE

SONGS = [Song("ann", ("rock",), "la la la\nli li"), Song("bob")]
LEVELS = ("vq.0", "vq.1", "vq.2", "spectral", "tokens")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


def encoded(model: Jukebox, out: Path, **options: Any) -> Run:
    """Two songs of 103 frames of tokens, encoded into the three levels."""
    return sample(model, SONGS, 1.2, out, **{"seed": 3, "route": "spectral", "levels": (2, 1, 0), **options})


@pytest.fixture(scope="module")
def run(two_codecs, tmp_path_factory) -> Run:
    return encoded(two_codecs, tmp_path_factory.mktemp("encoded") / "run")


def test_levels_of_another_codec_are_the_codes_of_the_decoded_audio(run, two_codecs):
    assert two_codecs.spec.names == LEVELS
    assert run.request["levels"] == [4, 2, 1, 0] and run.sampled_levels == [4] and run.finest == 4
    tokens = torch.from_numpy(run.codes(4).astype(np.int64))
    audio, names = two_codecs.codec(["tokens"]).decode_long(tokens, "tokens"), LEVELS[:3]
    expected = two_codecs.codec(names).encode_long(audio, names)
    for level, name in enumerate(names):
        assert np.array_equal(run.codes(level), expected[name].numpy()) and len(np.unique(run.codes(level))) > 8
        for i in range(2):
            assert read(run.audio_path(level, i))[0].shape == (1, run.total(0) * 8)
    other = two_codecs.codec(names).encode(audio.flip(2), names)  # the control: other audio has other codes
    assert not np.array_equal(run.codes(2), other["vq.2"].numpy())


def test_levels_change_nothing_of_what_is_sampled(run, two_codecs, tmp_path):
    plain = sample(two_codecs, SONGS, 1.2, tmp_path / "plain", seed=3, route="spectral")
    assert plain.request["levels"] == [4] and "encodes" not in plain.request
    assert np.array_equal(plain.codes(4), run.codes(4))
    some = encoded(two_codecs, tmp_path / "some", levels=(4, 1))
    assert some.request["levels"] == [4, 1] and np.array_equal(some.codes(1), run.codes(1))


def test_a_run_cut_while_it_is_encoded_resumes_to_the_same_codes_and_audio(run, two_codecs, tmp_path, monkeypatch):
    in_blocks(monkeypatch, 20)
    monkeypatch.setattr(sampler, "EVERY", 0.0)
    monkeypatch.setattr(encoder, "BLOCK", 16)
    plain, before = VQVAE.encoder_stream, []
    monkeypatch.setattr(VQVAE, "encoder_stream", lambda *given: plain(*given, chunk=2048))  # some pieces of each level
    for cut in (2, 11, 22, 40):
        folder = tmp_path / f"cut{cut}"
        with monkeypatch.context() as patch:
            cut_off(patch, cut)
            with pytest.raises(Killed):
                encoded(two_codecs, folder)
        opened = Run.open(folder)
        before.append({level: opened.count(level, [0]) for level in opened.request["levels"]})
        made = walk.resume(opened)
        assert_same(run, made)
        for path in [*(run.folder / "codes").iterdir(), *(run.folder / "audio").iterdir()]:
            assert path.read_bytes() == (made.folder / path.relative_to(run.folder)).read_bytes()
    assert before[0][4] < run.total(4) and before[-1][4] == run.total(4)
    assert any(0 < counts[level] < run.total(level) for counts in before for level in (2, 1, 0)), before


def test_a_replay_encodes_to_the_same_codes(run, tmp_path, capsys):
    assert_same(run, walk.replay(run.folder, tmp_path / "again"))
    assert f"level 0: the same {run.total(0)} codes" in capsys.readouterr().out


def test_a_branch_keeps_tokens_and_encodes_its_own_audio(run, two_codecs, tmp_path):
    made = walk.branch(run, tmp_path / "branch", RunSettings(), keep_seconds=0.6, seed=7)
    assert made.request["given"] == {"4": 51} and made.request["levels"] == [4, 2, 1, 0]
    assert np.array_equal(made.codes(4, stop=51), run.codes(4, stop=51)) and not np.array_equal(made.codes(4), run.codes(4))
    audio = two_codecs.codec(["tokens"]).decode_long(torch.from_numpy(made.codes(4).astype(np.int64)), "tokens")
    assert np.array_equal(made.codes(2), two_codecs.codec(["vq.2"]).encode(audio, ["vq.2"])["vq.2"].numpy())


def test_finer_levels_are_sampled_below_an_encoded_one(run, tmp_path):
    made = walk.upsample(run, tmp_path / "up", level=2, seed=5)
    assert made.request["route"] == "jukebox" and made.request["levels"] == [2, 1, 0]
    assert np.array_equal(made.codes(2), run.codes(2)) and not np.array_equal(made.codes(1), run.codes(1))
    assert made.count(0) == made.total(0)


def test_an_edit_takes_the_codes_that_a_run_has_and_else_encodes_its_audio(run, two_codecs, tmp_path):
    plain = sample(two_codecs, SONGS, 1.2, tmp_path / "plain", seed=3, route="spectral")
    for each in (run, plain):
        recording = Recording.open(two_codecs.info, each.folder, 2)
        assert recording.sound == each.audio_path(4, 1)
        layout = Layout(recording.info.frames, 22050, 22050, two_codecs.spec.unit)
        tokens, coarse = (read_codes(two_codecs, recording, layout, 10, 40, [name])[name] for name in ("tokens", "vq.2"))
        assert np.array_equal(tokens, run.codes(4, [1], 10, 40)[0])
        same = coarse == run.codes(2, [1], 20, 80)[0]
        assert same.all() if each is run else same.mean() > 0.9  # of the wav, whose samples are rounded


def test_a_plan_counts_the_levels_that_are_encoded(run, two_codecs):
    planned = plan("sample", str(two_codecs.folder), seconds=1.2, route="spectral", levels=(2, 1, 0), device="cpu", threads=1)
    assert [level.level for level in planned.levels] == [4, 2, 1, 0]  # type: ignore[union-attr]
    assert [level.codes > 0 for level in planned.levels] == [True, False, False, False]  # type: ignore[union-attr]


def test_levels_that_cannot_be_are_one_line(two_codecs, tmp_path):
    def asked(model: Jukebox, route: str, *levels: int) -> dict:
        return request.sampled(model.info, SONGS, 1.2, settings_of(model, route=route, levels=levels))

    assert asked(two_codecs, "jukebox", 2, 1, 4)["levels"] == [2, 1, 4]  # the other way round
    for route, levels in (("spectral", (7,)), ("spectral", (3,)), ("jukebox", (2, 0, 4))):
        with pytest.raises(UserError, match="expected level"):
            asked(two_codecs, route, *levels)
    bare = Jukebox.from_pretrained(shutil.copytree(two_codecs.folder, tmp_path / "bare"))
    (bare.folder / "codec.safetensors").unlink()
    with pytest.raises(UserError, match=r"no trained codec for level 2 \(vq.2\).*run `jukebox train vqvae DATA"):
        asked(bare, "spectral", 2, 1)


def test_a_level_that_is_not_of_the_route_cannot_be_kept_in_a_copy(run, tmp_path):
    with pytest.raises(UserError, match=r"level 4 \(tokens\) is not of the route jukebox"):
        walk.upsample(run, tmp_path / "up", settings_of_route("jukebox"), level=4)


def settings_of_route(route: str) -> RunSettings:
    return RunSettings(request.SamplingOptions(route=route))
