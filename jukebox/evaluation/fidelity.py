"""Codec errors that the spectral convergence does not show: errors by band, upsampling tones, quiet passages, silence.

The bass has nearly all of the energy of a recording. So a reconstruction without hi-hats, or with additional tones, can have a
small spectral convergence. The figures apply to any codec, one stream at a time. A perfect reconstruction has errors of 0 and a
`comb_level` near 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.evaluation.metrics import band_energy_db, mono
from vqvae.codec import Codec
from vqvae.stft import magnitudes

EDGES = (0.0, 500.0, 2000.0, 5000.0)  # Hz, lower limits of the bands
BANDS = ("below .5 kHz", ".5-2 kHz", "2-5 kHz", "above 5 kHz")
GAINS = (0, -20, -40)  # dB
GAIN_SECONDS = 5.0  # decoded at each gain, from the middle of a piece
FIDELITY = ("comb_db", "comb_true_db", *(f"snr_db {gain}" for gain in GAINS), "silence_db", "above_2khz_db",
            *(f"energy_db {band}" for band in BANDS), *(f"error {band}" for band in BANDS))  # fmt: skip


def band_figures(
    true: Float[Tensor, "b *c t"], made: Float[Tensor, "b *c t"], sample_rate: int, edges: Sequence[float] = EDGES
) -> dict[str, list[float]]:
    """Return the energy in dB relative to the original, and the relative error, of each band. Bands begin at `edges` (Hz).

    The error is the norm of the difference of magnitudes over the norm of the original's magnitudes. The last band ends at half
    the sample rate.
    """
    ends = (*edges, sample_rate / 2 + 1)
    m_x, m_y = (magnitudes(mono(each), 2048, 512, pad=True) for each in (true, made))  # (B, F, S)
    hz, errors = torch.linspace(0, sample_rate / 2, m_x.shape[-2]), []
    for low, high in itertools.pairwise(ends):
        band = (hz >= low) & (hz < high)
        errors.append(((m_x - m_y)[:, band].norm() / m_x[:, band].norm().clamp(min=1e-6)).item())
    return {"energy_db": band_energy_db(true, made, sample_rate, ends).mean(0).tolist(), "error": errors}


def comb_level(audio: Float[Tensor, "*c t"], sample_rate: int, hop: int) -> float:
    """Mean level of the spectrum at multiples of the frame rate above neighbouring bins, in dB: upsampling tones of a codec.

    The frame rate is `sample_rate` / `hop`. The power of the bin at each multiple is divided by the mean power of neighbouring
    bins. Neighbours are within a quarter of the distance to the next multiple, and within 40 Hz, but outside the main lobe of
    the window. Music has tones at these multiples by chance, so compare with the original. The level is 0 if no multiple is
    below half the sample rate.
    """
    n_fft = max(2**14, 2 ** (hop.bit_length() + 4))
    power = magnitudes(audio.reshape(-1, audio.shape[-1]).mean(0), n_fft, n_fft // 4, pad=True).square().mean(-1)  # (F,)
    per_line = n_fft / hop  # bins
    reach, levels = int(min(per_line / 4, 40 * n_fft / sample_rate)), []
    for line in range(1, int(hop / 2 * 0.98) + 1):
        at = round(line * per_line)
        sides = torch.cat([power[at - reach : at - 2], power[at + 3 : at + reach + 1]])
        levels.append(10 * (power[at] / sides.mean().clamp(min=1e-20)).clamp(min=1e-9).log10())
    return torch.stack(levels).mean().item() if levels else 0.0


def snr_db(true: Tensor, made: Tensor) -> float:
    """Energy of the original over the energy of the error, in dB. Energies below -100 dBFS count as -100 dBFS."""
    signal, error = (each.float().square().mean().clamp(min=1e-10) for each in (true, made - true))
    return (10 * (signal / error).log10()).item()


def level_db(audio: Tensor) -> float:
    """RMS level of audio in dBFS; -100 is silence."""
    return (10 * audio.float().square().mean().clamp(min=1e-10).log10()).item()


def reconstructed(codec: Codec, stream: str, audio: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
    return codec.decode_long(codec.encode_long(audio, [stream])[stream], stream, audio.shape[-1])


def gain_figures(codec: Codec, stream: str, audio: Float[Tensor, "b c t"], gains: Sequence[float] = GAINS) -> dict[str, float]:
    """Apply each gain (dB) to `audio`, reconstruct it, and return the SNR in dB by gain."""
    softer = {f"{gain:g}": audio * 10 ** (gain / 20) for gain in gains}
    return {gain: snr_db(each, reconstructed(codec, stream, each)) for gain, each in softer.items()}


def silence_level(codec: Codec, stream: str, seconds: float = 2.0) -> float:
    """Level in dBFS of the reconstruction of `seconds` of silence."""
    samples = int(seconds * codec.spec.sample_rate) // codec.spec.unit * codec.spec.unit
    return level_db(reconstructed(codec, stream, torch.zeros(1, codec.spec.channels, samples)))


def fidelity_figures(codec: Codec, stream: str, true: Float[Tensor, "1 c t"], made: Float[Tensor, "1 c t"]) -> dict[str, float]:
    """Compute all figures of one piece and its reconstruction from a stream.

    The names are those of FIDELITY without `silence_db`, which `silence_level` computes once for a stream.
    """
    rate, unit, length = codec.spec.sample_rate, codec.spec.unit, true.shape[-1]
    bands, part = band_figures(true, made, rate), min(length, max(unit, int(GAIN_SECONDS * rate) // unit * unit))
    first = (length - part) // 2 // unit * unit
    hop, middle = codec.spec.stream(stream).hop, true[..., first : first + part]
    return {
        "comb_db": comb_level(made[0], rate, hop), "comb_true_db": comb_level(true[0], rate, hop),
        **{f"snr_db {gain}": value for gain, value in gain_figures(codec, stream, middle).items()},
        "above_2khz_db": band_energy_db(true, made, rate, (EDGES[2], rate / 2)).item(),
        **{f"energy_db {band}": value for band, value in zip(BANDS, bands["energy_db"], strict=True)},
        **{f"error {band}": value for band, value in zip(BANDS, bands["error"], strict=True)},
    }  # fmt: skip
