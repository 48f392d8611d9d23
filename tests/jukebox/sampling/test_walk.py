"""The walk over levels and windows: what is kept, what repeats, what survives a kill."""

from __future__ import annotations

import gc
import json
import shutil
import wave
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read, write_wav
from data_prep.errors import UserError
from jukebox.model.code_file import Codes
from jukebox.model.folder import ModelFolder
from jukebox.params import SamplingOptions
from jukebox.runs import request
from jukebox.runs.request import RunSettings, song_of_entry
from jukebox.runs.run import Run
from jukebox.runs.windows import prefix_windows
from jukebox.sampling import sampler, walk
from jukebox.sampling.wav_writer import WavWriter
from jukebox.song import PreparedSong, Song, window_conditions
from priors.autoregressive.config import AutoregressiveParams
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.conditions import stack
from priors.noise import Generators, WindowNoise, generator
from priors.prior import Known, Window, sample_window
from priors.tokens.model import TokenPrior
from tests.jukebox.sampling.kills import Killed, assert_same, cut_off, in_blocks
from tests.runs import continue_, pace, sample, settings_of, top_levels

SONG = Song("ann", ("rock",), "la la la\nli li")
SECONDS = 0.4  # 68 codes of the top level, whose window is 32
STREAMS = ("vq.0", "vq.1", "vq.2")


def branch(run: Run, out: Path, takes: int = 1, **keep) -> Run:
    return walk.branch(run, out, RunSettings(SamplingOptions(takes=takes)), **keep)


def codes_of(run: Run) -> dict[int, np.ndarray]:
    return {level: run.codes(level) for level in run.request["levels"]}


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    """Two songs, with their page."""
    return sample(tiny_model, [SONG, SONG], SECONDS, tmp_path_factory.mktemp("run") / "a", seed=3)


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Pages have tests of their own; one test here asks for them."""
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


def test_a_run_has_every_level_at_its_full_length_and_wavs_of_the_finished_length(run, tiny_model):
    for level, hop in enumerate(tiny_model.hops):
        codes = run.codes(level)
        assert codes.shape == (2, 68 * 128 // hop)
        assert len(np.unique(codes)) > 8  # not one code repeated
        for i in range(2):
            with wave.open(str(run.audio_path(level, i))) as file:
                assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (68 * 128, 22050, 2)
    assert (run.folder / "index.html").is_file() and len(list((run.folder / "images").iterdir())) == 6
    assert not np.array_equal(run.codes(2)[0], run.codes(2)[1])  # same request, other generator


def test_a_level_is_written_window_by_window(run, tiny_model):
    assert list(dict.fromkeys(line["start"] for line in run.progress if line["level"] == 2)) == [0, 16, 32, 36]


def test_the_same_seed_gives_the_same_codes_and_the_same_bytes_of_audio(run, tiny_model, tmp_path):
    again = sample(tiny_model, [SONG, SONG], SECONDS, tmp_path / "b", seed=3, levels=(2, 1))
    assert_same(again, run)
    for path in (again.folder / "audio").iterdir():
        assert path.read_bytes() == (run.folder / "audio" / path.name).read_bytes()
    other = sample(tiny_model, [SONG, SONG], SECONDS, tmp_path / "c", seed=4, levels=(2,))
    assert not np.array_equal(run.codes(2), other.codes(2))


def test_a_song_needs_no_artist_genre_or_lyrics_and_each_of_them_changes_it(tiny_model, tmp_path):
    bare = sample(tiny_model, [Song()], 0.3, tmp_path / "bare", levels=(2,))
    for i, song in enumerate([Song("bob"), Song(genres=("waltz",)), Song(lyrics="oh\nmy")]):
        named = sample(tiny_model, [song], 0.3, tmp_path / f"named{i}", levels=(2,))
        assert not np.array_equal(bare.codes(2), named.codes(2)), song


SONGS = [Song("ann", ("rock",), "la"), Song("bob", (), "li la"), Song(), Song("ann"), Song(None, ("waltz",))]


def test_a_batch_gives_the_codes_of_batches_of_one_exactly_in_float64(each_model, tmp_path):
    seconds = 0.12 * pace(each_model)
    batch = sample(each_model, SONGS, seconds, tmp_path / "batch", seed=1, dtype="float64")
    for size, batches in ((1, [[0], [1], [2], [3], [4]]), (3, [[0, 1, 2], [3, 4]])):
        other = sample(each_model, SONGS, seconds, tmp_path / str(size), seed=1, batch=size, dtype="float64")
        assert other.request["batches"] == batches
        assert_same(batch, other)


def first_difference_is_a_tie(model, batch: Run, alone: Run, sample: int, within: float) -> bool:
    """Where a sample's codes first differ between two runs, both codes lie within rounding of the random number."""
    for level in alone.request["levels"]:
        differ = np.flatnonzero(batch.codes(level)[sample] != alone.codes(level)[sample])
        if not len(differ):
            continue
        at, total = int(differ[0]), batch.total(level)
        prior = model.prior(f"prior_{level}", "float64")
        config, ratio, bins = prior.config, prior.config.ratio, model.spec.streams[level].bins
        hop = int(0.5 * config.n_ctx) // ratio * ratio
        start, begin, _ = next(s for s in prefix_windows(total, config.n_ctx, hop) if s.begin <= at < s.end)
        song = song_of_entry(batch.request["samples"][sample], batch.request["total_seconds"])
        prepared = PreparedSong.of(song, model.labels_of(f"prior_{level}"), model.vocabulary, model.sample_rate)
        above = None
        if config.spec.reads:
            need = config.n_ctx // ratio
            above = batch.codes(level + 1)[sample, start // ratio :][:need]
            above = np.pad(above, (0, need - len(above)), mode="edge")
        codes = torch.from_numpy(batch.codes(level)[sample : sample + 1, start : at + 1].astype(np.int64))
        logits = prior(codes, window_conditions(prepared, config, start, above))[0, -1, -bins:]
        cumulative = torch.softmax(logits, -1).cumsum(-1)
        uniform = torch.rand(at - begin + 1, generator=generator(1, sample, level, begin), dtype=torch.float64)[-1]
        low, high = sorted(int(run.codes(level)[sample, at]) for run in (batch, alone))
        return high == low + 1 and abs(cumulative[low] - uniform).item() < within
    return True


def test_in_float32_the_first_difference_of_a_sample_is_a_tie_within_rounding(tiny_model, tmp_path):
    batch = sample(tiny_model, SONGS, 0.25, tmp_path / "batch", seed=1, levels=(2, 1))
    alone = sample(tiny_model, SONGS, 0.25, tmp_path / "alone", seed=1, levels=(2, 1), batch=1)
    assert all(first_difference_is_a_tie(tiny_model, batch, alone, i, 1e-5) for i in range(5))
    other = sample(tiny_model, SONGS, 0.25, tmp_path / "other", seed=2, levels=(2,))  # the control: not a tie
    assert not all(first_difference_is_a_tie(tiny_model, batch, other, i, 1e-5) for i in range(5))


def test_inside_one_window_windowed_sampling_equals_ancestral_sampling(tiny_model, tmp_path):
    """The first window of a level is the prior sampled without a prompt."""
    run = sample(tiny_model, [SONG, Song()], 0.18, tmp_path / "run", seed=2)  # 31 codes of a window of 32
    for level in run.request["levels"]:
        prior, stream = tiny_model.prior(f"prior_{level}"), f"vq.{level}"
        config = prior.config
        count = min(run.total(level), config.n_ctx)
        items = []
        for i, entry in enumerate(run.request["samples"]):
            song = song_of_entry(entry, run.request["total_seconds"])
            prepared = PreparedSong.of(song, tiny_model.labels, tiny_model.vocabulary, tiny_model.sample_rate)
            above = None
            if config.spec.reads:
                need = config.n_ctx // config.ratio
                above = run.codes(level + 1, [i], 0, need)[0]
                above = np.pad(above, (0, need - len(above)), mode="edge")
            items.append(window_conditions(prepared, config, 0, above))
        noise = Generators([generator(2, i, level, 0) for i in range(2)])
        known, window = Known.prefix(stream, torch.zeros(2, 0, dtype=torch.long), count), Window(0, count, run.total(level))
        codes = sample_window(prior, window, known, stack(items), noise, {stream: AutoregressiveParams()})[stream]
        assert np.array_equal(codes.numpy(), run.codes(level, stop=count))


@pytest.mark.parametrize("options", [{}, pytest.param({"batch": 1}, marks=pytest.mark.long), {"parallel": True}])
def test_a_run_cut_anywhere_resumes_to_the_codes_of_an_uninterrupted_one(options, each_model, tmp_path, monkeypatch):
    levels, seconds = top_levels(each_model), 0.25 * pace(each_model)
    if options.get("parallel") and len(levels) < 2:
        pytest.skip("windows in parallel are of finer levels")
    asked = {"seed": 3, "levels": levels, **options}
    whole = sample(each_model, [SONG, SONG], seconds, tmp_path / "whole", **asked)
    in_blocks(monkeypatch, 7)
    monkeypatch.setattr(sampler, "EVERY", 0.0)  # codes are written every 7, so in the middle of a window, and between windows
    for cut in (1, 6) if options else (0, 2, 5, 6) if len(levels) < 2 else (0, 2, 12):
        folder = tmp_path / f"cut{cut}"
        with monkeypatch.context() as patch:
            cut_off(patch, cut)
            with pytest.raises(Killed):
                sample(each_model, [SONG, SONG], seconds, folder, **asked)
        opened = Run.open(folder)
        assert opened.count(levels[-1]) < opened.total(levels[-1])
        assert_same(whole, walk.resume(opened))
        for path in (whole.folder / "codes").iterdir():
            assert path.read_bytes() == (folder / "codes" / path.name).read_bytes()


def test_resuming_a_finished_run_changes_nothing(run):
    before = codes_of(run)
    again = walk.resume(Run.open(run.folder))
    assert all(np.array_equal(before[level], again.codes(level)) for level in before)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    t = np.arange(22050) / 22050
    wave = (0.3 * np.sin(2 * np.pi * 220 * t * (1 + 0.2 * t)) + 0.05 * np.random.default_rng(0).standard_normal(len(t)))[None]
    path = tmp_path_factory.mktemp("recording") / "tune.wav"
    write_wav(path, wave.astype(np.float32), 22050)
    return path


def test_the_primed_part_of_a_continuation_is_bit_equal_to_its_prompts_codes(each_model, recording, tmp_path):
    unit, streams = each_model.spec.unit, list(each_model.info.route().priors)
    run = continue_(each_model, [SONG, Song()], [recording], 0.4, 0.8, tmp_path / "more", seed=5)
    kept = int(0.4 * 22050) // unit  # whole codes of the top level
    audio = torch.from_numpy(read(recording)[0][None, :, : kept * unit])
    prompt = each_model.codec(streams).encode(audio, streams)
    for level in run.request["levels"]:
        codes, ratio = run.codes(level), unit // each_model.hops[level]
        assert codes.shape[1] == int(0.8 * 22050) // unit * ratio
        for row in codes:
            assert np.array_equal(row[: kept * ratio], prompt[each_model.spec.names[level]][0].numpy())
    top = run.request["levels"][0]
    assert not np.array_equal(run.codes(top)[0, kept:], run.codes(top)[1, kept:])


def test_a_prompt_that_is_too_long_is_one_clear_error(tiny_model, recording, tmp_path):
    with pytest.raises(UserError, match="smaller --prompt_seconds"):
        continue_(tiny_model, [SONG], [recording], 3.0, 5.0, tmp_path / "x")
    with pytest.raises(UserError, match="finished length"):
        continue_(tiny_model, [SONG], [recording], 0.5, 0.4, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def assert_full(run: Run, samples: int) -> None:
    for level in run.request["levels"]:
        assert run.codes(level).shape[:2] == (samples, run.total(level))
        for i in range(samples):
            assert read(run.audio_path(level, i))[0].shape == (1, run.total(level) * run.request["hops"][level])


@pytest.mark.parametrize("n", [1, pytest.param(5, marks=pytest.mark.long)])
def test_every_mode_works_for_one_sample_and_five_with_empty_lyrics(n, each_model, recording, tmp_path):
    songs, second = [Song("ann", (), ""), Song(lyrics="  \n")] * 3, pace(each_model)
    run = sample(each_model, songs[:n], 0.06 * second, tmp_path / "sample")
    assert_full(run, n)
    assert_full(continue_(each_model, songs[:n], [recording], 0.03 * second, 0.06 * second, tmp_path / "continue"), n)
    assert_full(branch(run, tmp_path / "branch", keep_seconds=0.03 * second), n)
    if len(run.request["levels"]) > 1:
        assert_full(walk.upsample(run, tmp_path / "upsample", level=2), n)
    again = walk.replay(run.folder, tmp_path / "again")
    assert_full(again, n)
    assert_same(run, again)


def test_a_short_primed_run_does_not_overshoot(tiny_model, recording, tmp_path):
    """10 codes of a prompt and 20 in all, of a window of 32: 20 codes, not 30 (the published code's)."""
    run = continue_(tiny_model, [SONG], [recording], 10.5 * 128 / 22050, 20.5 * 128 / 22050, tmp_path / "run")
    assert run.request["given"] == {"2": 10, "1": 40, "0": 160}
    assert [run.codes(level).shape for level in (2, 1, 0)] == [(1, 20), (1, 80), (1, 320)]


def test_audio_grows_with_its_windows_and_is_that_of_the_whole_in_the_end(tiny_model, tmp_path, monkeypatch):
    grown, plain = [], WavWriter.grow

    def grow(self):
        plain(self)
        self.writer.flush()
        if self.path.is_file():
            with wave.open(str(self.path)) as file:
                grown.append((self.level, file.getnframes(), file.readframes(file.getnframes())))

    monkeypatch.setattr(WavWriter, "grow", grow)
    run = sample(tiny_model, [SONG], 1.5, tmp_path / "run", levels=(2,))
    codes = torch.from_numpy(run.codes(2).astype(np.int64))
    write_wav(tmp_path / "whole.wav", tiny_model.codec(["vq.2"]).decode_long(codes, "vq.2")[0].numpy(), 22050)
    assert run.audio_path(2, 0).read_bytes() == (tmp_path / "whole.wav").read_bytes()
    lengths = [frames for _, frames, _ in grown]
    assert lengths == sorted(lengths) and len(set(lengths)) >= 3  # there is audio long before the end
    assert all(grown[-1][2].startswith(audio) for _, _, audio in grown)  # and what was decoded stays


def test_a_branch_keeps_the_first_seconds_bit_equal_and_goes_on_otherwise(each_model, tmp_path):
    levels, unit = top_levels(each_model), each_model.spec.unit
    run = sample(each_model, [SONG, SONG], 0.35 * pace(each_model), tmp_path / "run", levels=levels)
    keep = 40 * unit / 22050 + 1e-4
    other = branch(run, tmp_path / "seed", keep_seconds=keep, seed=77)
    words = branch(run, tmp_path / "words", keep_seconds=keep, seed=77, lyrics=Song(lyrics="oh oh oh oh"))
    for made in (other, words):
        for level in levels:
            kept = 40 * unit // each_model.hops[level]
            assert np.array_equal(made.codes(level, stop=kept), run.codes(level, stop=kept))
            assert not np.array_equal(made.codes(level)[:, kept:], run.codes(level)[:, kept:])
    assert not np.array_equal(other.codes(levels[0]), words.codes(levels[0]))
    assert other.request["prompt"]["seconds"] == pytest.approx(40 * unit / 22050)


def test_takes_share_their_beginning_and_the_chosen_one_goes_on(each_model, recording, tmp_path):
    levels, second = top_levels(each_model), pace(each_model)
    asked = {"takes": 3, "levels": levels}
    takes = continue_(each_model, [SONG], [recording], 0.1 * second, 0.2 * second, tmp_path / "takes", **asked)
    top = levels[0]
    kept = takes.request["given"][str(top)]
    assert takes.n_samples == 3 and (takes.codes(top, stop=kept) == takes.codes(top, [0], stop=kept)).all()
    assert len(np.unique(takes.codes(top), axis=0)) == 3
    more = branch(takes, tmp_path / "more", take=2, seconds=0.3 * second, takes=2)
    for level in levels:
        assert np.array_equal(more.codes(level, stop=takes.total(level)), takes.codes(level, [1, 1]))
    assert more.count(top) > takes.count(top) and not np.array_equal(*more.codes(top))
    with pytest.raises(UserError, match="no take 4"):
        branch(takes, tmp_path / "x", take=4, seconds=0.3 * second)
    with pytest.raises(UserError, match=r"expected --keep_seconds up to that"):
        branch(takes, tmp_path / "x", take=1)  # all is kept, and nothing is left to sample
    assert not (tmp_path / "x").exists()


def test_several_prompts_of_every_kind_continue_in_one_run(run, tiny_model, recording, tmp_path):
    codes = tiny_model.codec().encode(torch.from_numpy(read(recording)[0][None, :, : 60 * 128]), STREAMS)
    rows = {stream: z[0].numpy().astype(np.uint16) for stream, z in codes.items()}
    hashes = {stream: tiny_model.info.codes_hash(stream) for stream in STREAMS}
    assert all(hashes.values())
    Codes(rows, 22050, 60 * 128, hashes).save(tmp_path / "codes.npz")
    prompts = [recording, tmp_path / "codes.npz", run.folder]  # the run has two songs
    made = continue_(tiny_model, [SONG], prompts, 0.2, 0.3, tmp_path / "made", levels=(2, 1))
    assert made.n_samples == 4
    for level in (2, 1):
        kept = made.request["given"][str(level)]
        assert np.array_equal(made.codes(level, [1], stop=kept)[0], rows[STREAMS[level]][:kept])
        assert np.array_equal(
            made.codes(level, [0], stop=kept - 8)[0], rows[STREAMS[level]][: kept - 8]
        )  # the receptive field of the codec
        assert np.array_equal(made.codes(level, [2, 3], stop=kept), run.codes(level, stop=kept))
    longer = continue_(tiny_model, [SONG], [run.folder], 0, 0.5, tmp_path / "longer", levels=(2,))
    assert np.array_equal(longer.codes(2, stop=run.total(2)), run.codes(2))
    Codes(rows, 22050, 60 * 128, hashes | {"vq.1": "another codec"}).save(tmp_path / "other.npz")
    with pytest.raises(UserError, match="another codec"):
        continue_(tiny_model, [SONG], [tmp_path / "other.npz"], 0.2, 0.3, tmp_path / "x")


def test_upsampling_begins_from_any_level_of_a_run_or_of_a_file_of_codes(tiny_model, tmp_path):
    run = sample(tiny_model, [SONG], 0.15, tmp_path / "run", seed=3)
    half = sample(tiny_model, [SONG], 0.15, tmp_path / "half", seed=3, levels=(2, 1))
    other = walk.upsample(half, tmp_path / "other", seed=9)  # its finest finished level is kept
    assert np.array_equal(other.codes(1), half.codes(1)) and not np.array_equal(other.codes(0), run.codes(0))
    assert_same(run, walk.upsample(half))
    Codes({"vq.1": run.codes(1)[0]}, 22050, run.total(0) * 8).save(tmp_path / "codes.npz")
    asked = request.upsampled_codes(tiny_model.info, Song("ann"), tmp_path / "codes.npz", settings_of(tiny_model, seed=3))
    made = walk.resume(Run.create(tmp_path / "made", asked))
    assert made.request["levels"] == [1, 0]
    assert np.array_equal(made.codes(1), run.codes(1, [0])) and made.count(0) == run.total(0)


def test_a_replay_gives_the_same_codes_and_raises_where_it_does_not(each_model, tmp_path, capsys):
    levels, seconds = top_levels(each_model), 0.2 * pace(each_model)
    run = sample(each_model, [SONG, SONG], seconds, tmp_path / "run", seed=3, levels=levels)
    walk.replay(run.folder / "run.json", tmp_path / "again")
    assert f"level {levels[-1]}: the same {run.total(levels[-1])} codes of 2 samples" in capsys.readouterr().out
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "mine.json").write_text((run.folder / "run.json").read_text())  # a request alone can be replayed too
    assert_same(run, walk.replay(folder / "mine.json", tmp_path / "alone"))
    other = sample(each_model, [SONG, SONG], seconds, tmp_path / "other", seed=4, levels=levels)
    with pytest.raises(UserError, match=rf"level {levels[0]} of sample 0 differs from frame \d+ on"):
        walk.compare(run, other)


def test_other_versions_and_another_machine_are_printed_in_one_line(run, tmp_path, capsys):
    folder = tmp_path / "moved"
    shutil.copytree(run.folder, folder)
    asked = json.loads((folder / "run.json").read_text())
    asked["versions"]["torch"] = "1.4.0"
    asked["machine"]["system"] = "another"
    (folder / "run.json").write_text(json.dumps(asked))
    walk.resume(Run.open(folder))
    printed = capsys.readouterr().err.strip()
    assert "torch 1.4.0 (now" in printed and "system another" in printed and "\n" not in printed


def test_a_run_records_its_threads(tiny_model, tmp_path):
    before = torch.get_num_threads()
    try:
        run = sample(tiny_model, [Song()], 0.05, tmp_path / "run", levels=(2,), threads=2)
        torch.set_num_threads(1)
        walk.resume(Run.open(run.folder))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_parallel_windows_take_the_steps_of_one_and_are_conditioned_on_the_codes_above(tiny_model, tmp_path, capsys):
    run = sample(tiny_model, [SONG], 0.2, tmp_path / "run", parallel=True)
    n_ctx = tiny_model.info.priors["prior_0"].config.n_ctx
    assert f"level 0: {run.total(0)} codes in {n_ctx} sequential steps" in capsys.readouterr().out
    assert_full(run, 1)
    few = sample(tiny_model, [SONG], 0.2, tmp_path / "few", parallel=True, batch=3, levels=(2, 1))
    assert f"level 1: {run.total(1)} codes in {2 * n_ctx} sequential steps" in capsys.readouterr().out
    assert few.count(1) == few.total(1) and np.array_equal(few.codes(2), run.codes(2))


def test_a_parallel_continuation_keeps_its_prompt_and_out_of_memory_takes_fewer_windows(
    tiny_model, recording, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        asked = starve(patch, 3)
        run = continue_(tiny_model, [SONG, SONG], [recording], 0.1, 0.25, tmp_path / "run", parallel=True, levels=(2, 1))
    assert max(asked) > 3 and run.request["cuts"]
    codes = tiny_model.codec().encode(torch.from_numpy(read(recording)[0][None, :, : 17 * 128]), STREAMS)
    for level in (2, 1):
        kept = run.request["given"][str(level)]
        assert np.array_equal(run.codes(level, stop=kept), np.concatenate([codes[STREAMS[level]].numpy()[:, :kept]] * 2))
    assert_full(run, 2)
    asked = starve(monkeypatch, 100)
    assert_same(run, walk.replay(run.folder, tmp_path / "again"))
    assert max(asked) <= 3


def test_upsample_keeps_the_top_and_writes_the_levels_below(tiny_model, tmp_path):
    whole = sample(tiny_model, [SONG, SONG], 0.1, tmp_path / "whole", seed=3)
    top = sample(tiny_model, [SONG, SONG], 0.1, tmp_path / "top", seed=3, levels=(2,))
    assert not top.count(0)
    other = walk.upsample(top, tmp_path / "other", seed=9)
    assert np.array_equal(other.codes(2), whole.codes(2))
    assert not np.array_equal(other.codes(1), whole.codes(1))
    with pytest.raises(UserError, match="needs a copy"):
        walk.upsample(top, seed=9)
    assert_same(whole, walk.upsample(top))  # the same seed: as if it had been sampled whole


def starve(monkeypatch, most: int) -> list[int]:
    """From now on a prior has memory for `most` rows and not for more; the rows it was asked for."""
    asked = []

    def starved(plain):
        def start(self, window, known, *more):
            asked.append(len(known.mask[self.stream]))
            if asked[-1] > most:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes.")
            return plain(self, window, known, *more)

        return start

    for kind in (AutoregressivePrior, TokenPrior):
        monkeypatch.setattr(kind, "start", starved(kind.start))
    return asked


def test_out_of_memory_halves_the_batch_for_good_and_replay_halves_it_too(each_model, tmp_path, monkeypatch):
    levels, seconds = top_levels(each_model), 0.2 * pace(each_model)
    with monkeypatch.context() as patch:
        asked = starve(patch, 2)
        run = sample(each_model, SONGS, seconds, tmp_path / "run", seed=1, levels=levels)
    assert asked[:3] == [5, 3, 2] and max(asked[3:]) == 2
    assert [cut["into"] for cut in run.request["cuts"]] == [[[0, 1, 2], [3, 4]], [[0, 1], [2]]]
    asked = starve(monkeypatch, 5)
    again = walk.replay(run.folder, tmp_path / "again")
    assert max(asked) == 2  # there would be memory, but other batches round otherwise
    assert_same(run, again)


def test_out_of_memory_in_the_middle_of_a_window_loses_nothing(tiny_model, tmp_path, monkeypatch):
    plain = AutoregressivePrior.sample

    def sample_until_memory_runs_out(self, state):
        self.block = 5
        for i, part in enumerate(plain(self, state)):
            if i == 2 and len(state.numbers) == 4:
                raise MemoryError
            yield part

    monkeypatch.setattr(AutoregressivePrior, "sample", sample_until_memory_runs_out)
    monkeypatch.setattr(sampler, "EVERY", 0.0)
    run = sample(tiny_model, SONGS[:4], 0.25, tmp_path / "run", levels=(2,))
    cut = {"level": 2, "start": 0, "at": 10, "samples": [0, 1, 2, 3], "into": [[0, 1], [2, 3]]}
    assert run.request["cuts"] == [cut] and run.count(2) == run.total(2)
    monkeypatch.setattr(AutoregressivePrior, "sample", plain)
    assert_same(run, walk.replay(run.folder / "run.json", tmp_path / "again"))


def test_no_memory_for_one_sample_is_one_clear_error_and_a_run_that_can_go_on(tiny_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        starve(patch, 0)
        with pytest.raises(UserError, match="not enough memory for one sample at level 2"):
            sample(tiny_model, SONGS[:2], 0.25, tmp_path / "run", levels=(2,))
    run = walk.resume(Run.open(tmp_path / "run"))
    assert run.count(2) == run.total(2) and len(run.request["cuts"]) == 1


def test_another_error_is_not_taken_for_a_lack_of_memory(tiny_model, tmp_path, monkeypatch):
    def start(self, *more):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(AutoregressivePrior, "start", start)
    with pytest.raises(RuntimeError, match="shapes"):
        sample(tiny_model, SONGS[:2], 0.25, tmp_path / "run", levels=(2,))


def test_one_prior_is_in_memory_at_a_time(tiny_model, tmp_path, monkeypatch):
    plain, made, alive = ModelFolder.prior, [], []

    def prior(self, name, *args, **more):
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        made.append(weakref.ref(found := plain(self, name, *args, **more)))
        return found

    monkeypatch.setattr(ModelFolder, "prior", prior)
    sample(tiny_model, SONGS[:2], 0.05, tmp_path / "run")
    assert alive == [0, 0, 0]


def test_codes_that_another_machine_samples_otherwise_stay_and_the_rest_follows_them(tiny_model, tmp_path, monkeypatch, capsys):
    in_blocks(monkeypatch, 7)
    monkeypatch.setattr(sampler, "EVERY", 0.0)
    with monkeypatch.context() as patch:
        cut_off(patch, 2)
        with pytest.raises(Killed):
            sample(tiny_model, [SONG], 0.25, tmp_path / "run", levels=(2,))
    run = Run.open(tmp_path / "run")
    kept = run.codes(2)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "WindowNoise", lambda seed, *more: WindowNoise(99, *more))
        walk.resume(run)
    assert "other codes than those on disk" in capsys.readouterr().err
    assert kept.shape[1] == 14 and np.array_equal(run.codes(2, stop=14), kept) and run.count(2) == run.total(2)


def test_the_request_records_everything(run):
    asked = json.loads((run.folder / "run.json").read_text())
    assert asked["seed"] == 3 and asked["seconds"] == SECONDS and asked["hops"] == [8, 32, 128]
    assert asked["samples"][0]["artist"] == "ann" and asked["samples"][0]["word_times"]
    assert set(asked["model_hash"]) == {
        "codec.safetensors",
        "prior_0.safetensors",
        "prior_1.safetensors",
        "prior_2.safetensors",
    }
    assert asked["params"]["2"] == vars(AutoregressiveParams())
    assert asked["version"] == 3 and asked["route"] == "jukebox"
    assert asked["priors"] == {str(level): f"prior_{level}" for level in range(3)}
    assert asked["noise"] == {str(level): level for level in range(3)}
    assert asked["planners"]["1"] == {"kind": "prefix", "n_ctx": 32, "step": 16, "column": 1}


# ---- step by step


@pytest.mark.parametrize("options", [{}, {"batch": 1}])
def test_steps_yield_all_frames_of_every_level_as_they_are_written(options, each_model, tmp_path, capsys):
    check_steps(each_model, options, tmp_path)
    assert capsys.readouterr() == ("", "")  # no progress bar


def test_steps_yield_all_frames_of_windows_in_parallel(tiny_model, tmp_path):
    check_steps(tiny_model, {"parallel": True}, tmp_path)


def check_steps(model: ModelFolder, options: dict, folder: Path) -> None:
    levels, seconds = top_levels(model), 0.3 * pace(model)
    asked = request.sampled(model.info, [SONG, SONG], seconds, settings_of(model, seed=3, levels=levels, **options))
    run, seen = Run.create(folder / "run", asked), []
    for written in walk.steps(run):
        seen.append(written)
        on_disk = Run.open(run.folder)
        assert written.done == sum(on_disk.count(written.level, [i]) for i in range(2))
    for level in levels:
        here = [written for written in seen if written.level == level]
        assert sum(written.frames * len(written.samples) for written in here) == 2 * run.total(level) == here[0].total
        assert [written.done for written in here] == sorted(written.done for written in here)
        assert here[-1].done == here[-1].total
    assert [written.level for written in seen] == sorted((written.level for written in seen), reverse=True)
    assert list(walk.steps(Run.open(run.folder))) == []


@pytest.mark.parametrize("options", [{}, {"batch": 1}, {"parallel": True}])
@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_report_that_raises_stops_the_run_which_resumes_to_the_same_codes(
    options, written, each_model, tmp_path, capsys, monkeypatch
):
    in_blocks(monkeypatch, 8)
    levels, seconds = top_levels(each_model), 0.3 * pace(each_model)
    if options.get("parallel") and len(levels) < 2:
        pytest.skip("windows in parallel are of finer levels")
    asked = request.sampled(each_model.info, [SONG, SONG], seconds, settings_of(each_model, seed=3, levels=levels, **options))
    whole = walk.resume(Run.create(tmp_path / "whole", asked))
    capsys.readouterr()
    reported = []

    def report(update):
        reported.append(update)
        if len(reported) > written:
            raise Killed

    with pytest.raises(Killed):
        walk.resume(Run.create(tmp_path / "run", asked), report=report)
    assert len(reported) == written + 1 and capsys.readouterr().err == ""  # no progress bar
    run = Run.open(tmp_path / "run")
    assert run.count(levels[-1]) < run.total(levels[-1])
    assert_same(whole, walk.resume(run, report=reported.append))  # nothing is locked any more
    assert reported[-1].done == reported[-1].total == 2 * run.total(levels[-1]) and capsys.readouterr().err == ""
    for path in (whole.folder / "audio").iterdir():
        assert path.read_bytes() == (run.folder / "audio" / path.name).read_bytes()


def test_a_progress_bar_is_shown_without_a_report(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    sample(tiny_model, [SONG], 0.1, tmp_path / "run", levels=(2,))
    assert "level 2: 100%" in capsys.readouterr().err


def test_a_run_whose_steps_are_left_in_the_middle_is_unlocked(tiny_model, tmp_path):
    asked = request.sampled(tiny_model.info, [SONG], 0.3, settings_of(tiny_model, levels=(2,)))
    run = Run.create(tmp_path / "run", asked)
    progress = walk.steps(run)
    next(progress)
    with pytest.raises(UserError, match="is being written by another process"):
        walk.resume(Run.open(run.folder))
    progress.close()
    assert walk.resume(Run.open(run.folder)).count(2) == run.total(2)
