"""Edits with a masked prior of random weights: what is kept is bit-equal in codes and samples, and all the rest is new."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
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
from jukebox.editing.job import edit_route
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from jukebox.params import EditOptions, KeptPrompt, TakeOptions
from jukebox.runs import request
from jukebox.runs.run import Run
from jukebox.runs.windows import mask_windows
from jukebox.sampling.layout import MARGIN, Layout
from jukebox.song import Song
from priors.masked import masks
from tests.conftest import random_prior
from tests.jukebox.editing.edits import HOP, RATE, RATIOS, passes_of, ratios_of, samples, settings_of, with_masked, write_song

FEW = settings_of()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Jukebox:
    return with_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module", params=["three levels", "spectral"])
def either(request, model, tmp_path_factory) -> Jukebox:
    """A model with a masked prior of three levels, or of frames of several codes."""
    return model if request.param == "three levels" else with_masked(tmp_path_factory.mktemp("frames"), preset="test_spectral")


# ---- outside, nothing changes


@pytest.mark.parametrize(
    ("name", "rate", "channels", "params"),
    [
        ("song.wav", 44100, 2, {"subtype": "PCM_16"}),
        ("song.wav", 22050, 1, {"subtype": "PCM_16"}),
        ("song.wav", 48000, 2, {"subtype": "PCM_24"}),
        ("song.wav", 44100, 2, {"subtype": "PCM_24", "format": "WAVEX"}),
        ("song.wav", 16000, 1, {"subtype": "PCM_U8"}),
        ("song.wav", 44100, 2, {"subtype": "PCM_U8"}),
        ("song.wav", 44100, 2, {"subtype": "PCM_32"}),
        ("song.flac", 44100, 2, {"subtype": "PCM_24"}),
        ("song.flac", 32000, 1, {"subtype": "PCM_16"}),
        ("song.aiff", 48000, 2, {"subtype": "PCM_16"}),
        ("song.aif", 22050, 1, {"subtype": "PCM_S8", "format": "AIFF"}),
        ("song.wav", 22050, 1, {"subtype": "FLOAT"}),
        ("song.wav", 48000, 2, {"subtype": "FLOAT"}),
        ("song.wav", 44101, 2, {"subtype": "DOUBLE"}),
        ("song.mp3", 44100, 2, {}),
        ("song.mp3", 22050, 1, {}),
    ],
)
def test_outside_the_range_the_result_is_the_file(model, tmp_path, name, rate, channels, params):
    song = write_song(tmp_path / name, rate, channels, seconds=2.5, **params)
    made = edit.edit(model, song, tmp_path / "new", 1.2345, 2.0, settings=FEW)
    target, lossy = made.takes[0], name.endswith("mp3")
    start, end = round(1.2345 * rate), 2 * rate
    old, new = audio.read(song)[0].T if lossy else samples(song), samples(target)
    if lossy:
        assert (target.suffix, soundfile.info(target).subtype) == (".wav", "FLOAT")
    else:
        form, kept = soundfile.info(song), soundfile.info(target)
        assert target.suffix == song.suffix and (form.format, form.subtype) == (kept.format, kept.subtype)
    assert new.shape == old.shape and soundfile.info(target).samplerate == rate
    assert np.array_equal(new[:start], old[:start]) and np.array_equal(new[end:], old[end:])
    assert (new[start:end] != old[start:end]).mean() > 0.9
    fade = round(FEW.edit.fade * rate)
    if channels == 2 and not lossy:  # the mono model's audio, in all channels
        assert np.array_equal(new[start + fade : end - fade, 0], new[start + fade : end - fade, 1])
    (prompt,) = made.run.prompt_paths
    assert np.array_equal(samples(prompt), old)  # what resume reads in place of the file


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (3.7, 4.0), (0.0, 4.0)])
def test_a_range_may_touch_the_ends_of_the_song(either, tmp_path, start, end):
    song = write_song(tmp_path / "song.wav", subtype="PCM_16")
    made = edit.edit(either, song, tmp_path / "new.wav", start, end, settings=settings_of(passes=passes_of(either)))
    old, new = samples(song), samples(made.takes[0])
    outside = np.r_[0 : round(start * 44100), round(end * 44100) : len(old)]
    assert new.shape == old.shape and np.array_equal(new[outside], old[outside])


def test_a_variation_of_a_range_leaves_the_rest(either, tmp_path):
    song, few = write_song(tmp_path / "song.wav", subtype="PCM_16"), settings_of(passes=passes_of(either))
    made = edit.vary(either, song, tmp_path / "new.wav", KeptPrompt(periodic=2), 1.0, 2.0, settings=few)
    old, new = samples(song), samples(made.takes[0])
    assert np.array_equal(new[:44100], old[:44100]) and np.array_equal(new[88200:], old[88200:])
    assert (new != old).any(axis=1).sum() > 40_000
    assert made.kept_rate == pytest.approx(made.full_rate / 2, rel=0.02)


def test_more_music_before_and_after_leaves_the_song(either, tmp_path):
    song, few = write_song(tmp_path / "song.wav", 48000, subtype="PCM_24"), settings_of(passes=passes_of(either))
    old, new = samples(song), samples(edit.extend(either, song, tmp_path / "new.wav", 0.25, 0.5, settings=few).takes[0])
    assert len(new) == 12_000 + len(old) + 24_000 and np.array_equal(new[12_000:-24_000], old)
    assert new[:12_000].std() > 0.01 and new[-24_000:].std() > 0.01
    one = edit.extend(either, song, tmp_path / "one.wav", after=0.5, settings=few)
    assert np.array_equal(samples(one.takes[0])[: len(old)], old)


def test_more_music_before_and_after_meets_the_song_without_a_step(model, tmp_path):
    song = write_song(tmp_path / "song.wav", 48000, subtype="PCM_24")
    new = samples(edit.extend(model, song, tmp_path / "new.wav", 0.25, 0.5, settings=FEW).takes[0])
    plain = edit.extend(model, song, tmp_path / "plain.wav", 0.25, 0.5, settings=settings_of(fade=0.0))
    bare = samples(plain.takes[0])
    for join in (12_000, len(new) - 24_000):

        def step(sound: np.ndarray, join: int = join) -> float:
            return np.abs(sound[join] - sound[join - 1]).mean()

        assert step(new) < 0.1 and step(bare) > 2 * step(new)  # without the fade there is a step


def test_a_run_folder_is_edited_by_its_stored_codes_and_its_own_audio(model, tmp_path):
    run = Run.create(
        tmp_path / "run", request.sampled(ModelInfo.read(model.folder), [Song(), Song()], 2.0, request.RunSettings())
    )
    codes = {level: np.random.default_rng(level).integers(0, 32, (2, run.total(level))) for level in range(3)}
    for level, each in codes.items():
        run.append(level, [0, 1], 0, each, 1.0)
    with pytest.raises(UserError, match="not sampled down to level 0"):
        edit.edit(model, run.folder, tmp_path / "new", 0.5, 1.0, settings=FEW)  # it has no audio yet
    (run.folder / "audio").mkdir()
    for i in range(2):
        write_song(run.audio_path(0, i), RATE, 1, 1.9969)
    made = edit.edit(model, run.folder, tmp_path / "new", 0.5, 1.0, settings=settings_of(sample=2))
    old, new = samples(run.audio_path(0, 1)), samples(made.takes[0])
    assert np.array_equal(new[:11025], old[:11025]) and np.array_equal(new[22050:], old[22050:])
    ((_, first, n),) = made.run.request["pieces"]
    for level, (stream, ratio) in enumerate(RATIOS.items()):
        known, _ = made.run.known(level)
        assert stream == made.run.stream(level).name
        assert np.array_equal(known, codes[level][1, first * ratio : (first + n) * ratio])
    # the codes of its audio would give another result
    alone = edit.edit(model, run.audio_path(0, 1), tmp_path / "alone", 0.5, 1.0, settings=FEW)
    assert not np.array_equal(samples(alone.takes[0]), new)
    with pytest.raises(UserError, match="no sample 3"):
        edit.edit(model, run.folder, tmp_path / "new", 0.5, 1.0, settings=settings_of(sample=3))
    with pytest.raises(UserError, match=r"new\.run is an edit.*new\.wav"):
        edit.edit(model, made.run.folder, tmp_path / "twice", 0.5, 1.0, settings=FEW)


# ---- kept codes


@pytest.mark.parametrize(
    "prompt",
    [
        KeptPrompt(periodic=4),
        KeptPrompt(periodic=7, width=3, roll=2, dropout=0.3),
        KeptPrompt(random=0.5),
        KeptPrompt(prefix=0.3, suffix=0.2),
        KeptPrompt(keep_levels=(2,)),
        KeptPrompt(keep_levels=(2, 1), periodic=5, redraw_levels=(0,)),
    ],
)
def test_kept_codes_are_bit_identical_and_all_others_are_sampled(model, tmp_path, prompt):
    """Of an edit run, whose known.npz has the codes of the recording and which of them are kept."""
    song = write_song(tmp_path / "song.wav", RATE, 1, 200 * HOP / RATE)

    def sampled(name: str, seed: int) -> Run:
        return edit.vary(model, song, tmp_path / name, prompt, settings=settings_of(seed=seed)).run

    new, again, other = sampled("new", 0), sampled("again", 0), sampled("other", 1)
    for seed, run in ((0, new), (1, other)):
        keep = edit.build(prompt, song, 200, 0, RATE / HOP, seed)
        for level, stream in enumerate(RATIOS):
            (codes,), (old, kept) = run.codes(level), run.known(level)
            assert np.array_equal(kept, keep[stream][0].numpy()) and len(codes) == len(old) == 200 * RATIOS[stream]
            assert np.array_equal(codes[kept], old[kept])
            assert kept.all() or (codes[~kept] != old[~kept]).mean() > 0.5
    for level in range(3):
        assert np.array_equal(new.codes(level), again.codes(level))
        assert new.known(level)[1].all() or not np.array_equal(new.codes(level), other.codes(level))


@pytest.mark.parametrize("prompt", [KeptPrompt(periodic=7, width=3, roll=2, dropout=0.3), KeptPrompt(random=0.5)])
def test_kept_frames_of_several_codes_are_bit_identical_and_all_others_are_sampled(tmp_path, prompt):
    model = with_masked(tmp_path / "frames", preset="test_spectral")
    unit, (stream,) = model.spec.unit, ratios_of(model)
    song = write_song(tmp_path / "song.wav", RATE, 1, 100 * unit / RATE)
    run = edit.vary(model, song, tmp_path / "new", prompt, settings=settings_of(passes=(2,))).run
    keep = edit.build(prompt, song, 100, 0, RATE / unit, 0, {stream: 1})[stream][0].numpy()
    (codes,), (old, kept) = run.codes(run.finest), run.known(run.finest)
    assert np.array_equal(kept, keep) and codes.shape == old.shape == (100, 2)
    assert np.array_equal(codes[kept], old[kept]) and (codes[~kept] != old[~kept]).any(axis=1).mean() > 0.5
    with pytest.raises(UserError, match=r"level 0 is not of this edit; it samples 1 \(tokens\)"):
        edit.vary(model, song, tmp_path / "x", KeptPrompt(keep_levels=(0,)))


def test_an_edit_is_by_the_codec_of_the_default_route(two_codecs, tmp_path):
    """Both codecs have a prior that inpaints; a model with one of the other codec alone is edited by that."""
    folder = shutil.copytree(two_codecs.folder, tmp_path / "model")
    model = Jukebox.from_pretrained(folder)
    config = find("test_spectral").priors["masked_tokens"]
    model.save_prior("masked_tokens", random_prior(config))
    assert edit_route(model.info).priors == {"tokens": "masked_tokens"}
    model.save_prior("masked", random_prior(find("test").priors["masked"]))
    assert edit_route(model.info).priors == {"vq.2": "masked", "vq.1": "masked", "vq.0": "masked"}
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | {"default_route": "spectral"}))
    assert edit_route(ModelInfo.read(folder)).priors == {"tokens": "masked_tokens"}


def test_the_columns_of_an_edit_are_those_of_all_codecs(two_codecs, tmp_path):
    """The masked prior of three levels has windows of 32 frames of 128 samples, of which two are in a column."""
    folder = shutil.copytree(two_codecs.folder, tmp_path / "model")
    model = Jukebox.from_pretrained(folder)
    model.save_prior("masked", random_prior(find("test").priors["masked"]))
    song = write_song(tmp_path / "song.wav", RATE, 1, 8.0)
    made = edit.edit(model, song, tmp_path / "new.wav", 4.0, 4.05, settings=FEW)
    ((_, _, columns),) = made.run.request["pieces"]
    margin = MARGIN * RATE / 256
    assert columns == pytest.approx(2 * margin + 0.05 * RATE / 256, abs=3) and made.windows == 3
    for level in range(3):
        (codes,), (old, kept) = made.run.codes(level), made.run.known(level)
        assert np.array_equal(codes[kept], old[kept]) and len(codes) == columns * 256 // model.hops[level]
        assert (~kept).sum() == pytest.approx(0.05 * RATE / model.hops[level], abs=2 * 256 / model.hops[level])


def test_prompts_are_united_and_then_overruled_in_the_order_of_the_algebra():
    per_second, n = 100.0, 40
    both = edit.build(KeptPrompt(periodic=10, prefix=0.05), Path(), n, 0, per_second, 0)
    columns = masks.union(masks.periodic(n, 10), masks.ends(n, 5))
    assert torch.equal(both["vq.2"][0], columns) and torch.equal(both["vq.0"][0], columns.repeat_interleave(16))
    dropped = edit.build(
        KeptPrompt(periodic=1, dropout=1.0, keep_levels=(2, 1), redraw_levels=(1,)), Path(), n, 0, per_second, 0
    )
    assert dropped["vq.2"].all() and not dropped["vq.1"].any() and not dropped["vq.0"].any()


def test_the_bit_rate_is_counted_and_at_most_the_one_given(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 2.0)
    full = RATE / HOP * 21 * 5
    for kbps, share in ((100.0, 1.0), (5 * RATE / HOP / 1000 + 0.01, 1 / 21), (0.4, None)):
        made = edit.compress(model, song, tmp_path / f"{kbps}.wav", kbps, settings=FEW)
        assert made.kept_rate <= kbps * 1000 and made.full_rate == pytest.approx(full)
        assert share is None or made.kept_rate == pytest.approx(full * share)
    frames = with_masked(tmp_path / "frames", preset="test_spectral")
    full = RATE / 256 * 2 * 5  # two codes of 5 bits
    half = edit.compress(frames, song, tmp_path / "half.wav", 0.51 * full / 1000, settings=settings_of(passes=(2,)))
    assert half.full_rate == pytest.approx(full, rel=0.01) and 0.49 * full < half.kept_rate <= 0.51 * full
    with pytest.raises(ValueError, match="one code alone"):
        edit.compress(model, song, tmp_path / "none.wav", 0.0001, settings=FEW)


# ---- lyrics, windows, takes


def test_lyrics_matter_by_the_masked_prior_or_by_the_prior_of_the_coarsest_level(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 2.0)
    without = with_masked(tmp_path / "without", lyrics=False)

    def made(which: Jukebox, text: str) -> np.ndarray:
        times = tuple(TimedText(word, 0.3 * i, 0.3 * i + 0.3) for i, word in enumerate(text.split()))
        words = Song(lyrics=text, word_times=times)
        out = tmp_path / f"{which.folder.name}_{text.replace(' ', '_')}"
        passes = (2, 2) if which is without else (2, 2, 2)  # of the masked levels
        return samples(edit.edit(which, song, out, 0.5, 1.0, settings=settings_of(words=words, passes=passes)).takes[0])

    for which in (model, without):
        one, other = made(which, "la la la la la"), made(which, "oh my oh my oh")
        assert one.shape == other.shape and not np.array_equal(one, other)
        assert np.array_equal(one[:11025], other[:11025])


def test_only_windows_with_unknown_columns_are_sampled(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 8.0)
    short = edit.edit(model, song, tmp_path / "short.wav", 4.0, 4.05, settings=FEW)
    whole = edit.vary(model, song, tmp_path / "whole.wav", KeptPrompt(periodic=4), settings=FEW)
    assert short.windows == 3  # one of each level
    assert whole.windows == 3 * len(mask_windows(np.ones(Layout(8 * RATE, RATE, RATE, HOP).columns, bool), 32))


@pytest.mark.parametrize("name", ["01. Intro", "v1.2", "song.remix"])
def test_a_name_with_dots_keeps_them_and_gets_the_suffix_of_the_song(name, model, tmp_path):
    song = write_song(tmp_path / f"{name}.flac", RATE, 1, 1.0)
    made = edit.edit(model, song, tmp_path / f"{name}_edit", 0.2, 0.4, settings_of())
    assert [path.name for path in made.takes] == [f"{name}_edit.flac"] and made.run.folder.name == f"{name}_edit.run"


def test_takes_differ_and_those_that_are_missing_are_written_again(model, tmp_path):
    song = write_song(tmp_path / "song.wav", RATE, 1, 2.0)
    three = settings_of(takes=3)
    made = edit.edit(model, song, tmp_path / "new.wav", 0.5, 1.0, settings=three)
    assert [path.name for path in made.takes] == ["new_1.wav", "new_2.wav", "new_3.wav"] and made.made == 3
    assert made.run.folder == tmp_path / "new.run"
    takes = [samples(path) for path in made.takes]
    assert not np.array_equal(takes[0], takes[1]) and not np.array_equal(takes[1], takes[2])
    made.takes[1].unlink()
    stamp = made.takes[0].stat().st_mtime_ns
    again = edit.edit(model, song, tmp_path / "new.wav", 0.5, 1.0, settings=three)
    assert again.made == 1 and np.array_equal(samples(again.takes[1]), takes[1]) and made.takes[0].stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="name another --out"):
        edit.edit(model, song, tmp_path / "new.wav", 0.5, 1.1, settings=three)
    with pytest.raises(UserError, match="name another --out"):
        edit.edit(model, song, song, 0.5, 1.0, settings=FEW)
    assert np.array_equal(samples(made.takes[0]), takes[0])


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (1.5, 1.0), (-1.0, 1.0), (3.9, 4.1), (5.0, 6.0), (1.0, 1.000001)])
def test_a_range_that_is_empty_or_leaves_the_song_raises(model, tmp_path, start, end):
    song = write_song(tmp_path / "song.wav")
    with pytest.raises(UserError, match=r"the range from .* s to .* s (is empty|leaves)"):
        edit.edit(model, song, tmp_path / "new.wav", start, end)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"takes": 0}, "takes"), ({"fade": -1.0}, "fade"), ({"temperature": -0.1}, "temperatures"), ({"passes": (2, 0, 1)}, "passes"),
        ({"dtype": "float8"}, "--dtype got 'float8'"), ({"device": "cuda:99" if not torch.cuda.is_available() else "npu"}, "--device"),
    ],
)  # fmt: skip
def test_a_bad_value_raises_before_anything_is_written(model, tmp_path, options, error):
    song = write_song(tmp_path / "song.wav")
    with pytest.raises(UserError, match=error):
        edit.edit(model, song, tmp_path / "new.wav", 1.0, 2.0, settings=settings_of(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


def test_the_defaults_are_those_of_the_parameters():
    settings = edit.EditSettings()
    assert settings.edit == EditOptions(fade=0.02, sample=1)
    assert asdict(TakeOptions()).items() <= asdict(settings.run.options).items() and settings.run.options.takes == 1
