"""The bench measures what it names."""

import functools
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import bench
import export
import main
from roadseg import engine
from roadseg.data import vgg_weights
from roadseg.errors import UserError
from tests.small import SMALL

KERAS = (("Keras", "float32"), ("Keras", "mixed_bfloat16"))
FILES = (("fast", "float32"), ("fast", "int8"))
NETWORKS = (*KERAS, *FILES, ("fast", "float16"), ("folder", "float32"), ("slow", "float32"))
PEAKS = {"float32": 1e9, "mixed_bfloat16": 2e9}  # operations a second
FRAMES = {"float32": 2, "mixed_bfloat16": 3, "int8": 4}
PARSE_EXPORT = export.parse_arguments
ALONE = (32, 64, bench.ALONE)
EXPECTED = {  # (network, precision, height, width, what is measured): what was called
    **{(*key, *ALONE): ("predict_on_batch",) for key in KERAS},
    **{(*key, *ALONE): ((" ".join(key), 4, 32, 64, 3),) for key in (*FILES, ("folder", "float32"))},
    **{
        (*key, *shape, f"predict.py --save {kind}, {form}"): (
            " ".join(key),
            shape,
            FRAMES[key[1]],
            kind,
            suffix,
        )
        for key in (*KERAS, *FILES)
        for shape, kind, form, suffix in (
            ((20, 30), "mask", "pictures", ".png"),
            ((48, 64), "mask", "video", ".mkv"),
            ((48, 64), "overlay", "video", ".mp4"),
        )
    },
}


def refuse_absent(form, output):
    """As `exporting.refuse_what_cannot_be_written`."""
    if form.open is None:
        raise UserError("needs a rocket")


@pytest.fixture
def measured(narrow_vgg, monkeypatch):
    """Rates by a clock of one's own: the n-th is n. Returns {n: what was called meanwhile}."""
    called, events = {}, []

    def optimize_eagerly(*arguments):
        compiled = main.optimize(*arguments)
        compiled.run_eagerly = True
        return compiled

    def note_rate(*what):
        called[len(called) + 1] = what
        return float(len(called))

    def open_export(path):
        return lambda batch: events.append((path.read_text(), *batch.shape))

    def write_export(given, _):
        samples = bench.export.samples_to_check(
            {"dataset": "synthetic", "seed": 0, "data_dir": given.data_dir},
            bench.DATASETS["synthetic"].classes,
            is_needed=True,
        )
        assert given.accept_loss and samples[0] and samples[1]
        given.output.parent.mkdir(exist_ok=True)
        given.output.write_text(f"{given.format} {given.precision}")

    def open_finder(path, precision=None):
        name = path.read_text() if path.is_file() else f"Keras {precision}"
        return SimpleNamespace(name=name, answer=lambda items, read: items)

    def answer_sources(finder, targets, kinds, *_):
        (pictures,) = {source.read(frame).shape[:2] for source in targets for frame in source}
        suffixes = {path.suffix for paths in targets.values() for path in paths.values()}
        frames = sum(source.expected for source in targets)
        return note_rate(finder.name, pictures, frames, *kinds, *suffixes), 1

    settings = {
        "VGG": str(narrow_vgg),
        "NETWORKS": NETWORKS,
        "COUNTS": FRAMES,
        "SOURCES": (
            ((20, 30), bench.write_pictures, ("mask",)),
            ((48, 64), bench.write_video, ("mask", "overlay")),
        ),
        "NETWORK_SHAPE": (32, 64),
        "KITTI_SHAPE": SMALL,
        "ROUNDS": 1,
        "DRAWN": 2,
        "FORMATS": {
            "fast": SimpleNamespace(file_name=Path("fast.onnx"), open=open_export),
            "folder": SimpleNamespace(file_name=Path("folder"), open=open_export),
            "slow": SimpleNamespace(file_name=Path("slow"), open=None),
        },
        "refuse_what_cannot_be_written": refuse_absent,
        "optimize": optimize_eagerly,
        "faster_precision": lambda: "mixed_bfloat16",
        "matrix_product_rate": lambda precision, _: PEAKS[precision],
    }
    for name, value in settings.items():
        monkeypatch.setattr(bench, name, value)

    def record(owner, name):
        function = getattr(owner, name)

        @functools.wraps(function)
        def call(*arguments, **options):
            events.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (bench.Training, "step"),
        (bench, "train_epoch"),
        (bench.Training, "finish_epoch"),
        (bench.Training, "save_epoch"),
    ):
        record(owner, name)

    def rate_of(function, pictures):
        events.clear()
        function()
        return note_rate(*events)

    monkeypatch.setattr(bench, "rate_of", rate_of)
    for form in ("fast", "folder"):
        monkeypatch.setitem(bench.rounding.ROUND, (form, "int8"), None)
    monkeypatch.setattr(bench.export, "parse_arguments", parse_anything)
    monkeypatch.setattr(bench.export, "export", write_export)
    monkeypatch.setattr(bench.predict, "RoadFinder", open_finder)
    monkeypatch.setattr(bench.predict, "answer_sources", answer_sources)
    record(engine.keras.Model, "predict_on_batch")
    return called


def parse_anything(words):
    """As `export.parse_arguments`, but for formats it does not know."""
    words = list(words)
    form = words[words.index("--format") + 1]
    words[words.index("--format") + 1] = "onnx"
    given = PARSE_EXPORT(words)
    given.format = form
    return given


def limit_by_hand(weights, precision, training):
    """Pictures a second, where the machine makes PEAKS operations a second."""
    network = main.layers(main.load_vgg(weights), len(bench.DATASETS["synthetic"].classes))
    return PEAKS[precision] / engine.operations(network, (32, 64), training)


def check_shares(rows, column, reference, printed):
    """Each row's share is its rate / reference(row), and it is printed."""
    for row in rows:
        expected = reference(row)
        wanted = expected and row["pictures a second"] / expected
        assert row[column] == (wanted and pytest.approx(wanted))
        assert f"| {row['what']} | {row['pictures a second']:.2f} |" in printed


def test_the_bench_measures_all_it_names_and_writes_it_down(measured, narrow_vgg, tmp_path, capsys):
    """Each row has the rate of its own measurement, and what it is next to the others."""
    assert bench.main(["--json", str(tmp_path / "bench.json")]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    printed = capsys.readouterr().out
    weights = vgg_weights.read(str(narrow_vgg))
    training = limit_by_hand(weights, "mixed_bfloat16", True)
    assert {row["what"]: row["pictures a second"] for row in written["training"]} == {
        bench.LIMIT: training,
        "reading and augmenting alone": 1,
        bench.STEPS: 2,
        "whole epoch, with validation and checkpoint": 3,
    }
    assert [measured.pop(number) for number in (1, 2, 3)] == [
        (),
        ("step",),
        ("train_epoch", *["step"] * 5, "finish_epoch", "predict_on_batch", "save_epoch"),
    ]
    limits = {name: limit_by_hand(weights, name, False) for name in PEAKS}
    found, alone = {}, {}
    for row in written["prediction"]:
        key = row["network"], row["precision"]
        if row["what"] == bench.LIMIT:
            assert row["pictures a second"] == limits[row["precision"]]
        else:
            found[*key, *row["pictures"], row["what"]] = measured.pop(row["pictures a second"])
        if row["what"] == bench.ALONE:
            alone[key] = row["pictures a second"]
    assert not measured and found == EXPECTED
    for rows, column, reference in (
        (written["training"], "of training steps alone", lambda row: 2),
        (written["training"], "of the machine's peak", lambda row: training),
        (
            written["prediction"],
            "of the network alone",
            lambda row: alone[row["network"], row["precision"]],
        ),
        (written["prediction"], "of the machine's peak", lambda row: limits.get(row["precision"])),
    ):
        check_shares(rows, column, reference, printed)
    assert "left out: slow in float32: needs a rocket" in printed
    assert "left out: fast in float16: --precision float16: fast has float32 alone" in printed


def test_a_rate_is_pictures_over_seconds(monkeypatch):
    """By a clock that goes on by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    calls = []
    assert bench.rate_of(lambda: calls.append(0), 3) == 3 * (len(calls) - 1) / len(calls)


def test_one_part_is_measured_alone(measured, monkeypatch, tmp_path, capsys):
    parts = dict.fromkeys(bench.PARTS, lambda *_: pytest.fail("measured"))
    parts["training"] = lambda *_: [{"what": "steps", "pictures a second": 2.0}]
    monkeypatch.setattr(bench, "PARTS", parts)
    words = ["--part", "training", "--json", str(tmp_path / "bench.json")]
    assert bench.main(words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench_training.csv"]
    assert json.loads((tmp_path / "bench.json").read_text()).keys() == {"machine", "training"}
    assert "prediction" not in capsys.readouterr().out
