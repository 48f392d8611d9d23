"""The page of a run, checked as a browser without a network would meet it; and the pictures."""

from __future__ import annotations

import json
import os
import wave
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox.report import spectrograms as report
from jukebox.report.run_page import lyrics_html, settings, speeds

SAMPLE_RATE = 22050
LYRICS = 'Über <b>den</b> Wolken & "so"\n夜の歌 again and again\n' + "la " * 400
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects the references and the text of a page, and fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {k: v or "" for k, v in attrs}
        self.tags.append((tag, named))
        self.links += [v for k, v in named.items() if k in ("src", "href", "action", "poster", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def of(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [named for t, named in self.tags if t == tag and kind in named.get("class", "")]


def tone(seconds: float, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)


def write_wav(path: Path, audio: np.ndarray, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.repeat(audio[:, None], channels, 1) * 32767).astype("<i2").tobytes())


def make_run(run: Path, samples: int = 1, ready: tuple[int, ...] = (2, 1, 0), prompt: float | None = None) -> Path:
    """A run of 3 s whose levels in `ready` are finished; level 2 took 1.5 s, level 1 3 s, level 0 6 s."""
    song = {"artist": "A & B <i>", "genres": ["folk", "jazz"], "lyrics": LYRICS}
    song["word_times"] = [["Über", 0.1, 0.5], ["again", 0.6, 0.9], ["again", 1.0, 1.4], ["nowhere", 2, 3]]  # type: ignore[assignment]
    request = {
        "version": 3, "verb": "continue" if prompt else "sample", "model": "models/<x>", "model_hash": {"codec": "01"},
        "seed": 7, "seconds": 3.0, "total_seconds": 3.0, "sample_rate": SAMPLE_RATE, "channels": 1,
        "hops": [8, 32, 128], "levels": [2, 1, 0], "route": "jukebox",
        "params": {level: {"temperature": 0.93, "top_k": 0, "published": False} for level in "210"},
        "samples": [song] * samples, "prompt": {"path": "in/späte & co.mp3", "seconds": prompt} if prompt else None,
        "machine": {"cpu": "two cores"}, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps(request), encoding="utf-8")
    lines = []
    for level in ready:
        codes = 3 * SAMPLE_RATE // 128 * 128 // (8, 32, 128)[level]
        for half in (1, 2):
            line = {"level": level, "start": 0, "rows": codes // 2, "codes_total": codes // 2 if half == 1 else codes}
            lines.append(json.dumps(line | {"took": (6.0, 3.0, 1.5)[level] / 2, "music_seconds": 1.5}))
        for i in range(samples):
            write_wav(run / f"audio/level_{level}_sample_{i}.wav", tone(3))
    (run / "progress.jsonl").write_text("\n".join([*lines, '{"level": 0, "sta']), encoding="utf-8")  # cut by a kill
    return run


def test_everything_the_page_refers_to_lies_beside_it(tmp_path):
    run = make_run(tmp_path / "späte läufe", samples=3, prompt=1.0)
    index = report.write_page(run)
    page = Page(index.read_text(encoding="utf-8"))
    assert index == run / "index.html" and not list(run.rglob("*.tmp"))
    assert len(page.of("audio")) == 9 and len(page.of("img")) == 9 and "run.json" in page.links
    for link in page.links:
        assert not link.startswith(("/", "http", "file", "data", "..")) and (run / unquote(link)).is_file(), link
    assert "url(" not in index.read_text() and "@import" not in index.read_text() and "://" not in index.read_text()
    assert all("controls" in player for player in page.of("audio"))


def test_a_page_shows_artist_settings_and_speed(tmp_path):
    page = Page(report.write_page(make_run(tmp_path)).read_text(encoding="utf-8"))
    for text in ("A & B <i>", "folk, jazz", "seed 7", "temperature", "0.93", "<x>", "two cores", "2.13.0"):
        assert text in page.text, text
    assert "0.286 seconds of music per second" in page.text  # 3 s in 1.5 + 3 + 6 s
    assert "unfinished" not in page.text and not page.of("progress")


def test_settings_of_a_level_are_named_where_the_levels_differ():
    params = {"0": {"temperature": 1.0, "top_k": 0}, "2": {"temperature": 0.98, "top_k": 0}, "1": {"top_k": 5}}
    for name in ("params", "how"):  # the second: of version 2
        rows = dict(settings({"levels": [2, 0], "seed": 3, "seconds": 12.0, name: params}))
        assert rows == {"seed": "3", "seconds": "12", "temperature": "1 (level 0), 0.98 (level 2)", "top k": "0"}


def test_a_parameter_that_only_the_prior_of_one_level_has_is_named_with_its_level():
    params = {"1": {"passes": 24, "noise": 4.5}, "2": {"guidance": 1.5, "published": False}}
    rows = dict(settings({"levels": [2, 1], "params": params}))
    assert rows["passes"] == "24 (level 1), none (level 2)" and rows["guidance"] == "none (level 1), 1.5 (level 2)"


def test_the_joined_audio_of_a_sample_has_a_player_of_its_own(tmp_path):
    """Of a run that was upsampled the finest one; a sample without a recording has none."""
    run = make_run(tmp_path, samples=2, prompt=1.0)
    before = Page(report.write_page(run).read_text(encoding="utf-8"))
    for level in (1, 0):
        (run / "audio" / f"joined_level_{level}_sample_1.flac").write_bytes(b"fLaC")
    page = Page(report.write_page(run).read_text(encoding="utf-8"))
    assert len(page.of("audio")) == len(before.of("audio")) + 1
    assert "audio/joined_level_0_sample_1.flac" in page.links and "audio/joined_level_1_sample_1.flac" not in page.links


def test_lyrics_are_shown_to_the_letter_and_nothing_in_them_is_html(tmp_path):
    page = Page(report.write_page(make_run(tmp_path)).read_text(encoding="utf-8"))
    assert LYRICS in page.text
    assert not any(tag == "i" and not named for tag, named in page.tags)  # the artist's <i>
    assert [(s["data-start"], s["data-end"]) for s in page.of("span") if "data-start" in s] == [
        ("0.100", "0.500"), ("0.600", "0.900"), ("1.000", "1.400"),
    ]  # fmt: skip


def test_timed_words_are_found_in_order_and_unknown_times_leave_plain_text():
    assert lyrics_html("a b a", [["a", 0, 1], ["a", 2, 3]]).count("<span") == 2
    assert lyrics_html("a <b>", [["a", float("nan"), float("nan")], ["<b>", None, None], ["", 0, 1]]) == "a &lt;b&gt;"
    assert lyrics_html("one line\ntwo", [["one line", 0, 1]]).startswith('<span data-start="0.000" data-end="1.000">one')


def test_prompt_is_a_line_where_it_ends_and_absent_without_one(tmp_path):
    with_prompt = Page(report.write_page(make_run(tmp_path / "a", prompt=1.0)).read_text(encoding="utf-8"))
    assert [i["style"] for i in with_prompt.of("i", "prompt")] == ["left:33.33%"] * 3
    assert "from späte & co.mp3" in with_prompt.text
    assert not Page(report.write_page(make_run(tmp_path / "b")).read_text(encoding="utf-8")).of("i", "prompt")


def test_unfinished_run_shows_what_there_is(tmp_path):
    run = make_run(tmp_path / "run", samples=2, ready=(2,))
    page = Page(report.write_page(run).read_text(encoding="utf-8"))
    assert "unfinished" in page.text and len(page.of("audio")) == 2 and len(page.of("progress")) == 4
    write_wav(run / "audio/level_1_sample_0.wav", tone(1))
    (run / "audio/level_1_sample_1.wav").write_bytes(b"RIFF")  # what a copy broken off leaves
    page = Page(report.write_page(run).read_text(encoding="utf-8"))
    assert len(page.of("audio")) == 4 and len(page.of("img")) == 3 and "no picture" in page.text
    (run / "progress.jsonl").unlink()
    assert "unfinished" in Page(report.write_page(run).read_text(encoding="utf-8")).text


def test_folder_without_a_run_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="--out"):
        report.write_page(tmp_path)


def test_speed_counts_all_samples_and_waits_for_the_last_level(tmp_path):
    request = json.loads((make_run(tmp_path, samples=2) / "run.json").read_text())
    lines = report.read_lines(tmp_path / "progress.jsonl")
    speed = speeds(request, lines)
    assert [speed[level]["speed"] for level in (0, 1, 2)] == [1.0, 2.0, 4.0]  # 2 songs of 3 s
    assert speed["all"]["speed"] == pytest.approx(6 / 10.5)
    given = [{"level": level, "codes_total": 99, "took": 0.0, "music_seconds": 9.0} for level in (0, 1, 2)]
    assert speeds(request, given + lines)["all"] == speed["all"]  # a prompt's codes were not made here
    half = speeds(request, [*lines[:-1], {**lines[-1], "samples": [0]}])  # the second sample has not come as far
    assert "all" not in half and half[0]["done"] == pytest.approx(0.5, abs=0.01)
    half = speeds(request, lines[:-1])
    assert "all" not in half and half[0]["done"] == pytest.approx(0.5, abs=0.01)


def test_picture_is_drawn_again_only_when_its_sound_is_newer(tmp_path):
    run = make_run(tmp_path)
    report.write_page(run)
    wav, png = run / "audio/level_0_sample_0.wav", run / "images/level_0_sample_0.png"
    first = png.read_bytes()
    png.write_bytes(b"kept")
    report.write_page(run)
    assert png.read_bytes() == b"kept"
    later = png.stat().st_mtime_ns + 10**9
    os.utime(wav, ns=(later, later))
    report.write_page(run)
    assert png.read_bytes() == first  # and the same sound gives the same bytes


def test_spectrogram_puts_a_tone_at_its_pitch_and_its_moment():
    audio = np.concatenate([np.zeros(2 * SAMPLE_RATE), tone(2, 1000.0)])
    db = report.spectrogram(audio, SAMPLE_RATE, columns=400, rows=200)
    loudest = db[:, 300].argmax()
    assert db.shape == (200, 400) and db.max() == 0 and db.min() == -report.RANGE_DB
    assert loudest / 200 == pytest.approx(report.mel(1000) / report.mel(11025), abs=0.01)
    assert db[loudest, 180] < -60 < db[loudest, 220]  # the tone begins in the middle
    assert (report.spectrogram(np.zeros((2, 500)), SAMPLE_RATE) == -report.RANGE_DB).all()  # silence is dark


def test_wav_is_read_as_it_was_written(tmp_path):
    write_wav(tmp_path / "a.wav", tone(0.1), channels=2)
    audio, sample_rate = report.read_wav(tmp_path / "a.wav")
    assert audio.shape == (2, 2205) and sample_rate == SAMPLE_RATE
    np.testing.assert_allclose(audio[1], tone(0.1), atol=1e-4)


def test_plots_for_the_docs_are_pngs_and_repeatable(tmp_path):
    first, second = (
        report.plot_spectrogram(tone(1), SAMPLE_RATE, tmp_path / name, title="ein Ton", mark=0.5).read_bytes()
        for name in ("a.png", "b.png")
    )
    assert first[:8] == b"\x89PNG\r\n\x1a\n" and first == second


# ---- song first


def test_the_finished_audio_is_first_with_its_download_and_the_other_levels_are_folded(tmp_path):
    text = report.write_page(make_run(tmp_path, samples=2)).read_text(encoding="utf-8")
    page = Page(text)
    first = text[text.index("<section") : text.index("</section>")]
    folded = first[first.index("<details>") : first.index("</details>")]
    assert (
        'src="audio/level_0_sample_0.wav"' in first[: first.index("<details>")] and "<summary>Other levels</summary>" in folded
    )
    assert folded.index("level_1_sample_0.wav") < folded.index("level_2_sample_0.wav") and "level_0" not in folded
    assert [a["href"] for a in page.of("a") if "download" in a and not a["href"].startswith("lyrics/")] == [
        f"audio/level_{level}_sample_{sample}.wav" for sample in (0, 1) for level in (0, 1, 2)
    ]


def test_while_the_finest_level_is_missing_the_finest_that_is_there_is_first(tmp_path):
    text = report.write_page(make_run(tmp_path, ready=(2, 1))).read_text(encoding="utf-8")
    assert text.index("level_1_sample_0.wav") < text.index("<details>") < text.index("level_2_sample_0.wav")


def test_the_original_is_beside_the_continuation(tmp_path):
    run = make_run(tmp_path, samples=2, prompt=1.0)
    request = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(request | {"sources": [["a.wav", 0], ["b.wav", 0]]}))
    for name in ("prompt.flac", "prompt_2.wav", "audio/joined_level_0_sample_0.flac", "audio/joined_level_0_sample_1.wav"):
        (run / name).write_bytes(b"sound")
    players = [named["src"] for named in Page(report.write_page(run).read_text(encoding="utf-8")).of("audio")]
    assert [players[:2], players[5:7]] == [
        ["audio/joined_level_0_sample_0.flac", "prompt.flac"], ["audio/joined_level_0_sample_1.wav", "prompt_2.wav"],
    ]  # fmt: skip


def test_a_take_is_named_as_branch_takes_it_and_names_of_files_are_quoted(tmp_path):
    page = Page(report.write_page(make_run(tmp_path / "my run #2", samples=2)).read_text(encoding="utf-8"))
    assert "jukebox branch 'my run #2' --take 2" in page.text and "Take 2: " in page.text and "Sample" not in page.text
    assert "audio/level_0_sample_1.wav" in page.links


def test_no_path_of_the_machine_is_on_the_page(tmp_path):
    run = make_run(tmp_path / "run", prompt=1.0)
    request = json.loads((run / "run.json").read_text())
    request |= {
        "model": str(tmp_path / "models" / "mine"),
        "prompt": {"path": [f"{tmp_path}/a.wav", f"{tmp_path}/b.wav"], "seconds": 1.0},
    }
    (run / "run.json").write_text(json.dumps(request))
    page = report.write_page(run).read_text(encoding="utf-8")
    assert str(tmp_path) not in page and "from a.wav, b.wav" in page and "mine" in page


def test_what_is_wrong_is_marked_at_its_take_and_level(tmp_path):
    run = make_run(tmp_path, samples=2)
    request = json.loads((run / "run.json").read_text())
    finding = {"kind": "noise", "level": 0, "sample": 1, "text": "noise <here>"}
    (run / "run.json").write_text(json.dumps(request | {"findings": [finding, {"kind": "no beats", "text": "no clear beats"}]}))
    text = report.write_page(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "2 warnings" in page.text and text.count("noise &lt;here&gt;") == 1 and "no clear beats" in page.text
    assert text.index("level_0_sample_1.wav") < text.index("noise &lt;here&gt;") < text.index("level_1_sample_1.wav")
    assert "warning" not in Page(report.write_page(make_run(tmp_path)).read_text(encoding="utf-8")).text
