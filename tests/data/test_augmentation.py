"""From the disk to the network and back: samples, augmentation, batches, painted pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helper
from roadseg.answering.painting import choose_classes, paint_classes
from roadseg.data import augmentation
from roadseg.data.layouts import Sample, split_last_frames, subsample
from roadseg.data.pictures import VOID, read_image, read_label
from tests.small import KITTI


@pytest.mark.parametrize("counts", [(95, 96, 98), (80, 78, 84)])
def test_validation_is_the_last_16_of_each_category(counts):
    samples = [
        Sample(f"{category}_{number:06d}", Path(), None, category)
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count)
    ]
    training, validation = split_last_frames(samples, seed=0)
    assert len(training) == sum(counts) - 48
    assert {sample.name for sample in validation} == {
        f"{category}_{number:06d}"
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count - 16, count)
    }


def test_limit_leaves_no_category_out(drawn):
    labelled, _ = KITTI.find(drawn / "data_road")
    assert {sample.category for sample in subsample(labelled, 3)} == {"um", "umm", "uu"}


def test_augmented_picture_and_label_move_together(random):
    """A picture painted in its classes' colours still is after augmentation."""
    label = np.zeros((60, 200), np.uint8)
    label[20:50, 30:90] = 1
    label[5:12, 100:180] = VOID
    colours = np.zeros((256, 3), np.uint8)
    mean = tuple(map(round, augmentation.VGG_MEAN_RGB))
    colours[[0, 1, VOID]] = (200, 30, 10), (10, 220, 60), mean
    moved = 0
    for _ in range(20):
        picture, changed = augmentation.augment(colours[label], label, random)
        assert picture.shape == (60, 200, 3) and picture.dtype == changed.dtype == np.uint8
        assert set(np.unique(changed)) <= {0, 1, VOID}
        # Only the pixels at borders mix two colours.
        equal = np.abs(picture.astype(int) - colours[changed]).max(axis=-1) <= 1
        assert equal.mean() > 0.9
        moved += np.mean(changed != label) > 0.05
    assert moved >= 15


def keep_still(monkeypatch):
    """Switch off all that moves a picture, but for mirroring."""
    for name in ("ZOOM", "STRETCH", "LEAN", "SHIFT", "ROTATION_DEGREES"):
        nothing = 1.0 if name in ("ZOOM", "STRETCH") else 0.0
        monkeypatch.setattr(augmentation, name, (nothing, nothing))


def test_only_what_may_be_mirrored_is(monkeypatch, random):
    keep_still(monkeypatch)
    label = np.zeros((8, 20), np.uint8)
    label[:, :5] = 1
    picture = np.Repeat(label[..., None], 3, axis=-1)
    for mirrored, expected in ((True, {0, 1}), (False, {1})):
        labels = [augmentation.augment(picture, label, random, mirrored)[1] for _ in range(20)]
        assert {int(changed[4, 1]) for changed in labels} == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("STRETCH", 4.0, [(20, 60), (29, 139)]),  # twice as wide, half as high
        ("STRETCH", 0.25, [(5, 90), (44, 109)]),
        ("LEAN", 0.5, [(15, 85), (34, 114)]),  # 4.75 columns to the right at the top
    ],
)
def test_a_square_is_stretched_and_leans(name, value, expected, monkeypatch, random):
    """About the middle of the picture; expected: corners (row, column), reckoned by hand."""
    keep_still(monkeypatch)
    monkeypatch.setattr(augmentation, name, (value, value))
    label = np.zeros((50, 200), np.uint8)
    label[15:35, 80:120] = 1
    picture = np.Repeat(label[..., None], 3, axis=-1)
    _, changed = augmentation.augment(picture, label, random, mirrored=False)
    np.testing.assert_array_equal(np.argwhere(changed == 1)[[0, -1]], expected)


def test_batches_hold_every_picture_once(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), augmented=False)
    batches = list(get_batches_fn(4))
    assert [len(pictures) for pictures, _ in batches] == [4, 4, 4, 3]
    pictures, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    assert pictures.shape == (15, 32, 64, 3) and labels.shape == (15, 32, 64)
    expected = sorted(read_image(s.picture, (32, 64)).tobytes() for s in samples)
    assert sorted(picture.tobytes() for picture in pictures) == expected


def test_batches_depend_on_seed_epoch_and_index_alone(drawn):
    samples, _ = KITTI.find(drawn / "data_road")

    def epoch_pictures(batch_size, epoch, seed=1):
        get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), seed)
        return np.concatenate([pictures for pictures, _ in get_batches_fn(batch_size, epoch)])

    first = epoch_pictures(4, 0)
    np.testing.assert_array_equal(first, epoch_pictures(5, 0))
    assert not np.array_equal(first, epoch_pictures(4, 1))
    assert not np.array_equal(first, epoch_pictures(4, 0, seed=2))
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), 1)
    rest = np.concatenate([pictures for pictures, _ in get_batches_fn(4, 0, first=2)])
    np.testing.assert_array_equal(first[2 * 4 :], rest)


def test_batches_know_the_names_of_their_pictures(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    named = {sample.name: read_image(sample.picture, (32, 64)) for sample in samples}
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), 1, augmented=False)
    for number, (pictures, _) in enumerate(get_batches_fn(4, 7)):
        names = get_batches_fn.names(4, 7, number)
        np.testing.assert_array_equal(pictures, [named[name] for name in names])


def test_each_picture_is_decoded_once(drawn, monkeypatch):
    samples, _ = KITTI.find(drawn / "data_road")
    opened, read = [], Image.open

    def count_and_read(path):
        opened.append(path)
        return read(path)

    monkeypatch.setattr(Image, "open", count_and_read)
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64))
    for epoch in range(3):
        list(get_batches_fn(4, epoch))
    assert len(opened) == len(set(opened)) == 2 * len(samples)


def test_labels_are_resized_to_nearest_neighbours(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    label = read_label(samples[0], KITTI, (37, 111))
    assert label.shape == (37, 111) and set(np.unique(label)) <= {0, 1, VOID}


def test_the_most_likely_class_is_chosen_and_of_equal_ones_the_last(random):
    probabilities = random.integers(0, 4, (20, 30, 5)).astype(np.float32)  # with many ties
    classes = choose_classes(probabilities)
    assert classes.dtype == np.uint8
    for place in np.ndindex(20, 30):
        chances = probabilities[place].tolist()
        assert classes[place] == max(i for i in range(5) if chances[i] == max(chances))


def test_painting_tints_classes_and_draws_their_contours():
    """A tie is road; other places stay as they are; the picture's border is no contour."""
    picture = np.full((9, 9, 3), 100, np.uint8)
    road = np.full((9, 9), 0.49, np.float32)
    road[2:, 2:7] = 0.5
    painted = paint_classes(picture, np.stack([1 - road, road], axis=-1), {1: (0, 200, 255)})
    expected = np.full((9, 9, 3), 100)
    expected[2:, 2:7] = 0, 200, 255
    expected[3:, 3:6] = 60, 140, 162
    np.testing.assert_array_equal(painted, expected)
