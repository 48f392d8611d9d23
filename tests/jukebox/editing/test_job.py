"""An edit is a run: interrupted, resumed and replayed to equal codes and equal bytes of its result, of the columns around it alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.audio import audio
from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.editing import recording
from jukebox.editing import verbs as edit
from jukebox.editing.job import Edited
from jukebox.editing.result import finish
from jukebox.params import KeptPrompt
from jukebox.runs.run import KNOWN, Run
from jukebox.sampling import walk
from jukebox.sampling.layout import MARGIN
from jukebox.song import Song
from launch.cli import main
from tests.jukebox.editing.edits import (
    HOP,
    RATE,
    RATIOS,
    Interrupted,
    assert_same_codes,
    interrupt,
    passes_of,
    ratios_of,
    samples,
    settings_of,
    with_masked,
    write_song,
)  # fmt: skip

PER_SECOND = RATE / HOP
Edit = Callable[..., Edited]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Jukebox:
    return with_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module", params=["three levels", "spectral"])
def either(request, model, tmp_path_factory) -> Jukebox:
    """A model with a masked prior of three levels, or of frames of several codes."""
    return model if request.param == "three levels" else with_masked(tmp_path_factory.mktemp("frames"), preset="test_spectral")


@pytest.fixture(scope="module")
def without_lyrics(tmp_path_factory) -> Jukebox:
    """A model whose masked prior is not conditioned on lyrics; the prior of its coarsest level is."""
    return with_masked(tmp_path_factory.mktemp("without"), lyrics=False)


@pytest.fixture
def song(tmp_path) -> Path:
    return write_song(tmp_path / "song.flac", 48000, subtype="PCM_24", seconds=1.5)


def resampled(model: Jukebox, song: Path, out: Path, **options) -> Edited:
    return edit.edit(model, song, out, 0.5, 1.0, settings=settings_of(**{"passes": passes_of(model), **options}))


def varied(model: Jukebox, song: Path, out: Path, **options) -> Edited:
    return edit.vary(
        model, song, out, KeptPrompt(periodic=3), settings=settings_of(takes=2, passes=passes_of(model), **options)
    )


def extended(model: Jukebox, song: Path, out: Path, **options) -> Edited:
    return edit.extend(model, song, out, 0.2, 0.3, settings=settings_of(passes=passes_of(model), **options))


# ---- interrupted, resumed, replayed


@pytest.mark.parametrize("verb", [resampled, varied, extended])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_an_interrupted_edit_is_finished_by_the_same_command_and_by_resume(either, song, tmp_path, verb: Edit, share):
    model, updates = either, []
    whole = verb(model, song, tmp_path / "whole", report=updates.append)
    after = 1 + int(share * (len(updates) - 1))
    for name in ("same", "resumed"):
        interrupt(lambda report, name=name: verb(model, song, tmp_path / name, report=report), after)
        assert not list(tmp_path.glob(f"{name}*.flac"))
        partial = Run.open(tmp_path / f"{name}.run")
        assert partial.count(partial.finest) < partial.total(partial.finest)
    same = verb(model, song, tmp_path / "same")
    run = walk.resume(Run.open(tmp_path / "resumed.run"))
    files = finish(run, model)
    assert len(whole.takes) == len(same.takes) == len(files) == whole.made == same.made
    assert_same_codes(whole.run, same.run)
    assert_same_codes(whole.run, run)
    for first, second, third in zip(whole.takes, same.takes, files):
        assert first.read_bytes() == second.read_bytes() == third.read_bytes()


@pytest.mark.parametrize(
    ("name", "params"), [("song.flac", {"subtype": "PCM_24"}), ("song.wav", {"subtype": "FLOAT"}), ("song.mp3", {})]
)
@pytest.mark.parametrize("verb", [resampled, extended])
def test_resume_needs_the_recording_no_more(model, tmp_path, name, params, verb: Edit):
    song = write_song(tmp_path / name, seconds=1.5, **params)
    old = audio.read(song)[0].T if name.endswith("mp3") else samples(song)
    whole = verb(model, song, tmp_path / "whole")
    interrupt(lambda report: verb(model, song, tmp_path / "new", report=report), 3)
    song.unlink()
    (made,) = finish(walk.resume(Run.open(tmp_path / "new.run")), model)
    assert made.read_bytes() == whole.takes[0].read_bytes()
    assert soundfile.info(made).subtype == params.get("subtype", "FLOAT")
    before = 0 if verb is resampled else round(0.2 * 44100)
    kept = slice(0, round(0.5 * 44100)) if verb is resampled else slice(0, len(old))
    assert np.array_equal(samples(made)[before:][kept], old[kept])


def test_jukebox_resume_finishes_an_edit_to_its_file(model, song, tmp_path, capsys):
    whole = resampled(model, song, tmp_path / "whole")
    interrupt(lambda report: resampled(model, song, tmp_path / "new", report=report), 4)
    assert main(["resume", str(tmp_path / "new.run")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "new.flac")
    assert (tmp_path / "new.flac").read_bytes() == whole.takes[0].read_bytes()
    (tmp_path / "new.flac").unlink()
    assert main(["resume", str(tmp_path / "new.run")]) == 0  # the codes are there: only the file is written again
    assert (tmp_path / "new.flac").read_bytes() == whole.takes[0].read_bytes()


def test_the_run_of_an_interrupted_edit_is_free_for_the_next_command(model, song, tmp_path):
    """Also while the exception, which refers to the frames of the run, is still referred to, as it is in a notebook."""

    def report(_):
        raise Interrupted

    with pytest.raises(Interrupted) as caught:
        resampled(model, song, tmp_path / "new", report=report)
    assert resampled(model, song, tmp_path / "new").made == 1 and caught.traceback


def test_a_replay_gives_the_same_codes_and_one_with_another_seed_does_not(either, song, tmp_path):
    model = either
    made = varied(model, song, tmp_path / "new")
    stamps = [path.stat().st_mtime_ns for path in made.takes]
    song.unlink()
    assert_same_codes(made.run, walk.replay(made.run.folder, tmp_path / "again"))
    assert_same_codes(made.run, walk.replay(made.run.folder / "run.json", tmp_path / "once_more", model))
    assert main(["replay", str(made.run.folder), "--out", str(tmp_path / "typed")]) == 0
    assert_same_codes(made.run, Run.open(tmp_path / "typed"))
    assert [path.stat().st_mtime_ns for path in made.takes] == stamps
    other = shutil.copytree(made.run.folder, tmp_path / "other.run")
    request = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(request | {"seed": 1}))
    with pytest.raises(UserError, match=f"level {made.run.request['levels'][0]} of sample 0 differs"):
        walk.replay(other, tmp_path / "differs")


def test_a_report_gets_every_frame_once(either, song, tmp_path):
    seen: list = []
    made = varied(either, song, tmp_path / "new", report=seen.append)
    levels = made.run.request["levels"]
    frames = {level: sum(each.frames * len(each.samples) for each in seen if each.level == level) for level in levels}
    assert frames == {level: 2 * made.run.total(level) for level in levels}
    assert any(each.frames == 0 for each in seen)  # in the middle of a window


# ---- what the run holds


def test_frames_that_are_not_kept_have_no_influence(either, song, tmp_path):
    model, streams = either, ratios_of(either)
    whole = varied(model, song, tmp_path / "whole")
    interrupt(lambda report: varied(model, song, tmp_path / "new", report=report), 1)
    with np.load(tmp_path / "new.run" / KNOWN) as file:
        arrays = {name: file[name] for name in file.files}
    kept = {stream: arrays[stream].copy() for stream in streams}
    for stream in streams:
        arrays[stream][~arrays[f"{stream}.mask"]] = 31
    np.savez(tmp_path / "new.run" / KNOWN, **arrays)
    assert_same_codes(whole.run, walk.resume(Run.open(tmp_path / "new.run")))
    interrupt(lambda report: varied(model, song, tmp_path / "changed", report=report), 1)
    for stream in streams:  # the control: those that are kept have
        arrays[stream] = kept[stream].copy()
        arrays[stream][arrays[f"{stream}.mask"]] = (kept[stream][arrays[f"{stream}.mask"]] + 1) % 32
    np.savez(tmp_path / "changed.run" / KNOWN, **arrays)
    top = whole.run.request["levels"][0]
    other, unknown = walk.resume(Run.open(tmp_path / "changed.run")), ~arrays[f"{whole.run.stream(top).name}.mask"]
    assert not np.array_equal(other.codes(top)[:, unknown], whole.run.codes(top)[:, unknown])


def test_an_edit_of_a_long_song_encodes_and_samples_the_columns_around_it_alone(model, tmp_path, monkeypatch):
    """Both ends of a minute are extended: two pieces of MARGIN seconds and the new columns, each encoded with MARGIN beside it."""
    song, encoded, true = write_song(tmp_path / "long.wav", RATE, 1, 60.0, subtype="PCM_16"), [], recording._sound

    def counted(*args):
        for block in true(*args):
            encoded.append(block.shape[1])
            yield block

    monkeypatch.setattr(recording, "_sound", counted)
    made = edit.extend(model, song, tmp_path / "longer", 0.2, 0.3, settings=settings_of())
    margin, before, after = int(np.ceil(MARGIN * PER_SECOND)), int(np.ceil(0.2 * PER_SECOND)), 0.3 * PER_SECOND
    (_, low, first), (begin, high, second) = made.run.request["pieces"]
    assert low == 0 and first == begin == before + margin
    assert second - margin - after == pytest.approx(0, abs=2) and high == before + int(60 * PER_SECOND) - margin
    with np.load(made.run.folder / KNOWN) as known:
        for level, (stream, ratio) in enumerate(RATIOS.items()):
            assert len(known[stream]) == len(known[f"{stream}.mask"]) == made.run.total(level) == (first + second) * ratio
            assert (~known[f"{stream}.mask"]).sum() == pytest.approx((before + after) * ratio, abs=2 * ratio)
    assert sum(encoded) == pytest.approx(4 * margin * HOP, rel=0.01)  # of 60 seconds 6
    assert np.array_equal(samples(made.takes[0])[round(0.2 * RATE) :][: 60 * RATE], samples(song))


def test_the_columns_of_a_piece_are_conditioned_on_their_place_in_the_song(either, tmp_path):
    """Timing is that of the whole result: with another length of the song the same piece becomes another one."""
    model, passes = either, passes_of(either)
    song = write_song(tmp_path / "song.wav", RATE, 1, 8.0)
    plain = edit.edit(model, song, tmp_path / "plain", 6.0, 6.2, settings=settings_of(passes=passes))
    longer = edit.edit(model, song, tmp_path / "longer", 6.0, 6.2, settings=settings_of(total_seconds=60.0, passes=passes))
    assert plain.run.request["pieces"] == longer.run.request["pieces"] and plain.run.request["pieces"][0][1] > 0
    assert plain.run.request["total_seconds"] == pytest.approx(8.0, abs=0.012) and longer.run.request["total_seconds"] == 60.0
    top = plain.run.request["levels"][0]
    assert not np.array_equal(plain.run.codes(top), longer.run.codes(top))


def test_an_edit_writes_its_run_and_its_file_and_nothing_else(model, song, tmp_path):
    made = resampled(model, song, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.flac", "new.run", "song.flac"]
    assert {path.name for path in made.run.folder.iterdir() if path.name[0] != "."} == {
        "run.json", "progress.jsonl", "known.npz", "prompt.flac", "tags.json", "codes", "index.html",
    }  # fmt: skip
    request = json.loads((made.run.folder / "run.json").read_text())
    assert request["version"] == 3 and request["verb"] == "edit" and request["route"] == "edit"
    assert request["priors"] == {"2": "masked", "1": "masked", "0": "masked"}
    assert {planner["kind"] for planner in request["planners"].values()} == {"mask"}
    assert request["outputs"] == ["../new.flac"] and request["recording"]["path"] == "../song.flac"


def test_a_run_without_its_request_is_begun_again(model, song, tmp_path):
    """What a kill leaves before run.json is written."""
    whole = resampled(model, song, tmp_path / "whole")
    interrupt(lambda report: resampled(model, song, tmp_path / "new", report=report), 1)
    (tmp_path / "new.run" / "run.json").unlink()
    assert resampled(model, song, tmp_path / "new").takes[0].read_bytes() == whole.takes[0].read_bytes()


# ---- lyrics without a masked prior that is conditioned on them


def sung(model: Jukebox, song: Path, out: Path, text: str = "la la la oh my", **options) -> Edited:
    settings = settings_of(words=Song(lyrics=text), passes=(2, 2), **options)
    return edit.edit(model, song, out, 0.5, 1.0, settings=settings)


def test_lyrics_are_sampled_by_the_prior_of_the_coarsest_level_over_a_region(without_lyrics, song, tmp_path):
    made = sung(without_lyrics, song, tmp_path / "new")
    request, run = made.run.request, made.run
    assert request["priors"] == {"2": "prior_2", "1": "masked", "0": "masked"} and run.request["levels"] == [2, 1, 0]
    assert {level: planner["kind"] for level, planner in request["planners"].items()} == {
        "2": "region",
        "1": "mask",
        "0": "mask",
    }
    for level in range(3):
        (codes,), (old, kept) = run.codes(level), run.known(level)
        assert np.array_equal(codes[kept], old[kept]) and (codes[~kept] != old[~kept]).mean() > 0.5
    old, new = samples(song), samples(made.takes[0])
    assert np.array_equal(new[:24000], old[:24000]) and np.array_equal(new[48000:], old[48000:])
    other = sung(without_lyrics, song, tmp_path / "other", "my oh my la la")
    assert not np.array_equal(run.codes(2), other.run.codes(2))
    plain = edit.edit(without_lyrics, song, tmp_path / "plain", 0.5, 1.0, settings=settings_of())
    assert plain.run.request["priors"]["2"] == "masked"  # without lyrics, the masked prior samples all levels


def test_a_region_is_conditioned_on_what_is_before_it_and_not_after(without_lyrics, song, tmp_path):
    """Known columns changed before the region change its coarsest codes; those after it only the finer ones."""
    whole = sung(without_lyrics, song, tmp_path / "whole").run
    known = np.flatnonzero(~whole.known(2)[1])
    first, stop = known[0], known[-1] + 1
    for name, where in (("before", slice(0, first)), ("after", slice(stop, None))):
        interrupt(lambda report, name=name: sung(without_lyrics, song, tmp_path / name, report=report), 1)
        folder = tmp_path / f"{name}.run"
        shutil.rmtree(folder / "codes", ignore_errors=True)
        (folder / "progress.jsonl").unlink(missing_ok=True)
        with np.load(folder / KNOWN) as file:
            arrays = {key: file[key] for key in file.files}
        arrays["vq.2"][where] = (arrays["vq.2"][where] + 1) % 32
        np.savez(folder / KNOWN, **arrays)
        run, region = walk.resume(Run.open(folder)), slice(first, stop)
        assert np.array_equal(run.codes(2)[:, region], whole.codes(2)[:, region]) == (name == "after")
        finer = slice(4 * first, 4 * stop)
        assert not np.array_equal(run.codes(1)[:, finer], whole.codes(1)[:, finer])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_a_region_that_was_interrupted_is_finished_to_equal_codes(without_lyrics, song, tmp_path, share):
    updates: list = []
    whole = sung(without_lyrics, song, tmp_path / "whole", takes=2, report=updates.append)
    after = 1 + int(share * len(updates))
    interrupt(lambda report: sung(without_lyrics, song, tmp_path / "new", takes=2, report=report), after)
    again = sung(without_lyrics, song, tmp_path / "new", takes=2)
    assert_same_codes(whole.run, again.run)
    assert [path.read_bytes() for path in whole.takes] == [path.read_bytes() for path in again.takes]


@pytest.mark.parametrize("left", [[], ["prior_2"]])
def test_lyrics_on_which_no_prior_of_the_coarsest_level_is_conditioned_raise(tmp_path, song, left):
    model = with_masked(tmp_path / "model", lyrics=False)
    config = json.loads((model.folder / "config.json").read_text())
    config["priors"] = [prior for prior in config["priors"] if prior["name"] in ["masked", *left]]
    for prior in config["priors"]:
        prior["config"]["lyrics"] = None
    (model.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no prior of vq.2 that is conditioned on lyrics"):
        sung(Jukebox.from_pretrained(model.folder), song, tmp_path / "new")
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": 1e9}, {"seconds": 1e300}, {"seconds": "2"}, {"samples": []}, {"batches": [[0, 0]]}, {"pieces": [[0, 0, 10**9]]},
        {"pieces": [[0, -5, 3]]}, {"planners": {}}, {"hops": [1, 2, 3]}, {"outputs": []}, {"total_seconds": 1e300},
        {"recording": {"samples": 10**12}}, {"recording": {"rate": 0}}, {"recording": {"spans": [[0, 10**12]]}},
        {"recording": {"target": ["X", "Y"]}}, {"planners": {"2": {"n_ctx": 0}}}, {"params": {"2": {"passes": 10**9}}},
        {"known": lambda array: array[:5]}, {"known": lambda array: array * 1.5}, {"known": lambda array: array * 0 + 60_000},
    ],
    ids=lambda change: str(change).partition(" at 0x")[0],
)  # fmt: skip
def test_an_edit_from_elsewhere_whose_parts_do_not_belong_together_is_one_line(change, model, tmp_path, capsys) -> None:
    song = write_song(tmp_path / "a.wav", RATE, 1, 2.0)
    edit.edit(model, song, tmp_path / "b.wav", 1.0, 1.1, settings=settings_of())
    (tmp_path / "b.wav").unlink()
    shutil.rmtree(tmp_path / "b.run" / "codes")
    (tmp_path / "b.run" / "progress.jsonl").unlink()
    asked = json.loads((tmp_path / "b.run" / "run.json").read_text())
    if known := change.get("known"):
        with np.load(tmp_path / "b.run" / KNOWN) as file:
            arrays = {name: known(file[name]) if name == "vq.2" else file[name] for name in file.files}
        np.savez(tmp_path / "b.run" / KNOWN, **arrays)
    else:
        asked = merged(asked, change)
    (tmp_path / "b.run" / "run.json").write_text(json.dumps(asked))
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "b.run")]) == 2 and not (tmp_path / "b.wav").exists()
    assert capsys.readouterr().err.splitlines()[-1].startswith("jukebox resume: ")


def merged(old: dict, new: dict) -> dict:
    """A dict with the values of another, of the dicts in it too."""
    both = {k: merged(old[k], v) if isinstance(v, dict) and v and isinstance(old.get(k), dict) else v for k, v in new.items()}
    return old | both
