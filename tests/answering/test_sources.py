"""Whatever holds pictures or videos is found, and what is not answered is told."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from roadseg.answering import sources
from roadseg.errors import UserError
from tests.small import HERE, run_predict


def test_globs_go_through_folders(album, tmp_path, monkeypatch):
    """Named below what is no pattern; what an earlier command wrote there is left out."""
    monkeypatch.chdir(album)
    wide = {"wide.png": "wide", "below/wide.png": "below/wide"}
    (album / "out" / "more").mkdir(parents=True)
    shutil.copy("wide.png", "out/more/wide_overlay.png")
    for texts, names in (
        (["**/wide.png"], wide),
        (["b*", "wide.png"], wide),
        ([f"{album}/**/wide.png"], {f"{album}/{path}": name for path, name in wide.items()}),
        ([f"{album}/b*/w*"], {f"{album}/below/wide.png": "below/wide"}),
        (["out"], {"out/more/wide_overlay.png": "more/wide_overlay"}),
    ):
        found, *_ = sources.find_sources(texts, Path("out"), predict.KINDS)
        assert {str(source.path): source.name for source in found} == names


def test_outputs_of_an_earlier_command_are_left_out(album, monkeypatch):
    """Of folders and of globs; what else lies there is answered."""
    monkeypatch.chdir(album)
    for name in ("wide.png", "out/own.png", "out/wide_overlay.png", "out/deep/wide_mask.png"):
        (album / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(album / name)
    (album / "itself").symlink_to(album)
    for text in (".", "*", "**/*", str(album), f"{album}/../album/**"):
        found, _, made = sources.find_sources([text], Path("out"), predict.KINDS)
        names = [source.name.removeprefix("itself/") for source in found]
        assert {"wide", "out/own", "below/wide"} <= set(names) and len(names) == len(set(names))
        assert not any("_" in name for name in names) and len(made) == 2
    found, _, made = sources.find_sources(["out"], Path("out"), predict.KINDS)
    assert len(found) == 3 and not made
    found, _, made = sources.find_sources(["out/deep/wide_mask.png"], Path("out"), predict.KINDS)
    assert len(found) == 1 and not made
    with pytest.raises(UserError, match="neither pictures nor videos but outputs of earlier"):
        sources.find_sources(["out/deep"], Path("out"), predict.KINDS)


def test_drives_with_the_same_names_stay_apart(album, monkeypatch):
    """By their folders, where the names alone would not."""
    monkeypatch.chdir(album)
    for name in ("one/0.png", "one/1.png", "two/0.png", "two/0.jpg", "two/deep/0.png"):
        (album / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(album / name)
    expected = ("one/0", "one/1", "two/0.jpg", "two/0.png", "two/deep/0")
    for texts in (["one", "two"], ["one/*", "two"], [f"{album}/two/../one", f"{album}/two"]):
        found, *_ = sources.find_sources(texts)
        assert sorted(source.name for source in found) == sorted(expected)
    for texts, names in (
        (["one/0.png", "two/0.png"], ["one/0", "two/0"]),
        (["dot.png", "one/0.png", "two/0.png"], ["dot", "one/0", "two/0"]),
        ([".", "one/0.png"], None),
    ):
        found, *_ = sources.find_sources(texts)
        assert names in (None, [source.name for source in found])
        assert len({source.name for source in found}) == len(found)


@pytest.mark.parametrize("text", ["missing/**", "link.png", "circle.png"])
def test_what_leads_nowhere_is_told(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link.png").symlink_to("nowhere.png")
    Path("circle.png").symlink_to("circle.png")
    with pytest.raises(UserError, match=f"{re.escape(text)}: nothing found"):
        sources.find_sources([text])


def test_what_a_glob_finds_elsewhere_is_named_by_its_file(album, monkeypatch):
    """So that its outputs stay in their folder."""
    monkeypatch.chdir(album / "below")
    (found, *_) = sources.find_sources(["../b*/../dot.png"])
    assert [source.name for source in found] == ["dot"]


def test_pictures_of_rarer_formats_and_behind_links_are_read_and_the_rest_is_named(
    trained, tmp_path, random, capsys
):
    """Files that systems leave are not worth a word."""
    folder, linked = tmp_path / "in", tmp_path / "elsewhere"
    (folder / "below").mkdir(parents=True)
    linked.mkdir()
    picture = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    formats = {"avif": "AVIF", "jfif": "JPEG", "jp2": "JPEG2000", "ppm": "PPM", "tga": "TGA"}
    for suffix, form in formats.items():
        picture.save(folder / f"{suffix}.{suffix}", format=form)
    picture.save(linked / "far.png")
    (folder / "link").symlink_to(linked)
    (folder / "below" / "up").symlink_to(folder)  # a circle
    for name in ("notes.txt", "below/table.csv", "._avif.avif", ".DS_Store", "Thumbs.db"):
        (folder / name).write_text("no picture")
    assert run_predict(trained, folder, "--output", tmp_path / "out") == 0
    made = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png")}
    assert made == {Path(f"{name}_overlay.png") for name in (*formats, "link/far")}
    said = capsys.readouterr().out
    assert "left out, neither pictures nor videos: table.csv, notes.txt" in said


def test_pages_that_are_not_answered_are_told(trained, tmp_path, capsys):
    page = Image.new("RGB", (20, 10))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    assert run_predict(trained, tmp_path / "a.tif", "--output", tmp_path) == 0
    assert "a.tif: holds 3 pictures; the first is done" in capsys.readouterr().out


def test_a_heic_picture_is_answered_whole(tmp_path):
    """By the reader of pictures, not as a film of one of its tiles."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (96, 64))).save(tmp_path / "a.HEIC")
    code = (  # in a process of its own, because other libraries bring a reader of HEIC, too
        "import sys\nfrom roadseg.answering.sources import find_sources\n"
        "(source,), *_ = find_sources(sys.argv[1:])\n"
        "(frame,) = source\n"
        "print(source.suffix(lossless=False), *source.read(frame).shape)"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.HEIC"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    assert done.stdout == ".png 64 96 3\n"


def test_a_name_that_is_not_utf_8_is_answered(trained, tmp_path):
    name = os.fsdecode("stra\xdfe".encode("latin-1"))
    Image.new("RGB", (30, 20)).save(tmp_path / f"{name}.png")
    assert run_predict(trained, tmp_path, "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / f"{name}_overlay.png").is_file()


def test_pictures_are_not_opened_before_their_turn(tmp_path, monkeypatch):
    """Fifty thousand would take half a minute before the first."""
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
    assert len(sources.find_sources([str(tmp_path)])[0]) == 9
