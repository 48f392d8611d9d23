"""The gain per bin of the spectral codec, and the effective dimension of latents."""

from dataclasses import replace

import pytest
import torch

from jukebox.model.folder import ModelFolder, build_codec
from jukebox.model.presets import find
from vqvae.codec import effective_dimension
from vqvae.spectral.config import TOKENS, SpectralConfig
from vqvae.spectral.model import SpectralCodec

CONFIG = replace(find("test_spectral").codec, gain=True, floor=0.03)


def codec_of(config: SpectralConfig, quieter: float = 0.0) -> SpectralCodec:
    """An untrained codec whose features fit noise, and whose decoder is `quieter` by so many nepers."""
    torch.manual_seed(0)
    codec = SpectralCodec(config).eval()
    codec.initialise(clips(0), torch.Generator())
    with torch.no_grad():
        codec.decoder.magnitude.weight.zero_()
        codec.decoder.magnitude.bias.copy_(-quieter / codec.features.std.flatten())
    return codec


def clips(seed: int) -> torch.Tensor:
    return torch.randn(8, 1, 4096, generator=torch.Generator().manual_seed(seed)) * 0.2


def band_error(codec: SpectralCodec) -> torch.Tensor:
    """dB of energy that reconstructions of other clips have more, per bin."""
    made = codec.decode(codec.encode(clips(1), [TOKENS]), TOKENS)
    sums = [codec.spectra(x).abs().square().sum((0, 1, 2)) for x in (clips(1), made)]
    return 10 * (sums[1] / sums[0]).log10()


def test_a_fitted_gain_restores_the_energy_of_every_bin_on_other_clips():
    codec = codec_of(CONFIG, quieter=0.7)
    before = band_error(codec)
    codec.fit_gain([clips(2), clips(3)])
    after = band_error(codec)
    assert before.mean() < -5 and after.abs().mean() < 0.7 and after.abs().max() < 0.3 * before.abs().max(), (before, after)


def test_the_gain_is_of_the_decoder_so_codes_and_their_hash_stay():
    codec = codec_of(CONFIG, quieter=0.7)
    codes, name = codec.encode(clips(1), [TOKENS])[TOKENS], codec.codes_hash(TOKENS)
    codec.fit_gain([clips(2)])
    assert codec.decoder.gain is not None and not torch.equal(codec.decoder.gain, torch.ones_like(codec.decoder.gain))
    assert torch.equal(codec.encode(clips(1), [TOKENS])[TOKENS], codes) and codec.codes_hash(TOKENS) == name


def test_a_model_from_before_the_gain_loads_without_one_and_decodes_as_before(tmp_path):
    config = replace(CONFIG, gain=False)
    old = {name: value for name, value in config.to_json().items() if name != "gain"}
    assert SpectralConfig.from_json(old) == config
    codec = codec_of(config)
    assert not any("gain" in name for name in codec.state_dict())
    model = ModelFolder.create(tmp_path, config)
    model.save_codec(codec)
    codes = codec.encode(clips(1), [TOKENS])[TOKENS]
    audio = codec.decode({TOKENS: codes}, TOKENS)
    codec.fit_gain([clips(2)])  # nothing to fit
    assert torch.equal(audio, model.codec([TOKENS]).decode({TOKENS: codes}, TOKENS))
    assert build_codec(config).decoder.gain is None  # type: ignore[union-attr]


@pytest.mark.parametrize("used", [1, 3, 8])
def test_the_effective_dimension_of_latents_is_that_of_the_space_they_fill(used):
    plane = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0][:used]
    latents = torch.randn(4, 2000, used, generator=torch.Generator().manual_seed(2)) @ plane + 5
    assert abs(effective_dimension(latents).item() - used) < 0.05 * used
