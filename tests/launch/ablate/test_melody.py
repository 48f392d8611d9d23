"""Figures of latent diffusion beside their controls, on windows and samplers whose figures are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox.evaluation.held_out import HeldOut
from launch.ablate import melody
from priors.diffusion.config import DiffusionConfig, DiffusionParams
from priors.diffusion.model import DiffusionPrior

CONFIG = DiffusionConfig(
    "latent", 3, 64, 22050, "tokens", 4, 8, window=32, segment=8, width=16, layers=2, heads=2, angle_width=8
)


def prior() -> DiffusionPrior:
    torch.manual_seed(0)
    made = DiffusionPrior(CONFIG).eval()
    made.fit(0.3 * torch.randn(8, 32, 3))
    return made


def held(songs: int = 3, frames: int = 200) -> HeldOut:
    rng = np.random.default_rng(0)
    codes = [
        {"latent": 0.3 * rng.standard_normal((frames, 3)).astype(np.float32), "tokens": rng.integers(8, size=(frames // 4, 1))}
        for _ in range(songs)
    ]
    return HeldOut([], [], codes)


def test_windows_are_spread_over_the_songs_and_have_the_tokens_of_their_time():
    songs = held()
    found = melody.windows_of(songs, prior(), 32, 6)
    assert found.latents.shape == (6, 32, 3) and found.tokens.shape == (6, 8, 1)
    assert np.array_equal(found.latents[2].numpy(), songs.codes[1]["latent"][:32]), (
        "the third of six is the first of the second song"
    )
    assert np.array_equal(found.tokens[2].numpy(), songs.codes[1]["tokens"][:8])
    with pytest.raises(UserError, match="longer songs"):
        melody.windows_of(songs, prior(), 400, 6)


def test_a_continuation_keeps_what_it_has_bit_for_bit_and_goes_on_by_chunks(monkeypatch):
    model, tokens, given = prior(), torch.randint(8, (2, 16, 1)), []
    plain = melody.sampled

    def watched(model, tokens, params, known=None, start=0):
        given.append((known, start))
        return plain(model, tokens, params, known, start)

    monkeypatch.setattr(melody, "sampled", watched)
    made = melody.continued(model, tokens, DiffusionParams(2))
    assert made.shape == (2, 64, 3) and [start for _, start in given] == [0, 8, 16, 24, 32]
    for known, start in given[1:]:
        assert torch.equal(known, made[:, start : start + 24])


def test_jumps_between_chunks_are_as_those_inside_unless_there_are_steps():
    walk = torch.randn(4, 64, 3).cumsum(1)
    assert melody.jump_ratio(walk, 8) == pytest.approx(1, abs=0.25)
    assert melody.jump_ratio(walk + 5 * torch.arange(64)[:, None].div(8, rounding_mode="floor"), 8) > 2


def test_a_sampler_that_follows_its_tokens_is_always_nearest_and_that_of_other_tokens_never(monkeypatch):
    windows = melody.HeldOutWindows(torch.randn(5, 32, 3), torch.arange(5)[:, None, None].expand(-1, 8, 1))
    monkeypatch.setattr(melody, "mels", lambda codec, latents: latents.flatten(1))
    monkeypatch.setattr(melody, "sampled", lambda prior, tokens, params: windows.latents[tokens[:, 0, 0]] + 0.1)
    found = melody.following_figures(prior(), None, windows)  # type: ignore[arg-type]
    assert [found[name] for name in ("own", "other", "guided_own", "guided_other", "chance")] == [1, 0, 1, 0, 0.2]
    assert found["own_mel"] == pytest.approx(0.1, abs=1e-5) and found["other_mel"] > 0.5


def test_samples_of_the_true_law_have_no_distance_and_a_deviation_of_1(monkeypatch):
    law = lambda seed: 0.3 * torch.randn(256, 32, 3, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    windows = melody.HeldOutWindows(law(0), torch.zeros(256, 8, 1, dtype=torch.long))
    monkeypatch.setattr(melody, "sampled", lambda prior, tokens, params: law(1) * (0.3 if params.schedule == "uniform" else 1))
    found = melody.schedule_figures(prior(), windows)
    assert found["deviation"]["linear_5"] == pytest.approx(1, abs=0.05) and found["deviation"]["uniform_5"] == pytest.approx(
        0.3, abs=0.04
    )
    assert found["schedule"]["linear_5"] < 0.1 * found["schedule"]["uniform_5"] and found["schedule"]["ratio_5"] < 0.1
    assert found["schedule"]["five_to_twenty"] == pytest.approx(1)


def test_the_reconstruction_of_a_perfect_codec_has_no_distance_and_that_of_another_song_has(monkeypatch):
    waves = [0.3 * torch.sin(torch.arange(22050.0) * step)[None] for step in (0.05, 0.2)]

    class Perfect:
        spec = SimpleNamespace(unit=1, sample_rate=22050)

        def encode_long(self, audio: torch.Tensor, streams: Any) -> dict[str, torch.Tensor]:
            return {"latent": audio.mT}

        def decode_long(self, latents: torch.Tensor, stream: str) -> torch.Tensor:
            return latents.mT

    found = melody.codec_figures(Perfect(), HeldOut([], waves, []))  # type: ignore[arg-type]
    assert found["ratio"] == 0 and found["other_ratio"] > 0.3 and found["largest"] == pytest.approx(0.3, abs=1e-3)


def test_figures_of_a_continuation_of_an_untrained_prior_are_finite():
    found = melody.continuation_figures(prior(), held(frames=120))
    assert set(found) == {"first", "last", "ratio", "jumps", "true_jumps"} and all(np.isfinite(each) for each in found.values())
