"""Everything between the disk and the network.

Data sets at hand, pictures and labels read and augmented, batches, painted pictures.
"""

import dataclasses
import functools
import itertools
import os

import numpy as np

from roadseg import terminal
from roadseg.answering.painting import encode_png, paint_classes
from roadseg.answering.predictor import predict_samples
from roadseg.data import download, vgg_weights
from roadseg.data.augmentation import augment
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import WORKERS, map_ahead, read_image, read_label
from roadseg.drawn import scenes
from roadseg.errors import DownloadError, UserError

# How many pictures of um, umm and uu are drawn where there are no real ones.
DRAWN_TRAINING = (90, 90, 90)
DRAWN_TESTING = (6, 6, 6)


# --- data sets and weights ------------------------------------------------------------------------


def prepare_data_set(name, data_dir):
    """Make sure that a data set lies on the disk.

    name: a key of DATASETS, or "auto": KITTI Road where it is or can be downloaded, otherwise the
    drawn scenes, said on the terminal. Returns (the key really used, its row, its folder). Raises
    UserError where the data set can't be had.
    """
    try:
        return _bring("kitti" if name == "auto" else name, data_dir)
    except DownloadError as error:
        if name != "auto":
            raise
        terminal.say(
            f"{error}\n\n*** NO KITTI ROAD HERE: training on DRAWN road scenes instead. ***\n"
        )
        return _bring("synthetic", data_dir)


def _bring(name, data_dir):
    """Draw, find or download a data set. Returns (name, its row, its folder)."""
    row = DATASETS[name]
    folder = data_dir / row.folder
    if row.drawn:
        scenes.draw_data_set(folder, DRAWN_TRAINING, DRAWN_TESTING, progress=terminal.progress)
    elif row.remote and not folder.is_dir():
        archive = data_dir / f"{row.folder}.zip"
        download.download(row.remote, archive)
        download.unpack(archive, row.folder, data_dir)
    elif not folder.is_dir():
        raise UserError(f"{folder}: not found; put {row.layout} there")
    return name, dataclasses.replace(row, **row.complete(folder)), folder


def maybe_download_pretrained_vgg(data_dir):
    """Return the path of Keras' full VGG16 file (553 MB), downloaded and checked if need be."""
    return vgg_weights.download_full(data_dir)


# --- reading --------------------------------------------------------------------------------------


# --- batches --------------------------------------------------------------------------------------


def gen_batch_function(samples, data_set, image_shape, seed=0, augmented=True, share=list):
    """Make the function that gives the batches of an epoch.

    samples: labelled Samples; data_set: their row of DATASETS; image_shape: (height, width); share:
    function that chooses which of a batch's indices are read, by several processes: `Team.share`.
    Returns get_batches_fn(batch_size, epoch=0, first=0), a generator of (pictures uint8
    [N, H, W, 3], labels uint8 [N, H, W]) that goes once over all samples, from batch number `first`
    on; the last batch may be smaller. Each picture is decoded once where memory allows, ahead of
    the network. The random numbers of a picture depend on (seed, epoch, its index) alone.
    get_batches_fn.names(batch_size, epoch, number) gives the names of a batch's pictures.
    """
    pair_bytes = 4 * image_shape[0] * image_shape[1]

    @functools.lru_cache(maxsize=_free_memory_bytes() // 2 // terminal._neighbours // pair_bytes)
    def read_pair(index):
        picture = read_image(samples[index].picture, image_shape)
        return picture, read_label(samples[index], data_set, image_shape)

    def order(epoch):
        return np.random.default_rng([seed, epoch]).permutation(len(samples)).tolist()

    def get_batches_fn(batch_size, epoch=0, first=0):
        def make(index):
            pair = read_pair(index)
            random = np.random.default_rng([seed, epoch, index])
            return augment(*pair, random, data_set.mirrored) if augmented else pair

        indices = order(epoch)
        starts = range(first * batch_size, len(indices), batch_size)
        batches = [share(indices[start : start + batch_size]) for start in starts]
        chosen = itertools.chain.from_iterable(batches)
        pairs = map_ahead(make, chosen, ahead=2 * batch_size + WORKERS)
        for batch in batches:
            pictures, labels = zip(*itertools.islice(pairs, len(batch)), strict=True)
            yield np.stack(pictures), np.stack(labels)

    def names(batch_size, epoch, number):
        indices = order(epoch)[number * batch_size : (number + 1) * batch_size]
        return [samples[index].name for index in indices]

    get_batches_fn.names = names
    return get_batches_fn


def _free_memory_bytes():
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not told on every system
        return 2 << 30


# --- what comes out -------------------------------------------------------------------------------


def gen_test_output(predict, samples, image_shape, batch_size=1):
    """Predict pictures in their own size: `answering.predictor.predict_samples`."""
    return predict_samples(predict, samples, image_shape, batch_size)


def save_inference_samples(
    folder, predict, samples, data_set, image_shape, batch_size=1, look=lambda *_: None
):
    """Write each picture with its classes painted to folder/NAME.png, in the picture's own size.

    look: function (sample, picture, probabilities, painted) to call with each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = gen_test_output(predict, samples, image_shape, batch_size)
    for sample, picture, probabilities in terminal.progress(
        output, total=len(samples), desc="painting", unit="picture"
    ):
        painted = paint_classes(picture, probabilities, data_set.paint)
        (folder / f"{sample.name}.png").write_bytes(encode_png(painted))
        look(sample, picture, probabilities, painted)
