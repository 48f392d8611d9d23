"""The page in chromium: every tab makes what it offers, on wide and narrow screens, light and dark, without an error in the console."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("fastapi")
sync_api = pytest.importorskip("playwright.sync_api")
from tests.launch.live.musika import random_musika  # noqa: E402
from tests.launch.serve.server import process, tone  # noqa: E402

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio",
         "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # fmt: skip
AXE = os.environ.get("JUKEBOX_AXE", "")  # axe.min.js of the npm package axe-core
SHOTS = os.environ.get("JUKEBOX_SCREENSHOTS", "")
pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")]
MINUTE = 60_000  # of waiting, at most: the machine may be busy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(model, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("page") / "runs"
    with process(model, folder) as (_, address):
        yield address, folder


def _printed(line: Any) -> str:
    return f"{line.text} ({line.location.get('url', '')})"


class Opened:
    """A page of the server; what the console and the network had to report."""

    def __init__(self, browser: Any, address: str, width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["microphone"]
        )
        self.page, self.wrong = self.context.new_page(), []
        self.page.on("console", lambda line: self.wrong.append(_printed(line)) if line.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "request", lambda asked: None if asked.url.startswith((address, "blob:", "data:")) else self.wrong.append(asked.url)
        )
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.set_default_timeout(MINUTE)
        self.page.goto(address)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready=true]", state="attached")

    def until(self, condition: str) -> None:
        """Wait for a condition in the page (the page's policy forbids what playwright's own way needs)."""
        end = time.monotonic() + MINUTE / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(50)

    def tab(self, name: str) -> Any:
        self.page.get_by_role("tab", name=name).click()
        return self.page.locator(f"#{name.lower()}")

    def submit(self, form: Any, done: bool = True) -> str:
        """Submit a form; the id of its job, when it is done."""
        before = {each.get_attribute("data-job") for each in self.page.locator("[data-job]").all()}
        form.locator(".go").first.click()
        return self.newest(before, done)

    def newest(self, before: set, done: bool = True) -> str:
        self.until(f"document.querySelectorAll('[data-job]').length > {len(before)}")
        id = self.page.locator("[data-job]").first.get_attribute("data-job")
        assert id not in before
        if done:
            self.state(id, "done")
            self.page.wait_for_selector(f"#song h2:has-text('{id}')")
        return id

    def state(self, id: str, state: str) -> None:
        self.page.locator(f"[data-job='{id}'] .state", has_text=re.compile(f"^{state}")).wait_for()

    def check(self) -> None:
        """No errors, nothing wider than the screen, and no serious fault by axe."""
        assert not self.wrong, self.wrong
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if AXE:
            self.page.evaluate(Path(AXE).read_text("utf-8"))
            found = self.page.evaluate(
                "axe.run(document).then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)]))"
            )
            assert not [each for each in found if each[0] in ("serious", "critical")], found

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))

    def close(self) -> None:
        self.check()
        self.context.close()


def test_a_song_is_written_played_branched_and_downloaded(browser, server, tmp_path):
    opened = Opened(browser, server[0])
    page, form = opened.page, opened.tab("Write")
    form.get_by_label("Artist").fill("<b>ann</b>")
    form.get_by_label("Lyrics").fill("la so la\nso la")
    form.get_by_label("Seconds").fill("2")
    opened.until("document.querySelector('#write .plan').textContent.includes('GB')")
    opened.check()
    opened.shot("write")
    opened.submit(form)
    page.locator("#song .wave canvas, #song .wave >> css=div").first.wait_for()
    assert page.locator("#song .lyrics").text_content() == "la so la\nso la" and page.locator("b").count() == 0
    assert page.locator("#song-title").text_content().startswith("<b>ann</b>, seed 0")
    page.locator("#song").get_by_role("button", name="Play").click()
    opened.until("document.querySelector('#song .lyrics .sung')")
    page.locator("#song").get_by_role("button", name="Pause").click()
    opened.shot("song")
    box = page.locator("#song .picture").bounding_box()
    page.locator("#song .picture").click(position={"x": box["width"] / 4, "y": 20})
    assert abs(float(page.locator("#branch-from").input_value()) - 0.5) < 0.1
    with page.expect_download() as waiting:
        page.get_by_role("link", name="wav, 24 bits").click()
    waiting.value.save_as(tmp_path / "song.wav")
    assert soundfile.info(tmp_path / "song.wav").subtype == "PCM_24"
    before = {each.get_attribute("data-job") for each in page.locator("[data-job]").all()}
    page.get_by_role("button", name="Branch from here").click()
    opened.newest(before)
    opened.close()


def test_an_uploaded_mp3_is_continued_and_a_region_edited(browser, server, tmp_path):
    sound, rate = soundfile.read(tone(tmp_path / "a.wav", 3.0))
    soundfile.write(tmp_path / "mine.mp3", sound, rate)
    opened = Opened(browser, server[0])
    page, form = opened.page, opened.tab("Continue")
    form.locator("[type=file]").set_input_files(tmp_path / "mine.mp3")
    opened.until("document.querySelector('#continue .recording-name').textContent.includes('mine.mp3')")
    form.get_by_label("Prompt from").fill("0.5")
    form.get_by_label("Prompt to").fill("1.5")
    form.get_by_label("Seconds in all").fill("2")
    opened.check()
    opened.shot("continue")
    opened.submit(form)
    form = opened.tab("Edit")
    form.locator("[type=file]").set_input_files(tmp_path / "a.wav")
    opened.until("document.querySelector('#edit [name=end]').max > 2.9")
    opened.until("document.querySelector('#edit .wave').firstElementChild?.shadowRoot?.querySelector('[part~=region]')")
    box = form.locator(".wave").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=5)
    page.mouse.up()
    start, end = (float(form.locator(f"[name={name}]").input_value()) for name in ("start", "end"))
    assert abs(start - 1.8) < 0.15 and abs(end - 2.4) < 0.15
    opened.check()
    opened.shot("edit")
    opened.submit(form)
    page.get_by_role("button", name="Before the edit").click()
    page.wait_for_selector("#song [aria-pressed=true]:has-text('Before')")
    box = page.locator("#song .picture").bounding_box()
    page.locator("#song .picture").click(position={"x": box["width"] / 2, "y": 20})
    page.get_by_role("button", name="Edit from here").click()
    opened.until("document.querySelector('#edit .recording-name').textContent.includes('.run')")
    assert abs(float(form.locator("[name=start]").input_value()) - 1.5) < 0.1
    before = {each.get_attribute("data-job") for each in page.locator("[data-job]").all()}
    page.get_by_role("button", name="Branch from here").click()  # of an edit, as of a song
    branch = opened.newest(before)
    assert page.locator(f"[data-job='{branch}']").text_content().startswith("branch")
    form.get_by_label("extend").check()
    form.get_by_label("Seconds after").fill("1")
    opened.submit(form)
    opened.close()


def test_a_recording_of_the_microphone_is_uploaded(browser, server):
    opened = Opened(browser, server[0])
    form = opened.tab("Continue")
    form.get_by_role("button", name="Record", exact=True).click()
    opened.page.wait_for_timeout(1500)
    form.get_by_role("button", name="Stop recording").click()
    opened.until("document.querySelector('#continue .recording-name').textContent.includes('recorded.wav')")
    opened.close()


def test_a_job_is_cancelled_resumed_and_found_after_a_reload(browser, server):
    opened = Opened(browser, server[0])
    page, form = opened.page, opened.tab("Write")
    form.get_by_label("Seconds").fill("60")
    id = opened.submit(form, done=False)
    opened.state(id, "running")
    page.locator(f"[data-job='{id}']").get_by_role("button", name="Play while it is sampled").click()
    opened.until("document.querySelector('[data-job] audio')?.currentTime > 0.3")
    page.reload()
    opened.ready()
    opened.until(f"document.querySelector('[data-job=\"{id}\"] progress')?.value > 0")
    opened.shot("jobs")
    page.locator(f"[data-job='{id}']").get_by_role("button", name="Cancel").click()
    opened.state(id, "cancelled")
    page.locator(f"[data-job='{id}']").get_by_role("button", name="Open").click()
    before = {each.get_attribute("data-job") for each in page.locator("[data-job]").all()}
    page.locator("#song").get_by_role("button", name="Resume").click()
    again = opened.newest(before, done=False)
    page.locator(f"[data-job='{again}']").get_by_role("button", name="Cancel").click()
    opened.state(again, "cancelled")
    opened.tab("Library")
    page.get_by_role("button", name=f"open {id}").click()
    page.locator("#song").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name=f"open {id}").wait_for(state="detached")
    opened.shot("library")
    opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1400, "dark")])
def test_every_tab_fits_every_screen_and_the_keyboard_reaches_it(width, scheme, browser, server):
    opened = Opened(browser, server[0], width, scheme)
    opened.page.get_by_role("tab", name="Write").focus()
    for name in ("Continue", "Edit", "Live", "Library", "Write"):
        opened.page.keyboard.press("ArrowRight")
        assert opened.page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
        opened.check()
        if name != "Library":
            opened.shot(f"{name.lower()}_{width}_{scheme}")
    form = opened.tab("Write")
    form.get_by_label("Seconds").fill("1")
    opened.submit(form)
    opened.page.get_by_role("tab", name="Library").click()
    opened.page.locator("#runs button").first.click()
    opened.until("!document.querySelector('#song').inert")  # the run that was shown before is gone
    opened.page.locator("#song .picture").scroll_into_view_if_needed()
    opened.until("document.querySelector('#song .picture img').naturalWidth > 0")
    opened.check()
    opened.shot(f"song_{width}_{scheme}")
    opened.page.goto(f"{server[0]}api.html")
    opened.page.wait_for_selector("text=POST /api/jobs")
    opened.close()


def test_a_mistake_and_a_server_that_ends_are_sentences(browser, model, tmp_path):
    with process(model, tmp_path / "runs", "--max_seconds", "5") as (server, address):
        opened = Opened(browser, address)
        form = opened.tab("Write")
        form.get_by_text("Sampling parameters").click()
        form.get_by_label("temperature").fill("-1")
        form.locator(".go").first.click()
        opened.page.get_by_role("alert").filter(has_text="must not be negative").wait_for()
        server.send_signal(signal.SIGKILL)
        server.wait()
        form.locator(".go").first.click()
        opened.page.get_by_role("alert").filter(has_text="does not answer").wait_for()
        opened.context.close()


# ---- live


@pytest.fixture(scope="module")
def band(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("band")
    with process(random_musika(folder / "model"), folder / "runs") as (_, address):
        yield address


def status(opened: Opened) -> tuple[float, float, int]:
    """The second that is played, the seconds that are ready, and the underruns so far."""
    found = re.match(r"second ([\d.]+), ([\d.]+) s ready, (\d+) underrun", opened.page.locator("#live .status").text_content())
    return (float(found[1]), float(found[2]), int(found[3])) if found else (0.0, 0.0, 0)


def played(opened: Opened, second: float) -> None:
    """Wait until a second is played; there was no underrun."""
    end = time.monotonic() + second + MINUTE / 1000
    while status(opened)[0] < second:
        assert time.monotonic() < end and not status(opened)[2], opened.page.locator("#live .status").text_content()
        opened.page.wait_for_timeout(100)
    assert not status(opened)[2], "an underrun"


def test_live_sound_plays_30_seconds_without_underrun_and_is_found_after_a_reload(browser, band):
    opened = Opened(browser, band)
    page, form = opened.page, opened.tab("Live")
    assert form.locator(".controls input").count() == 4
    form.get_by_role("slider", name="tempo").fill("120")
    form.get_by_role("button", name="Play").click()
    played(opened, 3.0)
    assert float(form.get_by_role("meter").get_attribute("value") or form.get_by_role("meter").evaluate("m => m.value")) > 0
    form.get_by_role("slider", name="density").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    played(opened, 15.0)
    opened.shot("live")
    before = status(opened)[0]
    page.reload()
    opened.ready()
    assert form.get_by_role("button", name="Play on").is_visible()
    assert [form.get_by_role("slider", name=name).input_value() for name in ("tempo", "density")] == ["120", "3"]
    form.get_by_role("button", name="Play on").click()
    played(opened, before + 30.0)
    opened.check()  # axe blocks the page, so that the sound may stop on a busy machine
    [job] = json.loads(page.evaluate("fetch('/api/jobs').then(answer => answer.text())"))
    live = json.loads(page.evaluate(f"fetch('/api/live/{job['id']}').then(answer => answer.text())"))
    changed = {each["name"]: each for each in live["changes"]}
    assert changed["density"]["value"] == 3.0 and 3.0 < changed["density"]["second"] < before + 10
    form.get_by_role("button", name="Stop").click()
    opened.state(job["id"], "cancelled")
    form.get_by_role("button", name="Play", exact=True).wait_for()
    opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1400, "dark")])
def test_the_live_tab_fits_every_screen(width, scheme, browser, band):
    opened = Opened(browser, band, width, scheme)
    opened.tab("Live")
    opened.check()
    opened.shot(f"live_{width}_{scheme}")
    opened.close()


def test_a_session_that_nobody_plays_on_ends_and_jobs_wait_for_it(browser, band):
    opened = Opened(browser, band)
    form = opened.tab("Live")
    form.get_by_role("button", name="Play").click()
    played(opened, 1.0)
    others = [opened.page.evaluate("""fetch('/api/jobs', {method: 'POST', headers: {'content-type': 'application/json'},
        body: JSON.stringify({kind: 'sample', route: 'musika', seconds: 1})}).then(answer => answer.json()).then(job => job.id)""")
        for _ in range(8)]  # fmt: skip
    opened.state(others[-1], "in the queue, place 8")  # more jobs than a browser has connections to a server
    opened.page.reload()
    opened.ready()
    opened.state(others[-1], "done")
    opened.tab("Live").get_by_role("button", name="Play", exact=True).wait_for()
    opened.close()
