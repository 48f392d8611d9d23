"""Figures of fidelity, on signals of known comb, gain and noise."""

from __future__ import annotations

import pytest
import torch

from jukebox.evaluation import fidelity
from vqvae.streams import CodecSpec, Stream

RATE, HOP = 22050, 32
NOISE = torch.randn(1, 10 * RATE, generator=torch.Generator().manual_seed(0)) * 0.1


class Rounding:
    """As much of a codec as the figures need: its codes are the samples rounded to `step`, and it adds `offset`."""

    spec = CodecSpec(RATE, 1, (Stream("vq.0", 1, bins=2),))

    def __init__(self, step: float, offset: float = 0.0) -> None:
        self.step, self.offset = step, offset

    def encode_long(self, audio, streams):
        return {stream: (audio / self.step).round() for stream in streams}

    def decode_long(self, codes, stream, samples=None):
        return codes * self.step + self.offset


def comb(amplitude: float, hop: int = HOP) -> torch.Tensor:
    """A sample of that height every `hop` samples: tones at all multiples of the code rate."""
    return torch.where(torch.arange(NOISE.shape[1]) % hop == 0, amplitude, 0.0)


def test_noise_has_no_comb_and_a_comb_is_found_at_its_level():
    level = [fidelity.comb_level(NOISE + comb(a), RATE, HOP) for a in (0.0, 0.03, 0.3)]
    assert abs(level[0]) < 1 < 2 < level[1]
    # Of a line: power (a / hop)^2 with a window whose noise bandwidth is 1.5 bins; noise: variance / n_fft in each bin.
    expected = 20 * torch.tensor(0.3 / HOP / 0.1).log10() + 10 * torch.tensor(2**14 / 1.5).log10()
    assert level[2] == pytest.approx(expected.item(), abs=0.5)


def test_a_comb_of_another_rate_is_not_found():
    assert abs(fidelity.comb_level(NOISE + comb(0.3, 37), RATE, HOP)) < 1.5
    assert fidelity.comb_level(NOISE, RATE, 1) == 0  # a code per sample has no multiples to stand out


def test_bands_tell_where_energy_is_lost():
    spectrum = torch.fft.rfft(NOISE)
    spectrum[:, torch.linspace(0, RATE / 2, spectrum.shape[1]) > 5000] *= 0.5
    made = fidelity.band_figures(NOISE, torch.fft.irfft(spectrum, NOISE.shape[1]), RATE)
    assert made["energy_db"] == pytest.approx([0, 0, 0, -6.02], abs=0.1)
    assert made["error"] == pytest.approx([0, 0, 0, 0.5], abs=0.02)


def test_the_snr_of_noise_of_a_known_level():
    other = torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(1)) * 0.01
    assert fidelity.snr_db(NOISE, NOISE + other) == pytest.approx(20, abs=0.1)


def test_a_quantiser_of_fixed_step_loses_a_db_of_snr_for_each_db_of_gain():
    found = fidelity.gain_figures(Rounding(0.001), "vq.0", NOISE[None])  # type: ignore[arg-type]
    assert list(found) == ["0", "-20", "-40"]
    assert found["0"] - found["-20"] == pytest.approx(20, abs=0.5) and found["0"] - found["-40"] == pytest.approx(40, abs=1)


def test_the_level_of_decoded_silence():
    assert fidelity.silence_level(Rounding(0.001, 0.01), "vq.0") == pytest.approx(-40, abs=0.01)  # type: ignore[arg-type]
    assert fidelity.silence_level(Rounding(0.001), "vq.0") == -100  # type: ignore[arg-type]
