"""What the README says is there."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.small import HERE, run_export, write_video


def test_the_readme_names_tests_that_exist():
    section = (HERE / "README.md").read_text().split("## Nothing is lost")[1].split("\n## ")[0]
    rows = [row.split("|")[3] for row in section.splitlines() if row.startswith("| ")][2:]
    names = re.findall(r"`([a-z_]+)`", " ".join(rows))
    files = [HERE / "project_tests.py", *(HERE / "tests").glob("test_*.py")]
    code = "\n".join(path.read_text() for path in files)
    tests = re.findall(r"^def (test_\w+)", code, re.MULTILINE)
    assert len(names) > 15 and all(any(name in test for test in tests) for name in names)


@pytest.mark.export
@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")
def test_the_readmes_example_needs_no_keras(trained, frames, tmp_path):
    """It prints, for each frame, how far right of the middle the road is."""
    assert run_export(trained, "--format", "onnx", "--output", tmp_path / "model.onnx") == 0
    write_video(tmp_path / "drive.mp4", frames[:3], codec="ffv1")
    (example,) = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 20
    example += "\nimport sys; assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 3
