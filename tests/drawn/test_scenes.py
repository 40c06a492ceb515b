"""Drawn scenes are varied, the same each time, and fit their calibration."""

import signal

import numpy as np
import pytest

from roadseg.data.pictures import decode_label
from roadseg.drawn import scenes
from roadseg.errors import StopRequest
from roadseg.scoring.simple_rules import score_simple_rules
from tests.by_hand import ground_projection
from tests.small import KITTI, SMALL


@pytest.mark.parametrize("category", scenes.CATEGORIES)
def test_scenes_are_deterministic_and_kitti_coloured(category):
    first, again = (scenes.draw_scene(category, 3, seed=7, shape=SMALL) for _ in range(2))
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.label, again.label)
    other = scenes.draw_scene(category, 4, seed=7, shape=SMALL)
    assert not np.array_equal(first.picture, other.picture)
    label = decode_label(first.label, KITTI.label_values, "drawn")
    assert 0.02 < np.mean(label == 1) < 0.5
    assert first.picture.shape == (*SMALL, 3) == first.label.shape


@pytest.mark.parametrize(
    ("category", "narrowest", "widest"), [("um", 6.0, 7.6), ("umm", 8.4, 13.6), ("uu", 4.4, 6.2)]
)
def test_calibration_fits_the_drawn_road(category, narrowest, widest):
    """Seen from above, by the calibration file, the road is as wide in metres far as near.

    Vehicles hide parts of it in some scenes, so not every scene shows its whole width.
    """
    height, width = 188, 621
    x, z = np.meshgrid(np.arange(-14, 14, 0.05), np.arange(16, 30, 0.5))
    whole_scenes = 0
    for index in range(6):
        scene = scenes.draw_scene(category, index, shape=(height, width))
        projection = ground_projection(scenes.calibration_text(scene.calibration))
        u, v, depth = np.tensordot(np.array(projection, float), [x, z, 0 * x + 1], axes=1)
        column, row = (np.trunc(place / depth).astype(int) - 1 for place in (u, v))
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        label = scene.label[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        road_widths = 0.05 * (seen & (label == scenes.ROAD).all(axis=-1)).sum(axis=1)
        assert road_widths.max() < widest + 0.3
        whole_scenes += np.mean(road_widths > narrowest - 0.3) > 0.5
    assert whole_scenes >= 3


def test_simple_rules_fail_on_drawn_scenes(drawn):
    """Neither the horizon nor the road's colour is enough: the scenes have to be learnt."""
    samples, _ = KITTI.find(drawn / "data_road")
    scores = score_simple_rules(samples, samples, KITTI)
    assert len(scores) == 2 and max(scores.values()) < 85


def test_a_drawing_that_is_stopped_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise StopRequest(signal.SIGINT)

    monkeypatch.setattr(scenes, "save_scene", stop)
    with pytest.raises(StopRequest):
        scenes.draw_data_set(tmp_path / "drawn", (1, 0, 0), (0, 0, 0), shape=SMALL)
    assert not list(tmp_path.iterdir())


def test_two_processes_may_draw_the_same_scenes_at_once(tmp_path, monkeypatch):
    """What the first has finished stays; the second leaves nothing unfinished behind."""
    folder, save_scene = tmp_path / "data_road", scenes.save_scene

    def draw_beside(*arguments):
        monkeypatch.setattr(scenes, "save_scene", save_scene)
        monkeypatch.setattr(scenes.os, "getpid", lambda: 0)
        scenes.draw_data_set(folder, (1, 0, 0), (0, 0, 0), shape=SMALL)
        (folder / "mark").touch()
        save_scene(*arguments)

    monkeypatch.setattr(scenes, "save_scene", draw_beside)
    scenes.draw_data_set(folder, (1, 0, 0), (0, 0, 0), shape=SMALL)
    assert (folder / "mark").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["data_road"]
