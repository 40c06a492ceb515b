"""The page of demo.py: what it answers, in a browser too, and what it refuses."""

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

import demo
import predict
from roadseg.data.pictures import read_image
from tests.small import HERE, error_line, words, write_video

STREET = HERE / "tests" / "street.jpg"
IS_MISSING = importlib.util.find_spec("gradio") is None
LOST = "return fetch('https://example.org/').catch(() => 'refused')"


def needs_gradio(test):
    """Mark a test that serves the page."""
    return pytest.mark.demo(pytest.mark.skipif(IS_MISSING, reason="needs gradio")(test))


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def page(trained, free_port, tmp_path):
    """The address of the page, served by a process whose temporary files are in tmp_path."""
    command = words(sys.executable, "demo.py", "--run", trained, "--port", free_port)
    given = {"cwd": HERE, "env": os.environ | {"TMPDIR": str(tmp_path)}, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given) as demo:
        try:
            address = demo.stdout.readline().strip()
            assert address == f"http://127.0.0.1:{free_port}"
            yield address
        finally:
            demo.send_signal(signal.SIGINT)
            said = demo.communicate()
    assert demo.returncode == 130 and "Traceback" not in "".join(said)
    assert list(tmp_path.glob("tmp*")) == []


@pytest.fixture
def ask(page, tmp_path):
    """A function (kind, path) -> (overlay, probability, line about time), by the page's server."""
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, analytics_enabled=False, download_files=tmp_path / "got")
    return lambda kind, path: client.predict(handle_file(path), api_name=f"/answer_{kind}")


@needs_gradio
def test_pictures_videos_and_wrong_files_are_answered(ask, trained, frames, tmp_path):
    """As predict.py does, or in one line that names the file as it was given."""
    *answers, seconds = ask("picture", STREET)
    finder, picture = predict.load(trained), read_image(STREET)
    ((_, _, probabilities),) = finder.answer([picture], np.asarray)
    for kind, path in zip(("overlay", "probability"), answers, strict=True):
        expected = predict.KINDS[kind].make(picture, probabilities, finder.data_set)
        found = np.asarray(Image.open(path).convert("RGB" if expected.ndim == 3 else "L"))
        assert np.abs(found.astype(int) - expected).mean() < 3  # it is compressed
    assert re.fullmatch(r"\d+\.\d\d s", seconds)

    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert Image.open(ask("picture", tmp_path / "dot.png")[0]).size == (1, 1)

    *videos, line = ask("video", write_video(tmp_path / "drive.mkv", frames))
    for video in videos:
        with av.open(video if isinstance(video, str) else video["video"]) as container:
            assert len(list(container.decode(video=0))) == len(frames)
    assert line.startswith("12 frames in ")

    for kind, name in (("picture", "words.jpg"), ("video", "words.mp4")):
        (tmp_path / name).write_text("no picture")
        with pytest.raises(Exception, match=f"^{name}: [^\n]*$"):
            ask(kind, tmp_path / name)


@needs_gradio
@pytest.mark.browser
def test_the_page_works_in_a_browser_and_loads_nothing_from_elsewhere(page, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page)
    wait = WebDriverWait(browser, 60).until
    wait(lambda _: browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(
        str(STREET)
    )
    shown = "return [...document.images].filter(i => i.naturalWidth).map(i => i.naturalWidth)"
    wait(lambda _: len(browser.execute_script(shown)) == 3)  # given, overlay, probability
    assert set(browser.execute_script(shown)) == {Image.open(STREET).width}
    assert wait(lambda _: browser.find_element(By.CSS_SELECTOR, "textarea").get_property("value"))
    loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    addresses = browser.execute_script(loaded)
    assert len(addresses) > 10 and all(each.startswith(page) for each in addresses)
    log = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert log == [] and browser.execute_script(LOST) == "refused"
    assert "Content Security Policy" in browser.get_log("browser")[-1]["message"]


@needs_gradio
def test_an_absent_run_and_a_taken_port_are_told_in_one_line(ready, free_port, capsys):
    assert demo.main(["--run", "none"]) == 2
    assert "none: no run found" in error_line(capsys)
    with contextlib.closing(socket.create_server(("127.0.0.1", free_port))):
        assert demo.main(["--port", str(free_port)]) == 2
    assert f"{free_port}: is taken" in error_line(capsys)


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert demo.main([]) == 2
    assert "pip install -r requirements-demo.txt" in error_line(capsys)
