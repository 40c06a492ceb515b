"""Batches take no more memory the more pictures there are."""

import tracemalloc

import numpy as np

import helper
from roadseg.answering import painting, predictor
from roadseg.data.pictures import bytes_of, resample
from tests.small import KITTI

PAIR_BYTES = 4 * 96 * 320  # a picture and its label


def test_pictures_that_do_not_fit_are_streamed_in_flat_memory(drawn, monkeypatch):
    """A thousand pictures, of which a hundred fit into the half of the memory that they may use."""
    labelled, _ = KITTI.find(drawn / "data_road")
    samples = [labelled[number % len(labelled)] for number in range(1000)]
    monkeypatch.setattr("roadseg.data.pictures.free_memory_bytes", lambda: 200 * PAIR_BYTES)
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (96, 320))
    used, count = {}, 0
    # The process' own memory would tell of the tests before this one, too.
    tracemalloc.start()
    try:
        for pictures, _ in get_batches_fn(20):
            count += len(pictures)
            used[count], _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(samples)
    assert used[100] > 90 * PAIR_BYTES, used
    assert max(used.values()) < used[200] + 20 * PAIR_BYTES, used


def test_all_arrays_of_a_batch_count():
    """Pictures that wait in lists of tuples are those that must not fill the memory."""
    picture, probabilities = np.zeros((2, 3, 3), np.uint8), np.zeros((1, 2, 2), np.float32)
    assert bytes_of(([("name", picture), ("other", picture)], probabilities)) == 18 + 18 + 16


def test_many_classes_are_enlarged_one_at_a_time(random):
    """Of 50 classes a mask and a probability take the memory of a few, in the picture's size."""
    shape, plane_bytes = (600, 800), 4 * 600 * 800
    small = random.uniform(size=(60, 80, 50)).astype(np.float32)
    tracemalloc.start()
    try:
        enlarged = predictor.Enlarged(small, shape)
        classes = painting.choose_classes(enlarged)
        enlarged.plane(7)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * plane_bytes, peak / plane_bytes
    np.testing.assert_array_equal(classes, resample(small, shape).argmax(axis=-1))
