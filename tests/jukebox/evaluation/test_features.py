"""Hidden states over a recording: every step once, as the prior itself computes them, pooled or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read, write_wav
from data_prep.errors import UserError
from jukebox.evaluation.features import feature_windows, hidden_states
from jukebox.song import PreparedSong, Song, window_conditions
from launch.cli import main


@pytest.fixture(scope="module")
def song(tiny_model, tmp_path_factory):
    """A second of noise: some windows, the last of them unfinished."""
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    wave = np.random.default_rng(0).normal(0, 0.2, (tiny_model.spec.channels, tiny_model.sample_rate))
    write_wav(path, wave.astype(np.float32), tiny_model.sample_rate)
    return path


@pytest.mark.parametrize("total", [1, 5, 8, 9, 16, 31])
def test_every_step_is_given_once(total):
    given = []
    for start, first in feature_windows(total, 8):
        assert 0 <= start <= first and (start + 8 <= total or total < 8)
        given += range(first, min(start + 8, total))
    assert given == list(range(total))


@pytest.mark.parametrize("level", [2, 1])
def test_states_are_those_of_the_prior_and_the_last_layer_gives_its_logits(tiny_model, song, level):
    config, (stream, coarser) = tiny_model.info.priors[f"prior_{level}"].config, (f"vq.{level}", f"vq.{level + 1}")
    depth = config.trunk.depth
    found = hidden_states(tiny_model, song, level, depth, pool="none")
    total = tiny_model.sample_rate // tiny_model.hops[-1] * tiny_model.hops[-1] // tiny_model.hops[level]
    assert found.states.shape == (total, config.trunk.width) and len(found.seconds) == total
    assert found.seconds[0] == pytest.approx(tiny_model.hops[level] / tiny_model.sample_rate / 2)
    prior, codec = tiny_model.prior(f"prior_{level}"), tiny_model.codec()
    wave = read(song)[0][:, : total * tiny_model.hops[level]]
    codes = codec.encode(torch.from_numpy(wave)[None], (stream, *prior.spec.reads))
    above = codes[coarser][0, : config.n_ctx // config.above.ratio].numpy() if config.above else None
    seconds = wave.shape[1] / tiny_model.sample_rate
    cond = window_conditions(
        PreparedSong.of(Song(seconds=seconds), tiny_model.labels, tiny_model.vocabulary, tiny_model.sample_rate), config, 0, above
    )  # fmt: skip
    first = codes[stream][:, : config.n_ctx]
    with torch.no_grad():
        steps = prior.encode_conditions(cond, 1).steps
        logits = prior.head(torch.from_numpy(found.states[: config.n_ctx])[None], steps)
        assert torch.allclose(logits, prior(first, cond), atol=1e-4)
    pooled = hidden_states(tiny_model, song, level, depth).states
    assert pooled.shape == (1, config.trunk.width) and np.allclose(pooled[0], found.states.mean(axis=0), atol=1e-5)
    assert not np.allclose(hidden_states(tiny_model, song, level, 0).states, pooled)


def test_states_of_frames_of_several_codes_are_those_of_the_depth_heads_input(spectral_model, song):
    prior: Any = spectral_model.prior("tokens")
    config, unit = prior.config, spectral_model.spec.unit
    found = hidden_states(spectral_model, song, 1, config.depth, pool="none")
    wave = read(song)[0][:, : 22050 // unit * unit]
    codes = spectral_model.codec(["tokens"]).encode(torch.from_numpy(wave)[None], ["tokens"])["tokens"][:, : config.n_ctx]
    ready = PreparedSong.of(
        Song(seconds=wave.shape[1] / 22050), spectral_model.labels, spectral_model.vocabulary, spectral_model.sample_rate
    )
    conditioning = prior.encode_conditions(window_conditions(ready, config, 0), 1)
    with torch.no_grad():
        states = torch.from_numpy(found.states[: config.n_ctx])[None]
        assert torch.allclose(prior.finish(states, conditioning.steps), prior.hidden(codes, conditioning), atol=1e-4)
    assert found.states.shape == (22050 // unit, config.width)
    assert found.seconds[0] == pytest.approx(unit / 22050 / 2)


def test_a_prior_without_hidden_states_is_one_line(tiny_model, song, monkeypatch):
    other = torch.nn.Module()
    other.kind = "other"  # type: ignore[assignment]
    monkeypatch.setattr(type(tiny_model), "prior", lambda model, name: other)
    with pytest.raises(UserError, match=r"prior_2 of .* \(other\) has no hidden states"):
        hidden_states(tiny_model, song, 2, 1)


def test_the_verb_writes_npz_and_says_what_is_wrong_in_one_line(tiny_model, song, tmp_path, capsys):
    words = ["features", str(song), "--model", str(tiny_model.folder), "--out", str(tmp_path / "f.npz")]
    assert main([*words, "--layer", "1", "--pool", "none"]) == 0
    with np.load(tmp_path / "f.npz") as data:
        assert data["states"].shape[0] == len(data["seconds"]) and data["layer"] == 1 and data["level"] == 2
    assert main([*words, "--layer", "1", "--pool", "none", "--level", "2"]) == 0
    assert main([*words, "--layer", "99"]) == 2 and main([*words, "--layer", "0", "--level", "7"]) == 2
    err = capsys.readouterr().err
    assert err.count("jukebox features:") == 2 and "expected 0 (its inputs) to" in err and "no prior of level 7" in err
