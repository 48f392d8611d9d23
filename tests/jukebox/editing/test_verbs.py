"""Edits with a masked prior of random weights: what is kept is kept to the bit, in codes and in sound, and all the rest is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data_prep.align import TimedText
from data_prep.audio import audio
from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.editing import verbs as edit
from jukebox.editing.grid import Layout
from jukebox.editing.inpaint import fill_windows, windows_over
from jukebox.editing.spans import EditOptions
from jukebox.editing.verbs import Prompt
from jukebox.model.folder import build_prior
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from jukebox.sampling import request
from jukebox.sampling.run import Run
from jukebox.song import PreparedSong, Song
from priors.masked import masks
from priors.spec import SamplingParams
from tests.conftest import make_model

RATE, HOP = 22050, 128
FEW = {level: SamplingParams(passes=2) for level in range(3)}
DRAWING = EditOptions(FEW)


def with_masked(folder: Path, hears_words: bool = True) -> Jukebox:
    model = make_model(folder)
    config = find("test").priors["masked"].for_corpus(3, 3)
    if not hears_words:
        config = replace(config, lyrics=None, trunk=replace(config.trunk, order=("full", "full"), time_bias=False))
    torch.manual_seed(1)
    prior = build_prior(config)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_prior("masked", prior)
    return Jukebox.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Jukebox:
    return with_masked(tmp_path_factory.mktemp("masked"))


def write_song(path: Path, rate: int = 44100, channels: int = 2, seconds: float = 4.0, **params) -> Path:
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (len(at), channels))
    tones = [0.4 * np.sin(2 * np.pi * (220 + 60 * c) * at * (1 + 0.1 * at)) for c in range(channels)]
    soundfile.write(path, np.stack(tones, axis=1) + noise, rate, **params)
    return path


def samples(path: Path) -> np.ndarray:
    """(n, c) in float64, which holds every sample of 16, 24 and 32 bits exactly."""
    return soundfile.read(path, dtype="float64", always_2d=True)[0]


# ---- outside, nothing changes


@pytest.mark.parametrize(
    ("name", "rate", "channels", "params"),
    [
        ("song.wav", 44100, 2, {"subtype": "PCM_16"}),
        ("song.wav", 48000, 2, {"subtype": "PCM_24"}),
        ("song.flac", 44100, 2, {"subtype": "PCM_24"}),
        ("song.wav", 22050, 1, {"subtype": "FLOAT"}),
        ("song.mp3", 44100, 2, {}),
    ],
)
def test_outside_the_range_the_result_is_the_file(model, tmp_path, name, rate, channels, params):
    song = write_song(tmp_path / name, rate, channels, **params)
    made = edit.edit(model, song, tmp_path / "new", 1.2345, 2.0, options=DRAWING)
    assert made.takes[0].suffix == (".wav" if name.endswith("mp3") else song.suffix)
    start, end = round(1.2345 * rate), 2 * rate
    if name.endswith("mp3"):
        old, new = audio.read(song)[0].T, samples(made.takes[0])
    else:
        old, new = samples(song), samples(made.takes[0])
        assert soundfile.info(made.takes[0]).subtype == params["subtype"]
    assert new.shape == old.shape and soundfile.info(made.takes[0]).samplerate == rate
    assert np.array_equal(new[:start], old[:start]) and np.array_equal(new[end:], old[end:])
    assert (new[start:end] != old[start:end]).mean() > 0.95
    fade = round(DRAWING.fade * rate)
    if channels == 2 and not name.endswith("mp3"):  # the mono model's sound, in all channels
        assert np.array_equal(new[start + fade : end - fade, 0], new[start + fade : end - fade, 1])


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (3.7, 4.0), (0.0, 4.0)])
def test_a_range_may_touch_the_ends_of_the_song(model, tmp_path, start, end):
    song = write_song(tmp_path / "song.wav", subtype="PCM_16")
    made = edit.edit(model, song, tmp_path / "new.wav", start, end, options=DRAWING)
    old, new = samples(song), samples(made.takes[0])
    outside = np.r_[0 : round(start * 44100), round(end * 44100) : len(old)]
    assert new.shape == old.shape and np.array_equal(new[outside], old[outside])


def test_a_variation_of_a_range_leaves_the_rest(model, tmp_path):
    song = write_song(tmp_path / "song.wav", subtype="PCM_16")
    made = edit.vary(model, song, tmp_path / "new.wav", Prompt(periodic=2), 1.0, 2.0, options=DRAWING)
    old, new = samples(song), samples(made.takes[0])
    assert np.array_equal(new[:44100], old[:44100]) and np.array_equal(new[88200:], old[88200:])
    assert (new != old).any(axis=1).sum() > 40_000
    assert made.kept_rate == pytest.approx(made.full_rate / 2, rel=0.01)


def test_more_music_in_front_and_behind_meets_the_song_without_a_step(model, tmp_path):
    song = write_song(tmp_path / "song.wav", 48000, subtype="PCM_24")
    made = edit.extend(model, song, tmp_path / "new.wav", 0.25, 0.5, options=DRAWING)
    old, new = samples(song), samples(made.takes[0])
    assert len(new) == 12_000 + len(old) + 24_000 and np.array_equal(new[12_000:-24_000], old)
    plain = edit.extend(model, song, tmp_path / "plain.wav", 0.25, 0.5, options=replace(DRAWING, fade=0.0))
    bare = samples(plain.takes[0])
    for join in (12_000, len(new) - 24_000):

        def step(sound: np.ndarray, join: int = join) -> float:
            return np.abs(sound[join] - sound[join - 1]).mean()

        assert step(new) < 0.1 and step(bare) > 2 * step(new)  # without the fade there is a step
    one = edit.extend(model, song, tmp_path / "one.wav", after=0.5, options=DRAWING)
    assert np.array_equal(samples(one.takes[0])[: len(old)], old)


def test_a_run_folder_is_edited_by_its_stored_codes_and_its_own_sound(model, tmp_path):
    run = Run.create(
        tmp_path / "run", request.sampled(ModelInfo.read(model.folder), [Song(), Song()], 2.0, request.SamplingOptions())
    )
    codes = {level: np.random.default_rng(level).integers(0, 32, (2, run.total(level))) for level in range(3)}
    for level, each in codes.items():
        run.append(level, [0, 1], 0, each, 1.0)
    with pytest.raises(UserError, match="not drawn down to level 0"):
        edit.edit(model, run.folder, tmp_path / "new", 0.5, 1.0, options=DRAWING)  # it has no sound yet
    for i in range(2):
        write_song(
            run.audio_path(0, i) if run.audio_path(0, i).parent.mkdir(exist_ok=True) is None else Path(), RATE, 1, 1.9969
        )
    made = edit.edit(model, run.folder, tmp_path / "new", 0.5, 1.0, options=DRAWING, sample=2)
    old, new = samples(run.audio_path(0, 1)), samples(made.takes[0])
    assert np.array_equal(new[:11025], old[:11025]) and np.array_equal(new[22050:], old[22050:])
    # the sound of the other codes would give another result
    alone = edit.edit(model, run.audio_path(0, 1), tmp_path / "alone", 0.5, 1.0, options=DRAWING)
    assert not np.array_equal(samples(alone.takes[0]), new)
    with pytest.raises(UserError, match="no sample 3"):
        edit.edit(model, run.folder, tmp_path / "new", 0.5, 1.0, sample=3)


# ---- kept codes


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(periodic=4),
        Prompt(periodic=7, width=3, roll=2, dropout=0.3),
        Prompt(random=0.5),
        Prompt(prefix=0.3, suffix=0.2),
        Prompt(keep_levels=(2,)),
        Prompt(keep_levels=(2, 1), periodic=5, redraw_levels=(0,)),
    ],
)
def test_kept_codes_are_bit_identical_and_all_others_are_drawn(model, prompt):
    n, prior = 200, model.prior("masked")
    keep = edit.build(prompt, Path(), n, 0, RATE / HOP, seed=0)
    first = {stream: kept.clone() for stream, kept in keep.items()}
    old = {
        stream: np.random.default_rng(level).integers(0, 32, kept.shape[1]).astype(np.uint16)
        for level, (stream, kept) in enumerate(keep.items())
    }
    for stream, codes in old.items():
        codes[~first[stream][0].numpy()] = 31
    song = PreparedSong.of(Song(seconds=3.0), model.labels, model.vocabulary, RATE)
    resampled = ~torch.stack([kept.view(n, -1).all(1) for kept in keep.values()]).all(0)

    params = dict.fromkeys(old, SamplingParams(passes=2))

    def drawn(seed: int) -> dict[str, np.ndarray]:
        codes = {stream: each[None].copy() for stream, each in old.items()}
        kept = {stream: each.clone() for stream, each in first.items()}
        fill_windows(prior, codes, kept, windows_over(resampled, prior.config.n_ctx), 0, [song], seed, [0], params)
        assert all(each.all() for each in kept.values())
        return {stream: each[0] for stream, each in codes.items()}

    new, again, other = drawn(0), drawn(0), drawn(1)
    for stream, codes in new.items():
        kept = first[stream][0].numpy()
        assert np.array_equal(codes[kept], old[stream][kept]) and np.array_equal(codes, again[stream])
        assert kept.all() or ((codes[~kept] != 31).mean() > 0.5 and not np.array_equal(codes, other[stream]))


def test_prompts_are_united_and_then_overruled_in_the_order_of_the_algebra():
    per_second, n = 100.0, 40
    both = edit.build(Prompt(periodic=10, prefix=0.05), Path(), n, 0, per_second, 0)
    columns = masks.union(masks.periodic(n, 10), masks.ends(n, 5))
    assert torch.equal(both["vq.2"][0], columns) and torch.equal(both["vq.0"][0], columns.repeat_interleave(16))
    dropped = edit.build(Prompt(periodic=1, dropout=1.0, keep_levels=(2, 1), redraw_levels=(1,)), Path(), n, 0, per_second, 0)
    assert dropped["vq.2"].all() and not dropped["vq.1"].any() and not dropped["vq.0"].any()


def test_the_bit_rate_told_is_the_one_counted_and_not_above_the_one_asked_for(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 2.0)
    full = RATE / HOP * 21 * 5
    for kbps, share in ((100.0, 1.0), (5 * RATE / HOP / 1000 + 0.01, 1 / 21), (0.4, None)):
        made = edit.compress(model, song, tmp_path / f"{kbps}.wav", kbps, options=DRAWING)
        assert made.kept_rate <= kbps * 1000 and made.full_rate == pytest.approx(full)
        assert share is None or made.kept_rate == pytest.approx(full * share)
    with pytest.raises(ValueError, match="one code alone"):
        edit.compress(model, song, tmp_path / "none.wav", 0.0001, options=DRAWING)


# ---- words, windows, takes


def test_words_matter_whether_the_masked_prior_hears_them_or_leaves_the_top_level_to_its_own_prior(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 2.0)
    deaf = with_masked(tmp_path / "deaf", hears_words=False)

    def sung(which: Jukebox, text: str) -> np.ndarray:
        times = tuple(TimedText(word, 0.3 * i, 0.3 * i + 0.3) for i, word in enumerate(text.split()))
        words = Song(lyrics=text, word_times=times)
        out = tmp_path / f"{which.folder.name}_{text.replace(' ', '_')}"
        return samples(edit.edit(which, song, out, 0.5, 1.0, words, DRAWING).takes[0])

    for which in (model, deaf):
        one, other = sung(which, "la la la la la"), sung(which, "oh my oh my oh")
        assert one.shape == other.shape and not np.array_equal(one, other)
        assert np.array_equal(one[:11025], other[:11025])


def test_only_windows_with_a_hole_are_computed(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 8.0)
    hole = edit.edit(model, song, tmp_path / "hole.wav", 4.0, 4.05, options=DRAWING)
    whole = edit.vary(model, song, tmp_path / "whole.wav", Prompt(periodic=4), options=DRAWING)
    assert hole.windows == 1 and whole.windows == len(
        windows_over(torch.ones(Layout(8 * RATE, RATE, RATE, HOP).columns) > 0, 32)
    )


def test_takes_differ_and_a_command_that_was_stopped_goes_on(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 2.0)
    three = replace(DRAWING, takes=3)
    made = edit.edit(model, song, tmp_path / "new.wav", 0.5, 1.0, options=three)
    assert [path.name for path in made.takes] == ["new_1.wav", "new_2.wav", "new_3.wav"] and made.made == 3
    takes = [samples(path) for path in made.takes]
    assert not np.array_equal(takes[0], takes[1]) and not np.array_equal(takes[1], takes[2])
    made.takes[1].unlink()
    stamp = made.takes[0].stat().st_mtime_ns
    again = edit.edit(model, song, tmp_path / "new.wav", 0.5, 1.0, options=three)
    assert again.made == 1 and np.array_equal(samples(again.takes[1]), takes[1]) and made.takes[0].stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="name another --out"):
        edit.edit(model, song, tmp_path / "new.wav", 0.5, 1.1, options=three)
    with pytest.raises(UserError, match="name another --out"):
        edit.edit(model, song, song, 0.5, 1.0, options=DRAWING)
    assert np.array_equal(samples(made.takes[0]), takes[0])


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (1.5, 1.0), (-1.0, 1.0), (3.9, 4.1), (5.0, 6.0), (1.0, 1.000001)])
def test_a_range_that_is_none_is_refused(model, tmp_path, start, end):
    song = write_song(tmp_path / "song.wav")
    with pytest.raises(UserError, match=r"the range from .* s to .* s (is empty|leaves)"):
        edit.edit(model, song, tmp_path / "new.wav", start, end)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
