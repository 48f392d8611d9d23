"""The page of a run in a real browser: the words follow the audio, and samples are in columns.

Chromium is controlled through its debugging pipe, so that only the browser is needed; without one on the path these tests are
skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jukebox.report.spectrograms import write_page
from launch.cli import main
from tests.jukebox.report.test_curves import write_log
from tests.jukebox.report.test_spectrograms import LYRICS, make_run, tone, write_wav

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page with")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --mute-audio --autoplay-policy=no-user-gesture-required --remote-debugging-pipe"""

# every player is put at each of the times; what is lit up then, in its own sample
SEEK = """(async times => {
  const found = [];
  for (const player of document.querySelectorAll("audio")) {
    if (player.readyState < 1) await new Promise(done => player.addEventListener("loadedmetadata", done, {once: true}));
    for (const time of times) {
      const sought = new Promise(done => player.addEventListener("seeked", () => setTimeout(done, 0), {once: true}));
      player.currentTime = time;
      await sought;
      found.push([...player.closest(".sample").querySelectorAll(".sung")].map(word => word.textContent));
    }
  }
  return found;
})"""
PLAY = """(async seconds => {
  const player = document.querySelector("audio"), found = [];
  const look = () => {
    found.push([player.currentTime, [...document.querySelectorAll(".sung")].map(word => word.textContent)]);
    if (player.currentTime < seconds) requestAnimationFrame(look); else player.pause();
  };
  await player.play();
  requestAnimationFrame(look);
  await new Promise(done => player.addEventListener("pause", done, {once: true}));
  return found;
})"""


class Browser:
    """One page in a headless chromium; commands of the DevTools protocol, null bytes between them."""

    def __init__(self, profile: Path) -> None:
        hears, self.says = os.pipe()
        self.reads, answers = os.pipe()
        # chromium reads descriptor 3 and answers on 4: the shell opens them
        command = [
            "bash",
            "-c",
            f'exec "$@" 3<&{hears} 4>&{answers}',
            "-",
            str(CHROMIUM),
            *FLAGS.split(),
            f"--user-data-dir={profile}",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(hears, answers), **quiet)
        os.close(hears), os.close(answers)
        self.rest, self.number, self.session = b"", 0, {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.call("Page.enable")

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.reads, 1 << 16)
            assert part, "chromium has gone"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        request = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.says, json.dumps(request).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, width: int = 1280) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=page.as_uri())
        while self.message().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.says), os.close(self.reads)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_the_word_that_is_sung_lights_up_wherever_any_player_is(browser, tmp_path):
    browser.open(write_page(make_run(tmp_path / "späte läufe", samples=2)))
    times = [0.05, 0.1, 0.3, 0.55, 0.7, 0.95, 1.2, 1.39, 2.5]
    expected = [[], ["Über"], ["Über"], [], ["again"], [], ["again"], ["again"], []]
    assert browser.run(f"{SEEK}({json.dumps(times)})") == expected * 6  # three levels of two samples


def test_words_follow_the_sound_while_it_plays(browser, tmp_path):
    browser.open(write_page(make_run(tmp_path / "run")))
    seen = browser.run(f"{PLAY}(1.5)")
    known = [("Über", 0.1, 0.5), ("again", 0.6, 0.9), ("again", 1.0, 1.4)]
    wrong = 0
    for now, lit in seen:
        # a frame of the page may show what was sung a moment ago
        true = {tuple(word for word, start, end in known if start <= now - late < end) for late in (0.0, 0.05, 0.1)}
        wrong += tuple(lit) not in true
    assert wrong == 0 and {word for _, lit in seen for word in lit} == {"Über", "again"} and [] in [lit for _, lit in seen]


def test_what_the_model_hears_comes_before_what_was_asked(browser, tmp_path):
    run = make_run(tmp_path / "run")
    heard = {"words": [{"word": "again", "start": 2.0, "end": 2.4}], "left_out": ["la"] * 400}
    (run / "alignment.json").write_text(json.dumps({"samples": [heard]}))
    browser.open(write_page(run))
    assert browser.run(f"{SEEK}([0.3, 2.2])") == [[], ["again"]] * 3
    assert "400 words were not found" in browser.run("document.body.innerText")
    assert browser.run("document.querySelector('.lyrics').textContent") == LYRICS


def test_samples_stand_side_by_side_where_there_is_room(browser, tmp_path):
    page = write_page(make_run(tmp_path / "run", samples=3))
    places = "[...document.querySelectorAll('.sample')].map(s => s.getBoundingClientRect()).map(r => [r.left, r.top])"
    browser.open(page, width=1600)
    wide = browser.run(places)
    assert len({top for _, top in wide}) == 1 and len({left for left, _ in wide}) == 3
    browser.open(page, width=420)
    narrow = browser.run(places)
    assert len({left for left, _ in narrow}) == 1 and len({top for _, top in narrow}) == 3
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def press(browser: Browser, key: str) -> None:
    text = {"text": " "} if key == " " else {}
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code={" ": "Space"}.get(key, key), **text)


def test_arrows_move_by_5_seconds_and_space_plays_and_pauses(browser, tmp_path):
    run = make_run(tmp_path / "run")
    for level in (2, 1, 0):
        write_wav(run / f"audio/level_{level}_sample_0.wav", tone(12))
    browser.open(write_page(run))
    browser.run(f"{SEEK}([0])")
    now = "[...document.querySelectorAll('audio')].map(p => [Math.round(p.currentTime), p.paused])"
    for key, time in (("ArrowRight", 5), ("ArrowRight", 10), ("ArrowLeft", 5), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        press(browser, key)
        assert browser.run(now)[-3:][2 if browser.run("current === players[2]") else 0][0] == time
    browser.run("current = players[0]")
    press(browser, " ")
    assert browser.run(now)[0][1] is False
    press(browser, " ")
    assert browser.run(now)[0][1] is True


def test_pages_are_readable_at_400_pixels(browser, tmp_path):
    """Nothing is wider than the screen: of a run with a long name and warnings, and of a training."""
    run = make_run(tmp_path / ("a_long_name_without_a_space" * 6), samples=2, prompt=1.0)
    request = json.loads((run / "run.json").read_text())
    request["findings"] = [{"level": 0, "sample": 0, "kind": "noise", "text": "noise without tones " + "x" * 90}]
    (run / "run.json").write_text(json.dumps(request))
    model = write_log(tmp_path / "model", gradient_norm=1.5, skipped=0)
    assert main(["report", "train", str(model)]) == 0
    for page in (write_page(run), model / "training.html"):
        browser.open(page, width=400)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true) || 0")
        assert browser.run("document.documentElement.scrollWidth <= 400"), page
        assert (
            browser.run(
                "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height), 99)"
            )
            > 10
        )
