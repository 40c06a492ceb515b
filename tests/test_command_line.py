"""The command line is frozen here: a flag, a default or a type that changes shows."""

import os
import re
import subprocess
import sys

import pytest

import bench
import demo
import evaluate
import export
import main
import predict
import report
from roadseg import errors
from roadseg.command_line import exit_status
from tests.small import HERE

COMMANDS = {
    module.__name__: module for module in (main, predict, evaluate, export, report, bench, demo)
}
USAGE = {
    "main": """[-h] [--dataset NAME [NAME ...]] [--data-dir DIR]
        [--runs-dir DIR] [--run NAME] [--vgg conv|full|none|PATH] [--image-shape H W]
        [--epochs N | --minutes M] [--patience N] [--batch-size N] [--learning-rate R]
        [--class-weights {none,weak,sqrt,median}]
        [--precision {auto,float32,mixed_bfloat16,mixed_float16}] [--devices N] [--seed N]
        [--limit N] [--tensorboard]""",
    "predict": """[-h] [--run RUN] [--output DIR]
        [--save {overlay,mask,probability} [{overlay,mask,probability} ...]] [--scale S]
        [--every N] [--thorough] [--precision {auto,float32,mixed_bfloat16}] PATH [PATH ...]""",
    "evaluate": """[-h] [--run RUN] [--data-dir DIR] [--part {validation,training}]
        [--submission FILE.zip] [--thorough]""",
    "export": """[-h] [--run RUN] --format {saved_model,onnx,litert,openvino}
        [--precision {float32,float16,int8}] [--accept-loss] [--data-dir DIR] [--output PATH]""",
    "report": """[-h] RUN""",
    "bench": """[-h] [--json FILE] [--part {training,prediction}]""",
    "demo": """[-h] [--run RUN] [--host ADDRESS] [--port N]""",
}
# What is typed -> what is read: first without any flag, then with all of them.
READ = {
    "main": """dataset=['auto'], data_dir=Path('data'), runs_dir=Path('runs'), run=None, vgg='conv',
        image_shape=None, epochs=None, minutes=None, patience=0, batch_size=None,
        learning_rate=None, class_weights=None, precision='auto', devices=None, seed=0,
        limit=None, tensorboard=False""",
    "main --dataset camvid folder:own --data-dir d --runs-dir r --run new --vgg a.h5 "
    "--image-shape 32 96 --epochs 3 --patience 2 --batch-size 2 --learning-rate 1 "
    "--class-weights sqrt --precision float32 --devices 2 --seed 7 --limit 9 --tensorboard": """
        dataset=['camvid', 'folder:own'], data_dir=Path('d'), runs_dir=Path('r'), run='new',
        vgg='a.h5', image_shape=[32, 96], epochs=3, minutes=None, patience=2, batch_size=2,
        learning_rate=1.0, class_weights='sqrt', precision='float32', devices=2, seed=7,
        limit=9, tensorboard=True""",
    "predict a.png b.png": """paths=['a.png', 'b.png'], run=None, output=None,
        save=['overlay'], scale=None, every=1, thorough=False, precision='auto'""",
    "predict --run first a --output o --save mask overlay --scale 2 --every 3 "
    "--thorough --precision float32": """paths=['a'], run='first', output=Path('o'),
        save=['mask', 'overlay'], scale=2.0, every=3, thorough=True, precision='float32'""",
    "evaluate": "run=None, data_dir=None, part='validation', submission=None, thorough=False",
    "evaluate --run first --data-dir d --part training --submission a.zip "
    "--thorough": """run='first', data_dir=Path('d'), part='training', submission=Path('a.zip'),
        thorough=True""",
    "export --format onnx": """run=None, format='onnx', precision='float32', accept_loss=False,
        data_dir=None, output=None""",
    "export --run first --format onnx --precision int8 --accept-loss --data-dir d "
    "--output o": """run='first', format='onnx', precision='int8', accept_loss=True,
        data_dir=Path('d'), output=Path('o')""",
    "report first": "run='first'",
    "bench": "json=None, part=None",
    "bench --json b.json --part training": "json=Path('b.json'), part='training'",
    "demo": "run=None, host='127.0.0.1', port=7860",
    "demo --run a.onnx --host 0.0.0.0 --port 80": "run='a.onnx', host='0.0.0.0', port=80",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_and_choices_are_these(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as stopped:
        COMMANDS[command].parse_arguments(["--help"])
    usage = re.match(r"usage: program (.*?)\n\n", capsys.readouterr().out, re.DOTALL)[1]
    assert usage.split() == USAGE[command].split() and stopped.value.code == 0


def test_the_page_of_commands_names_every_flag():
    page = (HERE / "docs" / "commands.md").read_text(encoding="utf-8")
    flags = {flag for usage in USAGE.values() for flag in re.findall(r"--[a-z-]+", usage)}
    assert flags - set(re.findall(r"--[a-z-]+", page)) == set()


@pytest.mark.parametrize("words", READ)
def test_what_is_typed_and_what_is_not_is_read_as_this(words, tmp_path, monkeypatch):
    """Names, values and types."""
    monkeypatch.chdir(tmp_path)  # where there are no runs
    command, *arguments = words.split()
    found = str(COMMANDS[command].parse_arguments(arguments)).replace("PosixPath", "Path")
    assert found == f"Namespace({' '.join(READ[words].split())})"


@pytest.mark.parametrize(
    "words",
    [
        "main --epochs 0",
        "main --minutes 0",
        "main --epochs 3 --minutes 1",
        "main --batch-size 1.5",
        "main --seed -1",
        "main --image-shape 10",
        "main --learning-rate nan",
        "main --learning-rate 0",
        "main --dataset moon",
        "main --class-weights rare",
        "predict --run first",
        "predict a.png --scale inf",
        "predict a.png --save movie",
        "evaluate first",
        "export",
        "export first --format onnx",
        "report",
        "bench first",
        "bench --part all",
        "demo --share",
        "demo --port 0",
    ],
)
def test_wrong_usage_ends_with_status_2(words, capsys):
    command, *arguments = words.split()
    with pytest.raises(SystemExit) as stopped:
        COMMANDS[command].parse_arguments(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("usage: ")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (None, 0, ""),
        (errors.UserError("a.png: no picture"), 2, "a.png: no picture\n"),
        (errors.DownloadError("no network"), 2, "no network\n"),
        (errors.FaultyPicturesError("a.png: torn"), 1, "a.png: torn\n"),
        (errors.WrongAnswerError("differs"), 1, "differs\n"),
        (errors.TrainingError("NaN"), 1, "training failed: NaN\n"),
        (errors.LossError("NaN"), 1, "training failed: NaN\n"),
        (errors.StopRequest(2), 130, "stopped by SIGINT\n"),
        (errors.StopRequest(15), 143, "stopped by SIGTERM\n"),
        (OSError(28, "No space left", "a.png"), 2, "a.png: No space left\n"),
    ],
    ids=repr,
)
def test_each_error_has_its_status_and_one_line(error, status, line, capsys):
    def work(stopping):
        if error:
            raise error

    assert exit_status(work) == status
    assert capsys.readouterr().err == line


def test_letters_that_a_console_lacks_do_not_end_a_run():
    """They are written in another way, and the status is that of the work."""
    code = (
        "import sys\nfrom roadseg import command_line, errors, terminal\n"
        "def work(_):\n"
        "    terminal.say('данные')\n"
        "    raise errors.FaultyPicturesError('улица')\n"
        "sys.exit(command_line.exit_status(work))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert done.returncode == 1
    assert done.stdout.startswith(rb"\u0434\u0430") and done.stderr.startswith(rb"\u0443\u043b")


@pytest.mark.parametrize("where", ["closed pipe", "full disk"])
def test_a_console_that_takes_nothing_does_not_end_a_run(where, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom roadseg import command_line, terminal\n"
        "def work(_):\n"
        "    for _ in terminal.progress(range(3)): terminal.say('a' * 100_000)\n"
        "    Path(sys.argv[1]).write_text('done')\n"
        "sys.exit(command_line.exit_status(work))"
    )
    command = [sys.executable, "-c", code, tmp_path / "result"]
    if where == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    try:
        assert subprocess.run(command, cwd=HERE, stdout=writing, stderr=writing).returncode == 0
    finally:
        os.close(writing)
    assert (tmp_path / "result").read_text() == "done"
