"""Predict probabilities of pictures: whole, in tiles, at three sizes, with read-ahead.

No Keras here: an exported network is asked in the same way.
"""

import itertools
from typing import NamedTuple

import numpy as np

from roadseg.data.pictures import WORKERS, map_ahead, read_image, resample, resize, scaled_shape

PREDICTION_BATCH = 4  # pictures on each device
OTHER_SCALES = (0.7, 1.3)  # of the requested size


class Calibration(NamedTuple):
    """What makes probabilities of two logits; the default leaves them as they are."""

    slope: float = 1.0  # times the log-odds of road
    offset: float = 0.0  # added to them
    share: float = 1.0  # of road in the pictures it was fitted on: see `layers.RaiseRoad`
    front: float = 0.0  # likewise, of their `in_front`

    @classmethod
    def of(cls, values):
        """Return that of calibration.json; earlier runs have no share, or no front.

        Raises KeyError, TypeError or ValueError where something is missing or no such number.
        """
        values = {"share": 1.0, "front": 0.0} | values
        found = cls(*(float(values[name]) for name in cls._fields))
        for name in ("share", "front"):
            if not 0 <= getattr(found, name) <= 1:
                raise ValueError(f"a {name} of {getattr(found, name)}, expected 0 to 1")
        return found


UNCALIBRATED = Calibration()


def in_front(pictures, height, width):
    """Return what is right in front of the camera: the lowest quarter, the fifth in the middle.

    pictures: [N, H, W, ...] of this height and width, pixels.
    """
    return pictures[:, 3 * height // 4 :, 2 * width // 5 : (3 * width + 4) // 5]


def nearest_shape(image_shape):
    """Make a function (height, width) of a picture -> that in the network.

    image_shape: (height, width) in training, or a list of several, of which a picture gets the one
    with the proportions nearest to its own; None: its own.
    """
    if image_shape is None:
        return tuple
    shapes = np.reshape(image_shape, (-1, 2)).tolist()

    def choose_shape(shape):
        wanted = shape[1] / shape[0]
        return min(shapes, key=lambda known: abs(np.log(known[1] / known[0] / wanted)))

    return choose_shape


def with_mirror_images(predict):
    """Make a function that averages predictions of pictures and of their mirror images.

    predict: function float32 [N, H, W, 3] -> float32 [N, H, W, C].
    """

    def predict_both(pictures):
        return (predict(pictures) + predict(pictures[:, :, ::-1])[:, :, ::-1]) / 2

    return predict_both


def thoroughly(predict, mirrored=False):
    """Make a function that averages predictions at the pictures' size and at OTHER_SCALES.

    predict: function float32 [N, H, W, 3] -> float32 [N, H, W, C] for any H and W; mirrored:
    whether it was trained on mirror images, which then are predicted as well.
    """
    predict = with_mirror_images(predict) if mirrored else predict

    def resample_all(arrays, shape):
        return np.stack([resample(array, shape) for array in arrays])

    def predict_thoroughly(pictures):
        shape = pictures.shape[1:3]
        others = [resample_all(pictures, scaled_shape(shape, scale)) for scale in OTHER_SCALES]
        answers = [predict(pictures), *(resample_all(predict(other), shape) for other in others)]
        return np.mean(answers, axis=0)

    return predict_thoroughly


# Receptive field to one side, pixels: 202 for pool5 and fc6's 7x7, plus 32, 16 and 8 for the three
# upsamplings, rounded up to a multiple of 32: that holds the 4 + 4 and 2 + 2 of pool2's and pool1's
# skips, too.
REACH = 288
TILE = 1536  # pixels; larger pictures are cut into tiles of this size


def in_tiles(predict, tile=TILE, reach=REACH):
    """Bound the memory of a prediction without changing the answer.

    predict: function float32 [N, H, W, 3] -> float32 [N, H, W, C]; tile: largest height and width
    it gets, pixels (several smaller pictures at once); reach: receptive field to one side, pixels.
    Both are multiples of 32, which keeps the network's grid in place.
    """

    def cut(length):
        """Yield (from, to) of a tile and (from, to) of its part that is kept."""
        core = length if length <= tile else tile - 2 * reach
        for start in range(0, length, core):
            end = min(length, start + core)
            yield (max(0, start - reach), min(length, end + reach)), (start, end)

    def predict_bounded(pictures):
        count, height, width = pictures.shape[:3]
        answer = None
        for (top, bottom), (first, last) in cut(height):
            for (left, right), (begin, end) in cut(width):
                seen = predict(pictures[:, top:bottom, left:right])
                if answer is None:
                    answer = np.empty((count, height, width, seen.shape[-1]), np.float32)
                answer[:, first:last, begin:end] = seen[
                    :, first - top : last - top, begin - left : end - left
                ]
        return answer

    return in_parts(predict_bounded, tile)


def in_parts(predict, tile=TILE):
    """Predict as many pictures at once as have the area of a tile, at least one."""

    def predict_parts(pictures):
        count, height, width = pictures.shape[:3]
        at_once = max(1, tile**2 // (height * width))
        parts = np.split(pictures, range(at_once, count, at_once))
        return np.concatenate([predict(part) for part in parts])

    return predict_parts


class Enlarged:
    """Class probabilities of a picture, enlarged from the network's size one class at a time.

    All classes of a large picture at once would be gigabytes. It is the probabilities that are
    resized: a resized mask has stairs.
    """

    def __init__(self, small, shape):
        """small: float32 [h, w, C]; shape: (height, width) of the picture."""
        self.small, self.shape = small, shape

    def __iter__(self):
        """Yield the plane of each class; of two, one tells the other."""
        if self.small.shape[-1] == 2:
            plane = self.plane(1)
            yield from (1 - plane, plane)
        else:
            yield from map(self.plane, range(self.small.shape[-1]))

    def plane(self, index):
        """Return the probability of one class: float32 [H, W]."""
        return resize(np.ascontiguousarray(self.small[..., index]), self.shape)

    def array(self):
        """Return all classes: float32 [H, W, C]."""
        return resample(self.small, self.shape)


def predict_ahead(predict, items, read, choose_shape, batch_size, shrink=resample, at_once=1):
    """Predict pictures in order; threads read and shrink them meanwhile.

    predict: function [N, H, W, 3] -> float32 [N, H, W, C] probabilities; read: function item ->
    uint8 [H, W, 3], or None to skip it; choose_shape: function (height, width) -> shape in the
    network; batch_size: most pictures of one shape at a time; shrink: `resample`, for a network
    that takes float32, or `resize`, for uint8; at_once: batches to answer at the same time. Yields
    (item, picture, Enlarged).
    """

    def read_small(item):
        if (picture := read(item)) is None:
            return None
        return item, picture, shrink(picture, choose_shape(picture.shape[:2]))

    def answer(batch):
        return batch, predict(np.stack([small for _, _, small in batch]))

    readable = filter(None, map_ahead(read_small, items, ahead=WORKERS))
    batches = _of_one_shape(readable, batch_size)
    for batch in map(answer, batches) if at_once == 1 else map_ahead(answer, batches, at_once):
        for (item, picture, _), probabilities in zip(*batch, strict=True):
            yield item, picture, Enlarged(probabilities, picture.shape[:2])


def _of_one_shape(readable, batch_size):
    """Yield lists of what `predict_ahead` read, neighbours that were shrunk to one shape."""
    for _, same in itertools.groupby(readable, key=lambda seen: seen[2].shape):
        while batch := list(itertools.islice(same, batch_size)):
            yield batch


def read_sample(sample):
    """Read the picture of a Sample: uint8 [H, W, 3]."""
    return read_image(sample.picture)


def predict_samples(predict, samples, image_shape, batch_size=1):
    """Predict the pictures of samples in their own size.

    predict, batch_size: of `predict_ahead`; image_shape: of `nearest_shape`. Yields (sample,
    picture uint8 [H, W, 3], probabilities float32 [H, W, C]). Raises UserError for a picture that
    can't be read.
    """
    answers = predict_ahead(predict, samples, read_sample, nearest_shape(image_shape), batch_size)
    return map_ahead(lambda seen: (*seen[:2], seen[2].array()), answers, WORKERS)
