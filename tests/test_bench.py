"""The bench measures what it names."""

import itertools
import json

import bench
import export
from tests.small import SMALL


def test_the_bench_measures_all_it_names_and_writes_it_down(narrow, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.vgg_weights, "read", lambda *_: {})
    monkeypatch.setattr(bench, "CASES", (((20, 30), (32, 64), 5),))
    monkeypatch.setattr(bench, "NETWORK_SHAPE", (32, 64))
    monkeypatch.setattr(bench, "KITTI_SHAPE", SMALL)
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "DRAWN", 4)
    saved_model = {"saved_model": export.FORMATS["saved_model"]}
    monkeypatch.setattr(export, "FORMATS", saved_model)
    assert bench.main(["--json", str(tmp_path / "bench.json")]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    printed = capsys.readouterr().out
    for part, count in {"training": 4, "prediction": 5}.items():
        assert len(written[part]) == count
        for row in written[part]:
            assert row["pictures a second"] > 0 and f"| {row['what']} |" in printed
    limit, alone = written["prediction"][:2]
    assert alone["of the network alone"] == limit["of a matrix product"] == 1


def test_a_rate_is_pictures_over_seconds(monkeypatch):
    """By a clock that goes on by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    calls = []
    assert bench.rate_of(calls.append, [1, 2, 3]) == 3 * (len(calls) - 1) / len(calls)
