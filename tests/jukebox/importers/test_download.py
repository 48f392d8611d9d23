"""Downloads outlive a line that breaks: what came is kept, the rest is fetched, and only a whole file gets its name."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_prep.errors import UserError
from jukebox.importers.download import download
from jukebox.importers.torchfile import open_checkpoint
from jukebox.model.folder import ModelFolder
from launch.cli import main

DATA = os.urandom(300_000)


class Server(BaseHTTPRequestHandler):
    """Serves DATA; `plan` has for each answer the number of bytes after which the connection breaks (0: never)."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        data = server.data
        if self.path.startswith("/none"):
            return self.send_error(404, "Not Found")
        start = 0
        if (span := self.headers.get("Range")) and server.ranges and self.headers.get("If-Range") in (None, server.tag):
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", server.tag)
        self.end_headers()
        cut = server.plan.pop(0) if server.plan else 0
        self.wfile.write(data[start : start + cut] if cut else data[start:])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    httpd.asked, httpd.plan, httpd.ranges, httpd.tag, httpd.data = [], [], True, '"one"', DATA
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/file"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_line_that_breaks_in_the_middle_is_resumed(server, tmp_path):
    server.plan = [100_000, 50_000]
    path = download(server.url, tmp_path / "deep" / "file", wait=0)
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert download(server.url, path) == path and len(server.asked) == 3  # an existing file is not fetched again


def test_a_part_of_an_earlier_run_is_continued_and_a_whole_one_only_named(server, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA[:123])
    assert download(server.url, tmp_path / "file", wait=0).read_bytes() == DATA
    assert server.asked == ["bytes=123-"]
    (tmp_path / "again.part").write_bytes(DATA)
    assert download(server.url, tmp_path / "again", wait=0).read_bytes() == DATA


def test_another_version_of_the_file_is_begun_again(server, tmp_path):
    server.plan = [1000]
    (tmp_path / "file.part").write_bytes(b"old" * 100)
    (tmp_path / "file.part.tag").write_text('"zero"')
    assert download(server.url, tmp_path / "file", wait=0).read_bytes() == DATA


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.plan, server.ranges = [100_000], False
    assert download(server.url, tmp_path / "file", wait=0).read_bytes() == DATA


def test_a_line_that_never_holds_keeps_what_came_and_says_so(server, tmp_path):
    server.plan, server.ranges = [10_000] * 99, False
    with pytest.raises(UserError, match=r"0.0 MB are kept.*goes on from there"):
        download(server.url, tmp_path / "file", wait=0)
    assert not (tmp_path / "file").exists() and (tmp_path / "file.part").stat().st_size == 10_000


def test_offline_and_a_missing_file_are_one_line(server, tmp_path, capsys):
    with pytest.raises(UserError, match="404 Not Found; give another root with --url"):
        download(server.url.replace("file", "none"), tmp_path / "a", wait=0)
    with pytest.raises(UserError, match="cannot be reached.*are you online"):
        download("http://127.0.0.1:9/file", tmp_path / "a", wait=0)
    url = server.url.replace("file", "none")
    words = ["import", "5b", "--url", url, "--cache", str(tmp_path), "--out", str(tmp_path / "m")]
    assert main(words) == 2
    assert capsys.readouterr().err.count("jukebox import:") == 1 and not (tmp_path / "m").exists()


def test_a_set_is_fetched_from_where_the_published_files_lie(server, tmp_path):
    server.data = b"none;0\n"
    from launch.verbs.import_ import find_tables, parts_of

    assert find_tables({"v3"}, "", server.url, str(tmp_path))["v3"].genres == {"none": 0}
    assert (tmp_path / "jukebox/data/ids/v3_genre_ids.txt").read_bytes() == server.data
    assert parts_of("1b_lyrics")[-1] == "jukebox/models/1b_lyrics/prior_level_2.pth.tar"


STAND_INS = {
    "empty": (b"", "an empty file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 300000\n", "a Git LFS pointer"),
    "page": (b"\n<!DOCTYPE html><html>Too many requests</html>", "a web page"),
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_what_only_stands_for_the_file_is_named_and_fetched_again(server, tmp_path, kind, capsys):
    content, named = STAND_INS[kind]
    (tmp_path / "file").write_bytes(content)
    assert download(server.url, tmp_path / "file", wait=0).read_bytes() == DATA
    assert named in capsys.readouterr().out
    server.data = content
    with pytest.raises(UserError, match=f"is {named}.*thrown away"):
        download(server.url, tmp_path / "other", wait=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_of_another_hash_is_fetched_again_and_never_gets_its_name(server, tmp_path, capsys):
    known = hashlib.sha256(DATA).hexdigest()
    (tmp_path / "file").write_bytes(DATA[:-1] + b"?")
    assert download(server.url, tmp_path / "file", sha256=known[:16], wait=0).read_bytes() == DATA
    assert "another file, or damaged" in capsys.readouterr().out
    with pytest.raises(UserError, match="its SHA-256 begins with"):
        download(server.url, tmp_path / "other", sha256="0" * 64, wait=0)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", STAND_INS)
def test_weights_that_only_stand_for_a_file_are_named(tiny_model, tmp_path, kind):
    content, named = STAND_INS[kind]
    folder = shutil.copytree(tiny_model.folder, tmp_path / "model")
    (folder / "prior_2.safetensors").write_bytes(content)
    (folder / "vqvae.pth.tar").write_bytes(content)
    with pytest.raises(UserError, match=f"prior_2.safetensors is {named}"):
        ModelFolder.from_pretrained(folder).prior("prior_2")
    with pytest.raises(UserError, match=f"vqvae.pth.tar is {named}"):
        open_checkpoint(folder / "vqvae.pth.tar")
    (folder / "lyrics.json").write_bytes(content)
    with pytest.raises(UserError, match=f"lyrics.json is {named}"):
        _ = ModelFolder.from_pretrained(folder).vocabulary
    (folder / "codec.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"codec.safetensors is {named}"):
        ModelFolder.from_pretrained(folder).codec()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=f"config.json is {named}"):
        ModelFolder.from_pretrained(folder)
