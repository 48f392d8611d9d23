"""What is wrong with audio is found, in any blocks, and music, speech, drums and quiet sounds are left alone."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read, write_wav
from data_prep.synthetic.instruments import drum
from data_prep.synthetic.songs import make_song, sing_lines
from jukebox import Jukebox
from jukebox.model.code_file import Codes
from jukebox.runs.run import Run
from jukebox.sampling.output_checks import OutputCheck, kind_of
from jukebox.song import Song
from launch.cli import main
from tests.jukebox.sampling.models import with_masked_prior

RATE = 22050
RNG = np.random.default_rng(0)
WHITE = RNG.normal(size=6 * RATE) * 0.1


def coloured(slope: float) -> np.ndarray:
    """Noise whose amplitude falls as frequency to the power `slope`."""
    hz = np.maximum(np.fft.rfftfreq(len(WHITE), 1 / RATE), 20)
    noise = np.fft.irfft(np.fft.rfft(WHITE) * hz**-slope)
    return 0.5 * noise / np.abs(noise).max()


def drums(names: str, per_second: float) -> np.ndarray:
    sound, step = np.zeros(6 * RATE), int(RATE / per_second)
    for i, at in enumerate(range(0, len(sound) - RATE // 2, step)):
        sound[at : at + RATE // 2] += 0.4 * drum(names.split()[i % len(names.split())], RATE // 2, RATE)
    return sound


def song(seed: int) -> np.ndarray:
    return make_song(seed, seconds=6.0).audio[0]


def voice() -> np.ndarray:
    annotation = make_song(1, seconds=12.0, lyrics="all the cold wind will run and the river is mine").annotation
    sung = sing_lines(annotation.lines, annotation.score.artist.throat, 12 * RATE, RATE)
    return 0.5 * sung / np.abs(sung).max()


def findings(audio: np.ndarray, block: int = 5000, start: float = 0.0) -> list[dict]:
    check = OutputCheck(RATE, start=start)
    for at in range(0, audio.shape[-1], block):
        check.push(np.atleast_2d(audio)[:, at : at + block])
    return check.finish()


def kinds(audio: np.ndarray) -> list[str]:
    return [found["kind"] for found in findings(audio)]


@pytest.mark.parametrize(
    "noise", [WHITE, coloured(0.5), WHITE * np.linspace(0.5, 1, len(WHITE))], ids=["white", "pink", "louder"]
)
def test_noise_is_noise_and_its_place_and_remedy_are_named(noise):
    (found,) = findings(noise)
    assert (found["kind"], found["start"]) == ("noise", 0) and "from 0.00 s to 6.13 s" not in found["text"]
    assert "train it further" in found["text"]


@pytest.mark.parametrize(
    "sound",
    [song(0), song(3), song(0) * 0.01, voice(), drums("kick hat snare hat", 4), drums("snare", 16), drums("snare brush hat open", 8)],
    ids=["song", "another song", "a quiet song", "voice", "a kit", "a snare roll", "a kit without tones"],
)  # fmt: skip
def test_music_speech_drums_and_quiet_music_are_not_reported(sound):
    assert kinds(sound) == []


def test_the_hum_of_an_untrained_decoder_is_reported_and_a_song_with_a_hum_is_not():
    hum = np.tile(RNG.normal(size=128) * 0.1, 6 * RATE // 128)
    assert kinds(hum) == ["constant"]
    assert kinds(hum * 0.2 + song(0)[: len(hum)]) == []


def test_clipped_samples_are_counted_with_their_peak_and_place():
    loud = song(0) * 0.5
    loud[30000:30040] = 1.5
    (found,) = findings(loud)
    assert found["text"].startswith("40 samples are clipped (peak 1.50, +3.5 dBFS) from 1.3")
    loud[30000:30040] = 1.05  # a few samples that are half a decibel too loud are not audible
    assert findings(loud) == [] and findings(song(0) / np.abs(song(0)).max()) == []


def test_silence_is_reported_where_it_is_long_or_all_there_is():
    sound = np.concatenate([song(0), np.zeros(5 * RATE)])
    (found,) = findings(sound, start=10.0)
    assert found["kind"] == "silent" and 15.9 < found["start"] < 16.1 and 20.9 < found["end"] < 21.1
    assert kinds(np.zeros(RATE // 4)) == ["silent"]
    assert kinds(np.concatenate([song(0), np.zeros(3 * RATE), song(1)])) == []  # a pause


def test_values_that_are_not_finite_are_counted_and_become_silence():
    sound = np.stack([song(0), song(0)]).astype(np.float32)
    sound[1, 40000:40010] = np.nan
    sound[0, 40005] = -np.inf
    check = OutputCheck(RATE)
    clean = check.push(sound)
    (found,) = check.finish()
    assert (
        np.isfinite(clean).all() and (clean[1, 40000:40010] == 0).all() and np.array_equal(clean[:, :40000], sound[:, :40000])
    )
    assert found["text"].startswith("11 values that are not finite from 1.81 s to 1.81 s; silence is written there")
    assert check.push(song(1)[None]) is not None and not OutputCheck(RATE).finish()


def test_what_is_found_does_not_depend_on_the_blocks():
    sound = np.concatenate([song(0), WHITE, np.zeros(5 * RATE), song(1) * 4])
    sound[7 * RATE] = np.nan
    whole = findings(sound, len(sound))
    assert [found["kind"] for found in whole] == ["not finite", "clipped", "silent", "noise"]
    assert findings(sound, 777) == findings(sound, 100_000) == whole


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_code_that_is_repeated_for_more_than_a_second_is_found_and_less_is_not(block):
    codes = RNG.integers(0, 2048, (1000, 2)).astype(np.uint16)  # 100 a second
    codes[300:450], codes[700:790] = codes[300], codes[700]
    codes[500:650, 0] = 7  # one book of two
    check = OutputCheck(RATE, codes_per_second=100)
    for at in range(0, len(codes), block):
        check.push_codes(codes[at : at + block])
    (found,) = check.finish()
    assert (found["kind"], found["start"], found["end"]) == ("repeated", 3.0, 4.5)
    check.push(np.zeros((1, 10 * RATE)))
    assert [each["kind"] for each in check.finish()] == ["silent"]  # of silence all codes are equal


def test_the_measures_of_a_piece_are_pure_functions_at_any_rate():
    for rate in (16000, 22050, 44100):
        assert kind_of(RNG.normal(size=2 * rate) * 0.1, rate) == "noise"
        assert kind_of(make_song(2, seconds=2.0, sample_rate=rate).audio[0], rate) == ""


# ---- real verbs


def changed(model: Jukebox, folder: Path, change: Callable[[torch.Tensor], object]) -> Jukebox:
    """A copy of a model whose decoders end otherwise."""
    shutil.copytree(model.folder, folder)
    other = Jukebox.from_pretrained(folder)
    codec = other.codec(other.spec.names)
    with torch.no_grad():
        for level in codec.levels.values():  # type: ignore[union-attr]
            for parameter in [*level.decoder.parameters()][-2:]:  # type: ignore[union-attr]
                change(parameter)
    other.save_codec(codec)
    return Jukebox.from_pretrained(folder)


CHANGES = {
    "clipped": lambda x: x.mul_(100),
    "silent": lambda x: x.zero_(),
    "not finite": lambda x: x.fill_(1e30).mul_(1e30) if x.dim() > 1 else None,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_sample_prints_one_line_and_records_and_marks_it(tiny_model, tmp_path, capsys, kind):
    model, run = changed(tiny_model, tmp_path / "model", CHANGES[kind]), tmp_path / "run"
    assert main(["sample", str(model.folder), "--seconds", "0.2", "--out", str(run)]) == 0
    said = {"clipped": "samples are clipped", "silent": "silence", "not finite": "values that are not finite"}[kind]
    lines = [line for line in capsys.readouterr().err.splitlines() if said in line]
    assert any(f"{run}: level 0: " in line for line in lines) and "Traceback" not in str(lines)
    found = [(each["level"], each["kind"]) for each in json.loads((run / "run.json").read_text())["findings"]]
    assert (0, kind) in found
    assert said in (run / "index.html").read_text()
    assert main(["branch", str(run), "--keep_seconds", "0.1", "--out", str(tmp_path / "more")]) == 0
    assert said in capsys.readouterr().err
    assert main(["resume", str(run)]) == 0 and main(["replay", str(run), "--out", str(tmp_path / "again")]) == 0
    assert Run.open(tmp_path / "again").request["findings"] == Run.open(run).request["findings"]


def test_a_good_run_has_no_line_and_no_mark(tiny_model, tmp_path, capsys):
    assert main(["sample", str(tiny_model.folder), "--seconds", "0.2", "--out", str(tmp_path / "run")]) == 0
    assert not [line for line in capsys.readouterr().err.splitlines() if "level 0:" in line and "code" not in line]
    assert "findings" not in Run.open(tmp_path / "run").request


def test_the_song_of_an_untrained_model_is_reported(tiny_model, spectral_model, tmp_path, capsys):
    for model, said in ((tiny_model, "a hum that does not change"), (spectral_model, "noise without tones")):
        out = tmp_path / model.folder.name
        assert main(["sample", str(model.folder), "--seconds", "3", "--levels", str(model.spec.names.index(
            next(iter(model.info.route().priors)))), "--out", str(out)]) == 0  # fmt: skip
        assert said in capsys.readouterr().err


def test_codec_reports_repeated_codes_silence_and_clipping(tiny_model, tmp_path, capsys):
    rate, model = tiny_model.sample_rate, str(tiny_model.folder)
    rng = np.random.default_rng(0)
    for name, frames in (("same", np.zeros(3 * rate // 8)), ("other", rng.integers(0, 16, 3 * rate // 8))):
        samples = len(frames) // 16 * 128
        frames = frames[: samples // 8].astype(np.uint16)
        hashes = {"vq.0": tiny_model.info.codes_hash("vq.0")}
        Codes({"vq.0": frames}, rate, samples, hashes).save(tmp_path / f"{name}.npz")
        assert main(["codec", "decode", str(tmp_path / f"{name}.npz"), "--model", model, "--level", "0"]) == 0
        assert ("one code is repeated from 0.00 s" in capsys.readouterr().err) == (name == "same")
    write_wav(tmp_path / "song.wav", make_song(0, seconds=1.0).audio, rate)
    loud = changed(tiny_model, tmp_path / "loud", CHANGES["clipped"])
    for opened, expected in ((loud, True), (tiny_model, False)):
        words = [
            "codec",
            "reconstruct",
            str(tmp_path / "song.wav"),
            "--model",
            str(opened.folder),
            "--out",
            str(tmp_path / "r.wav"),
        ]
        assert main(words) == 0
        assert ("r.wav: " in capsys.readouterr().err) == expected


def test_edits_report_their_new_audio_alone_and_a_recording_without_beats(tiny_model, tmp_path, capsys):
    model = changed(with_masked_prior(tiny_model, tmp_path / "masked"), tmp_path / "loud", CHANGES["clipped"])
    write_wav(tmp_path / "tone.wav", np.full((1, 4 * model.sample_rate), 0.2, np.float32), model.sample_rate)
    run = tmp_path / "edited.run"
    words = [str(model.folder), str(tmp_path / "tone.wav"), "--out", str(tmp_path / "edited.wav")]
    assert main(["edit", *words, "--start", "0.5", "--end", "0.7"]) == 0
    assert "edited.run: level 0: " in (err := capsys.readouterr().err) and "clipped" in err and "from 0.5" in err
    assert Run.open(run).request["findings"][0]["kind"] == "clipped" and "clipped" in (run / "index.html").read_text()


@pytest.mark.long  # librosa's tracker is compiled
def test_a_recording_without_beats_is_reported_where_beats_are_to_be_kept(tiny_model, tmp_path, capsys):
    model = with_masked_prior(tiny_model, tmp_path / "masked")
    write_wav(tmp_path / "tone.wav", np.full((1, 4 * model.sample_rate), 0.2, np.float32), model.sample_rate)
    words = [str(model.folder), str(tmp_path / "tone.wav"), "--end", "0.3"]
    assert main(["vary", *words, "--beat", "--out", str(tmp_path / "v.wav"), "--periodic", "2"]) == 0
    assert "--beat has no clear beats to keep from 0.00 s to 0.3" in capsys.readouterr().err
    assert Run.open(tmp_path / "v.run").request["findings"][0]["kind"] == "no beats"
    assert "no clear beats" in (tmp_path / "v.run" / "index.html").read_text()
    write_wav(tmp_path / "tone.wav", np.zeros((1, 4 * model.sample_rate), np.float32), model.sample_rate)
    assert main(["vary", *words, "--beat", "--out", str(tmp_path / "none.wav")]) == 2
    assert "--beat: no beats were found in" in capsys.readouterr().err and not (tmp_path / "none.wav").exists()


def test_the_python_api_warns(tiny_model, tmp_path):
    loud = changed(tiny_model, tmp_path / "loud", CHANGES["clipped"])
    with pytest.warns(UserWarning, match="level 0: .*samples are clipped"):
        audio = loud.generate(Song(artist="ann"), 0.2)
    with pytest.warns(UserWarning, match="samples are clipped"):
        loud.decode(audio.codes)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_model.decode(tiny_model.generate(Song(artist="ann"), 0.2).codes)


@pytest.mark.long
def test_beats_that_are_there_are_no_finding(tiny_model, tmp_path):
    from jukebox.editing.verbs import build
    from jukebox.params import KeptPrompt

    sound, found = drums("kick", 2), []
    write_wav(tmp_path / "drums.wav", sound[None].astype(np.float32), RATE)
    build(KeptPrompt(beat=True), tmp_path / "drums.wav", 600, 0, 172.3, 0, findings=found)
    assert found == [] and read(tmp_path / "drums.wav")[0].shape[1] == len(sound)
