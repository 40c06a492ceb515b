"""What the README and the pages in docs/ say is there."""

import functools
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.small import HERE, run_export, write_video

README = HERE / "README.md"
DOCS = HERE / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]


@functools.cache
def read(page):
    return page.read_text(encoding="utf-8")


def without_code(text):
    """Leave out what is code, where brackets and hashes mean something else."""
    return re.sub(
        r"```.*?```|`[^`\n]*`",
        lambda found: re.sub(r"[\[\]()#]", "", found[0]),
        text,
        flags=re.DOTALL,
    )


def headings(text):
    """The names by which links reach a page's headings, made as GitHub makes them."""
    titles = re.findall(r"^#+ +(.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """To a file or folder that is there and, where they say so, to one of its headings."""
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(read(page)))
    for link in (link for link in links if not re.match(r"https?://", link)):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(HERE), link
        assert not heading or heading in headings(read(target)), link


def test_the_readme_is_read_in_three_minutes():
    """At most 130 lines, of 100 characters outside of tables."""
    lines = read(README).splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_the_page_on_robustness_names_tests_that_exist():
    rows = [line.split("|") for line in read(DOCS / "robustness.md").splitlines() if "|" in line]
    cells = [re.findall(r"`([a-z_]+)`", row[3]) for row in rows[2:]]
    names = {name for cell in cells for name in cell}
    assert all(cells) and len(names) > 15
    files = [HERE / "project_tests.py", *(HERE / "tests").rglob("test_*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    tests = re.findall(r"^def (test_\w+)", code, re.MULTILINE)
    assert {name for name in names if not any(name in test for test in tests)} == set()


@pytest.mark.parametrize("page", [README, DOCS / "commands.md"], ids=lambda page: page.name)
def test_the_lines_of_python_find_the_road(page, ready, random):
    (lines,) = re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)
    names = {"picture": random.integers(0, 256, (30, 40, 3), dtype=np.uint8)}
    exec(lines, names)
    assert names["probabilities"].shape == (30, 40, len(names["find_road"].classes))


@pytest.mark.export
@pytest.mark.skipif(not importlib.util.find_spec("tf2onnx"), reason="needs requirements-export.txt")
def test_the_example_needs_no_keras(trained, frames, tmp_path):
    """It prints, for each frame, how far right of the middle the road is."""
    assert run_export(trained, "--format", "onnx", "--output", tmp_path / "model.onnx") == 0
    write_video(tmp_path / "drive.mp4", frames[:3], codec="ffv1")
    (example,) = re.findall(r"```python\n(.*?)```", read(DOCS / "export.md"), re.DOTALL)
    assert len(example.splitlines()) <= 20
    example += "\nimport sys; assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 3
