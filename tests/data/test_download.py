"""Downloads arrive whole or not at all."""

import contextlib
import errno
import hashlib
import http.server
import io
import os
import re
import stat
import threading
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

import helper
from roadseg.data import datasets, download
from roadseg.errors import DownloadError, UserError
from tests.small import KITTI, error_line, run_main, zip_of

CONTENT = bytes(range(256)) * 4000
# What a server may do with a request that starts at a byte: status, headers, body.
ANSWERS = {
    "whole": lambda start: (206, {}, CONTENT[start:]),
    "half": lambda start: (206, {}, CONTENT[start : (start + len(CONTENT)) // 2]),
    "from the beginning": lambda start: (200, {}, CONTENT),
    "another file": lambda start: (200, {}, b"<html>log in first</html>"),
    "another of this size": lambda start: (206, {}, bytes(len(CONTENT) - start)),
    "far too much": lambda start: (200, {}, 3 * CONTENT),
    "moved": lambda start: (302, {"Location": "/elsewhere.zip"}, b""),
    "not found": lambda start: (404, {}, b"no"),
    "broken": lambda start: (500, {}, b"no"),
    "busy": lambda start: (503, {}, b"no"),
}


class ScriptedServer(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next of its script; hangs up where the script is at its end."""

    def do_GET(self):
        start = int(re.search(r"bytes=(\d+)-", self.headers["Range"])[1])
        self.starts.append(start)
        if not self.script:
            return
        status, headers, body = ANSWERS[self.script.pop(0)](start)
        self.send_response(status)
        length = len(CONTENT) - start if status == 206 else len(body)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def remote(monkeypatch):
    """A file on a local server that does what its script says."""
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    handler = type("Handler", (ScriptedServer,), {"script": [], "starts": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield types.SimpleNamespace(
            handler=handler,
            file=datasets.Remote(
                "test",
                f"http://127.0.0.1:{server.server_port}/f.zip",
                "page",
                "licence",
                len(CONTENT),
                "sha256",
                hashlib.sha256(CONTENT).hexdigest(),
            ),
        )
        server.shutdown()


@pytest.mark.parametrize(
    ("script", "starts"),
    [
        (["whole"], [0]),
        (["half", "whole"], [0, 0.5]),
        (["half", "half", "whole"], [0, 0.5, 0.75]),
        (["half", "from the beginning"], [0, 0.5]),
        (["moved", "whole"], [0, 0]),
        (["broken", "busy", "whole"], [0, 0, 0]),
    ],
)
def test_a_download_goes_on_where_it_was_interrupted(script, starts, remote, tmp_path):
    remote.handler.script[:] = script
    download.download(remote.file, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == CONTENT
    assert remote.handler.starts == [int(start * len(CONTENT)) for start in starts]
    assert [path.name for path in tmp_path.iterdir()] == ["f.zip"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([], "could not be downloaded"),
        (["not found"] * 3, "404"),
        (["broken"] * 3, "500"),
        (["half"] * 3, "ended after"),
        (["another file"] * 3, "ended after"),
        (["another of this size"], "deleted"),
        (["far too much"], "deleted"),
        (["moved"] * 20, "infinite loop"),
    ],
)
def test_a_failed_download_gives_one_line_and_no_file(script, message, remote, tmp_path):
    remote.handler.script[:] = script
    with pytest.raises(DownloadError, match=message) as raised:
        download.download(remote.file, tmp_path / "f.zip")
    assert "by hand (page)" in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "f.zip").exists()


def test_a_download_that_failed_goes_on_the_next_time(remote, tmp_path):
    remote.handler.script[:] = ["half"]
    with pytest.raises(DownloadError):
        download.download(remote.file, tmp_path / "f.zip")
    remote.handler.script[:] = ["whole"]
    download.download(remote.file, tmp_path / "f.zip")
    assert remote.handler.starts[-1] == len(CONTENT) // 2
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_disk_without_room_is_named_at_once(remote, tmp_path, monkeypatch):
    remote.handler.script[:] = ["whole"] * 3

    class FullFile(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda *_: FullFile())
    with pytest.raises(OSError, match="No space left"):
        download.download(remote.file, tmp_path / "f.zip")
    assert len(remote.handler.starts) == 1


def linked_entry():
    entry = zipfile.ZipInfo("data_road/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entries",
    [
        [("/etc/owned", "x")],
        [("data_road/../../owned", "x")],
        [("data_road/a.png", "x"), ("elsewhere/b.png", "x")],
        [("data_road\\..\\..\\owned", "x")],
        [(linked_entry(), "/etc/passwd")],
        [("data_road/bomb.png", bytes(10_000_000))],
        [],
    ],
    ids=["absolute", "parent", "stranger", "backslash", "link", "bomb", "empty"],
)
def test_a_hostile_zip_is_refused_and_leaves_nothing(entries, tmp_path, capsys):
    archive = zip_of(entries, tmp_path / "data_road.zip")
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path, "--runs-dir", tmp_path) == 2
    assert str(archive) in error_line(capsys) and list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no zip",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"road, road", b"road, toad"),
    ],
    ids=["empty", "text", "cut", "changed"],
)
def test_a_damaged_zip_is_refused_and_leaves_nothing(damage, tmp_path, capsys):
    archive = tmp_path / "data_road.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("data_road/a.png", b"road, road, road" * 100)
    archive.write_bytes(damage(archive.read_bytes()))
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path, "--runs-dir", tmp_path) == 2
    assert str(archive) in error_line(capsys)
    assert list(tmp_path.iterdir()) == [archive]


def test_kitti_is_unpacked_from_a_zip_fetched_by_hand(drawn, tmp_path):
    with zipfile.ZipFile(tmp_path / "data_road.zip", "w") as archive:
        for path in (drawn / "data_road").rglob("*.png"):
            archive.write(path, path.relative_to(drawn))
    _, _, folder = helper.prepare_data_set("kitti", tmp_path)
    assert len(KITTI.find(folder)[0]) == 15
    assert {path.name for path in tmp_path.iterdir()} == {"data_road", "data_road.zip"}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_is_damaged_in_its_deflate_stream_is_named(method, tmp_path, random):
    """Its directory is whole: only what is packed is not what the library expects."""
    content = random.integers(0, 99, 9999, dtype=np.uint8).tobytes()
    archive = tmp_path / "data_road.zip"
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr("data_road/a.png", content)
    packed = bytearray(archive.read_bytes())
    packed[100:120] = b"\xff" * 20
    archive.write_bytes(packed)
    with pytest.raises(UserError, match=r"data_road.zip: not a complete zip file .*again"):
        download.unpack(archive, "data_road", tmp_path)
    assert list(tmp_path.iterdir()) == [archive]
