"""The numbers of metrics.py on sounds and codes whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jukebox.evaluation import metrics as M

SAMPLE_RATE = 22050


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(int(seconds * SAMPLE_RATE), generator=generator(seed)) * 0.1


def band(seed: int, seconds: float = 6.0) -> torch.Tensor:
    """Chords of eight partials on every fourth beat, a kick and a snare between them; 2 beats a second."""
    rng, t = generator(seed), torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    root = 45 + int(torch.randint(0, 12, (), generator=rng))
    x = torch.zeros_like(t)
    for beat in range(int(2 * seconds)):
        start = beat * SAMPLE_RATE // 2
        if beat % 4 == 0:
            degree = (0, 5, 7, 9)[int(torch.randint(0, 4, (), generator=rng))]
            s = t[: min(len(t) - start, 2 * SAMPLE_RATE)]
            for hz in (440 * 2 ** ((root + degree + k - 69) / 12) for k in (0, 4, 7, 12)):
                partials = torch.stack([torch.sin(2 * math.pi * hz * h * s) / h for h in range(1, 9)])
                x[start : start + len(s)] += 0.05 * partials.sum(0) * (-0.7 * s).exp()
        s = t[: min(len(t) - start, SAMPLE_RATE // 8)]
        kick, snare = 0.5 * torch.sin(2 * math.pi * 60 * s), 0.25 * torch.randn(len(s), generator=rng)
        x[start : start + len(s)] += (snare if beat % 2 else kick) * (-30 * s).exp()
    return x / x.abs().max() * 0.7


def vocoded(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Noise with the envelope of x in 512-sample frames and +-100 Hz bands: partials dissolved, all else kept."""
    window = torch.hann_window(512)
    envelope = torch.stft(x, 512, 128, window=window, return_complex=True).abs()
    envelope = torch.nn.functional.avg_pool2d(envelope[None], (5, 1), 1, (2, 0))[0]
    hiss = torch.stft(torch.randn(len(x), generator=generator(seed)), 512, 128, window=window, return_complex=True)
    y = torch.istft(envelope * hiss, 512, 128, window=window, length=len(x))
    return y * (x.square().mean() / y.square().mean()).sqrt()


def smeared(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The spectrum of the whole piece with random phases: all tones at once, no events."""
    spectrum = torch.fft.rfft(x)
    turn = 2j * math.pi * torch.rand(len(spectrum), generator=generator(seed))
    return torch.fft.irfft(spectrum.abs() * turn.exp(), n=len(x))


def words_in_turn(steps: int = 60, words: int = 12, lyric_tokens: int = 5) -> torch.Tensor:
    """Windows (8 steps characters) with words in sequence, five steps each, after ten of silence."""
    word_of_letter, word_of_step = torch.arange(words * lyric_tokens) // lyric_tokens, (torch.arange(steps) - 10) // 5
    return (word_of_step[:, None] == word_of_letter).expand(8, -1, -1)


def test_attention_to_what_is_sung_scores_one_and_attention_elsewhere_nothing():
    sung = words_in_turn()
    right = torch.rand(sung.shape, generator=generator(0)) * sung
    assert M.alignment_score(torch.stack([right, right.roll(20, -1)], 1), sung).tolist() == [[1.0, 0.0]] * 8
    half = torch.where((torch.arange(60) % 10 < 5)[:, None], right, right.roll(20, -1))
    assert M.alignment_score(half[:, None], sung).tolist() == [[0.5]] * 8


def test_attention_at_random_and_to_shuffled_letters_has_the_score_of_chance():
    sung, g = words_in_turn(), generator(1)
    chance = M.alignment_chance(sung, torch.ones(8, 60, dtype=torch.bool))
    assert chance.tolist() == pytest.approx([5 / 60] * 8)
    noise = torch.rand(8, 50, 60, 60, generator=g)
    shuffled = torch.stack([(sung * 1.0)[..., torch.randperm(60, generator=g)] for _ in range(50)], 1)
    for weights in (noise, shuffled):
        assert M.alignment_score(weights, sung).mean().item() == pytest.approx(5 / 60, abs=0.02)


def test_padding_is_nothing_to_choose_from_and_a_window_without_song_has_no_score():
    sung = words_in_turn()
    lyric_tokens = torch.arange(60) < 50
    assert M.alignment_chance(sung & lyric_tokens, lyric_tokens.expand(8, -1)).tolist() == pytest.approx([0.1] * 8)
    silent = torch.zeros_like(sung)
    assert M.alignment_score(torch.rand(8, 2, 60, 60), silent).isnan().all()


def test_codebook_use_counts_codes_and_bits():
    assert M.codebook_use(torch.arange(8).repeat(5), 16) == (0.5, pytest.approx(3.0))
    assert M.codebook_use(torch.zeros(3, 4, dtype=torch.long), 16) == (1 / 16, 0.0)


def test_unigram_bits_are_the_entropy_of_the_same_and_more_for_another_distribution():
    rng = np.random.default_rng(0)
    train, test = (torch.from_numpy(rng.choice(4, p=[0.5, 0.25, 0.125, 0.125], size=20000)) for _ in range(2))
    assert M.unigram_bits(test, train, 4) == pytest.approx(1.75, abs=0.03)
    assert M.unigram_bits(3 - test, train, 4) > 2.3
    assert M.unigram_bits(torch.tensor([3]), torch.tensor([0]), 4) == pytest.approx(math.log2(5))  # add-one smoothing


def test_mean_and_error_are_those_of_the_textbook():
    assert M.mean_and_error([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3) / 2))
    assert math.isnan(M.mean_and_error([1.0])[1])


def test_paired_sees_a_small_gain_under_large_spread_and_none_where_there_is_none():
    rng = np.random.default_rng(1)
    true = rng.normal(5, 2, 200)
    gain, none = M.paired(true, true + rng.normal(0.05, 0.1, 200)), M.paired(true, true + rng.normal(0, 0.1, 200))
    assert gain.mean == pytest.approx(0.05, abs=0.03) and gain.z > 3 and gain.n == 200
    assert abs(none.z) < 3
    assert math.isnan(M.paired([1.0], [2.0]).z)


def test_windows_of_one_song_do_not_count_as_independent():
    rng = np.random.default_rng(2)
    of_song = np.repeat(rng.normal(0, 1, 4), 50)  # each song shifts all of its windows alike
    true, songs = np.zeros(200), np.repeat(["a", "b", "c", "d"], 50).tolist()
    by_song = M.paired_by_song(true.tolist(), of_song.tolist(), songs)
    assert by_song.n == 4 and by_song.mean == pytest.approx(of_song.mean())
    assert by_song.se > 5 * M.paired(true, of_song).se


def test_spectral_convergence_is_relative_and_zero_only_for_the_same_magnitudes():
    x = torch.stack([band(1), noise(6.0)])
    assert M.spectral_convergence(x, x).max() == 0
    assert torch.allclose(M.spectral_convergence(x, -0.9 * x), torch.tensor([0.1, 0.1]), atol=1e-5)  # blind to the sign
    assert M.spectral_convergence(x, x.flip(0)).min() > 0.5
    assert torch.allclose(M.spectral_convergence(x[:, None].repeat(1, 2, 1), 0 * x), torch.ones(2))  # stereo, silence
    assert M.spectral_convergence(0 * x, x).max() == 0  # a silent original counts as nothing
    assert M.to_db(M.spectral_convergence(x, 0.9 * x)) == pytest.approx(-20, abs=1e-3)


def test_multiscale_distance_of_twice_the_amplitude_is_six_db_and_what_is_inaudible_does_not_count():
    x = noise(1.0)
    assert M.multiscale_distance(x, x) == 0
    assert M.multiscale_distance(50 * x, 100 * x) == pytest.approx(6.02, abs=0.05)
    assert M.multiscale_distance(1e-4 * x, 2e-4 * x) == 0


def test_multiscale_distance_finds_a_smeared_stroke_and_a_shifted_tone():
    t = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    stroke = torch.zeros(SAMPLE_RATE)
    stroke[8000] = 1
    smeared = torch.zeros(SAMPLE_RATE)
    smeared[7900:8100] = noise(1.0)[:200]
    assert M.multiscale_distance(stroke, smeared) > 0.1
    low, high = (0.5 * torch.sin(2 * math.pi * hz * t) for hz in (440, 470))
    assert M.multiscale_distance(low, high) > 0.1


def test_band_energy_shows_which_band_was_lost():
    x = noise(2.0)[None]
    spectrum = torch.fft.rfft(x)
    hz = torch.linspace(0, SAMPLE_RATE / 2, spectrum.shape[-1])
    spectrum = spectrum * torch.where(hz > 5000, 0.1, 1.0)
    lost = M.band_energy_db(x, torch.fft.irfft(spectrum, n=x.shape[-1]), SAMPLE_RATE)
    assert torch.allclose(lost, torch.tensor([[0.0, 0.0, 0.0, -20.0]]), atol=0.2)


def test_statistics_of_a_sine_are_known():
    t = torch.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    sound = M.sound_statistics(0.5 * torch.sin(2 * math.pi * 440 * t), SAMPLE_RATE)
    assert sound.seconds == 3 and sound.peak == pytest.approx(0.5, abs=1e-3) and sound.clipped == 0
    assert sound.loudness_db == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)
    assert sound.peakiness > 0.98 and sound.flatness < 1e-3 and sound.onsets < 0.5 and sound.chroma_change < 0.01
    assert M.sound_statistics((5 * torch.sin(2 * math.pi * 440 * t)).clamp(-1, 1), SAMPLE_RATE).clipped > 0.5


def test_white_noise_is_flat_and_silence_is_silent():
    white, silence = M.sound_statistics(noise(3.0), SAMPLE_RATE), M.sound_statistics(torch.zeros(2, 30000), SAMPLE_RATE)
    assert white.flatness == pytest.approx(0.56, abs=0.02) and white.peakiness < 0.05 and white.onsets < 0.5
    assert silence.loudness_db == -100 and silence.onsets == 0 and silence.peakiness == 0
    assert all(math.isfinite(v) for v in silence)


def test_onsets_are_counted():
    clicks = noise(6.0) * 0.1
    clicks[SAMPLE_RATE // 8 :: SAMPLE_RATE // 4] = 0.5
    assert M.sound_statistics(clicks, SAMPLE_RATE).onsets == pytest.approx(4, abs=0.3)
    assert M.sound_statistics(band(1), SAMPLE_RATE).onsets == pytest.approx(2, abs=0.5)
    assert M.sound_statistics(smeared(band(1)), SAMPLE_RATE).onsets < 0.7


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_peakiness_separates_music_from_noise_of_the_same_envelope_where_flatness_does_not(seed):
    real, fake = (M.sound_statistics(x, SAMPLE_RATE) for x in (band(seed), vocoded(band(seed))))
    assert real.peakiness > 0.7 and fake.peakiness < 0.15
    assert fake.flatness < 2 * real.flatness  # this is why peakiness exists
    assert fake.loudness_db == pytest.approx(real.loudness_db, abs=0.01)


def test_chroma_change_tells_a_drone_from_a_melody():
    t = torch.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    melody = torch.sin(2 * math.pi * 220 * 2 ** ((t.floor() * 5 % 12) / 12) * t) * 0.3
    assert M.sound_statistics(melody, SAMPLE_RATE).chroma_change > 0.2
    assert M.sound_statistics(torch.sin(2 * math.pi * 220 * t), SAMPLE_RATE).chroma_change < 0.05


def test_features_do_not_depend_on_the_sample_rate_and_follow_the_clock():
    x = band(1)
    features = M.sound_features(x, SAMPLE_RATE)
    assert features.shape == (23, 64) and features.isfinite().all()
    twice = torch.fft.irfft(torch.nn.functional.pad(torch.fft.rfft(x), (0, len(x) // 2)), n=2 * len(x)) * 2
    other = M.sound_features(twice, 2 * SAMPLE_RATE)
    assert M.frechet_distance(features, other[: len(features)]) < 2
    assert M.sound_features(torch.zeros(100), SAMPLE_RATE).shape == (1, 64)  # shorter than a patch: one patch


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rng = generator(0)
    a = torch.randn(200000, 3, generator=rng)
    b = torch.randn(200000, 3, generator=rng) * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([0.0, 0.0, 2.0])
    assert M.frechet_distance(a, b) == pytest.approx(4 + 1 + 4, rel=0.03)  # |mu|^2 + sum (s1 - s2)^2
    assert M.frechet_distance(a, a) < 1e-9
    with pytest.raises(ValueError, match="longer audio"):
        M.frechet_distance(a, b[:1])


def test_frechet_distance_is_small_between_halves_of_a_corpus_and_large_to_its_imitations():
    def features(sounds):
        return torch.cat([M.sound_features(x, SAMPLE_RATE) for x in sounds])

    first, second = ([band(s) for s in seeds] for seeds in (range(8), range(50, 58)))
    reference = features(first)
    halves = M.frechet_distance(reference, features(second))
    hiss = [noise(6.0, seed=s) for s in range(8)]
    for control in (map(vocoded, second), map(smeared, second), hiss, [0 * x for x in second]):
        assert M.frechet_distance(reference, features(control)) > 10 * halves


def test_table_aligns_its_columns():
    text = M.table([("level", "name", "bits"), (0, "a", 1.5), (12, "bcd", None)])
    assert text.split("\n") == ["level  name   bits", "-----  ----  -----", "    0  a     1.500", "   12  bcd       -"]
    assert M.table([("alone",)]) == "alone\n-----"


def test_seams_hear_a_jump_of_phase_and_a_click_and_nothing_in_a_smooth_join():
    t = torch.arange(4 * 22050) / 22050
    tune = 0.3 * torch.sin(2 * torch.pi * 220 * t) + 0.01 * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    joins = [0.5, 1.2, 1.9, 2.6, 3.3]
    assert 0.8 < M.seams(tune, 22050, joins).ratio < 1.2
    jump, click = tune.clone(), tune.clone()
    for i, second in enumerate(joins):
        jump[int(second * 22050) :] = 0.3 * torch.sin(2 * torch.pi * 220 * t + 2.0 * (i + 1))[int(second * 22050) :]
        click[int(second * 22050)] += 0.5
    for broken in (jump, click):
        found = M.seams(broken[None], 22050, joins)
        assert found.ratio > 1.5 and found.joins > found.inside
        elsewhere = M.seams(broken, 22050, [second + 0.3 for second in joins])
        assert elsewhere.ratio < 1.1
