"""Between the disk and the network: data sets, batches and painted pictures."""

import functools
import itertools

import numpy as np

from roadseg import devices, terminal
from roadseg.answering.painting import choose_classes, encode_png, paint_classes
from roadseg.answering.predictor import predict_samples
from roadseg.data import download, light
from roadseg.data.augmentation import MAP_NUMBERS, draw_maps, warp
from roadseg.data.finding import check_folder, locate, named_row, told_apart
from roadseg.data.pictures import WORKERS, map_ahead, pairs_that_fit, read_image, read_label
from roadseg.drawn import scenes
from roadseg.errors import DownloadError
from roadseg.training.device_data import DeviceData, belongs_on_device

ORDER, PICTURE = 0, 1  # first number of a seed, one each for order and pictures
# Number of scenes of um, umm and uu to draw.
DRAWN_TRAINING = (90, 90, 90)
DRAWN_TESTING = (6, 6, 6)


# --- data sets and weights ------------------------------------------------------------------------


def prepare_data_set(name, data_dir):
    """Find, download or draw a data set.

    name: as in `finding.locate`, or "auto": KITTI Road, or drawn scenes with a message if the
    download fails. Returns (name used, its row, its folder). Raises UserError if a data set is not
    available.
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
    """Find, download or draw data sets. Returns (name, their row, their folder)."""
    rows = [named_row(each) for each in told_apart(name).values()]
    # All are checked before one is drawn or downloaded.
    folders = [check_folder(row, data_dir, bool(row.drawn or row.remote)) for row in rows]
    for row, folder in zip(rows, folders, strict=True):
        if row.drawn:
            scenes.draw_data_set(folder, DRAWN_TRAINING, DRAWN_TESTING)
        elif row.remote and not folder.is_dir():
            archive = data_dir / f"{row.folder}.zip"
            download.download(row.remote, archive)
            download.unpack(archive, row.folder, data_dir)
    return name, *locate(name, data_dir)


def maybe_download_pretrained_vgg(data_dir):
    """Return the path of Keras' full VGG16 file; download (553 MB) and verify it if missing."""
    path = data_dir / "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    download.download(download.VGG16_FULL, path)
    return path


# --- batches --------------------------------------------------------------------------------------


def gen_batch_function(
    samples, data_set, image_shape, seed=0, recipe=None, team=devices.ONE_DEVICE
):
    """Make get_batches_fn, which yields an epoch's pictures and labels: see `Batches`.

    samples: labelled Samples; data_set: their row of DATASETS; image_shape: (height, width);
    recipe: main.Recipe, the augmentation, None: none; team: Team, whose processes share each
    batch.
    """
    return Batches(samples, data_set, image_shape, seed, recipe, team)


class Batches:
    """Batches of pictures and labels, read and augmented in threads.

    Called as get_batches_fn(batch_size, epoch=0, first=0) it yields (pictures uint8 [N, H, W, 3],
    labels uint8 [N, H, W]), one epoch, from batch number `first` on; the last batch may be smaller.
    Each picture is decoded once if memory allows. The random numbers of a picture depend on (seed,
    epoch, index) alone; in Keras' `PyDataset` forked workers share a seed. On a GPU pictures and
    labels stay on it, if there is room, and so does each batch; there the last one is filled up
    with pictures that do not count, since a new size would be compiled again.
    """

    def __init__(self, samples, data_set, image_shape, seed, recipe, team):
        self.samples, self.data_set = samples, data_set
        self.shape = functools.partial(data_set.shape_of, image_shape=image_shape)
        self.seed, self.recipe, self.team = seed, recipe, team
        kept = pairs_that_fit(image_shape, 0.5 / team.neighbours)
        self.read_pair = functools.lru_cache(maxsize=kept)(self.decode_pair)
        self.order = functools.lru_cache(maxsize=2)(self.draw_order)  # asked for at each step
        pixels = image_shape[0] * image_shape[1] * len(samples)
        self.is_on_device = recipe is not None and belongs_on_device(pixels, team)

    def __call__(self, batch_size, epoch=0, first=0):
        if self.is_on_device:
            yield from self.on_device(batch_size, epoch, first)
            return
        batches = [self.team.share(batch) for batch in self.order(epoch, batch_size)[first:]]
        chosen = itertools.chain.from_iterable(batches)
        make = functools.partial(self.make_pair, epoch)
        pairs = map_ahead(make, chosen, ahead=2 * batch_size + WORKERS)
        for batch in batches:
            pictures, labels = zip(*itertools.islice(pairs, len(batch)), strict=True)
            yield np.stack(pictures), np.stack(labels)

    def on_device(self, batch_size, epoch, first):
        """Yield the batches of __call__ as tensors."""
        for batch in self.order(epoch, batch_size)[first:]:
            full = [batch[place] for place in np.arange(batch_size) % len(batch)]
            yield self.device_data.batch(full, *self.draw_changes(epoch, full))

    @functools.cached_property
    def device_data(self):
        """All pictures and labels, copied to the device."""
        groups = {}
        for index, sample in enumerate(self.samples):
            groups.setdefault(self.shape(sample), []).append(index)
        return DeviceData(self.decode_pair, groups.values())

    def names(self, batch_size, epoch, number):
        """Return the names of the pictures in batch `number`, those of all processes."""
        return [self.samples[index].name for index in self.order(epoch, batch_size)[number]]

    def count(self, batch_size):
        """Return the number of batches in an epoch."""
        return len(self.order(0, batch_size))

    def draw_order(self, epoch, batch_size):
        """Return an epoch's batches, shuffled lists of indices; those of one have one shape."""
        random, groups = np.random.default_rng([ORDER, self.seed, epoch]), {}
        for index in random.permutation(len(self.samples)).tolist():
            groups.setdefault(self.shape(self.samples[index]), []).append(index)
        batches = [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]
        return (
            [batches[i] for i in random.permutation(len(batches))] if len(groups) > 1 else batches
        )

    def decode_pair(self, index):
        """Read picture and label: uint8 [H, W, 3], uint8 [H, W]."""
        sample = self.samples[index]
        shape = self.shape(sample)
        return read_image(sample.picture, shape), read_label(sample, self.data_set, shape)

    def make_pair(self, epoch, index):
        """Read picture and label, augmented together."""
        pair = self.read_pair(index)
        if self.recipe is None:
            return pair
        matrices, offsets, lights = self.draw_changes(epoch, [index])
        picture, label = warp(*pair, matrices[0], offsets[0])
        return light.change_light(picture, light.light_of(lights, 0)), label

    def draw_changes(self, epoch, indices):
        """Draw how pictures of one shape are augmented.

        Returns (matrices, offsets) of `draw_maps`, Light of `draw_lights`.
        """
        count = MAP_NUMBERS + light.LIGHT_NUMBERS
        seeds = ([PICTURE, self.seed, epoch, index] for index in indices)
        numbers = np.stack([np.random.default_rng(seed).random(count) for seed in seeds])
        samples = [self.samples[index] for index in indices]
        mirrored = self.recipe.mirrored
        if mirrored is None:
            mirrored = [self.data_set.of(sample).mirrored for sample in samples]
        shape, (of_map, of_light) = self.shape(samples[0]), np.split(numbers, [MAP_NUMBERS], axis=1)
        maps = draw_maps(shape, of_map, self.recipe, mirrored)
        return *maps, light.draw_lights(of_light, self.recipe)


# --- output ---------------------------------------------------------------------------------------


def gen_test_output(predict, samples, image_shape, batch_size=1):
    """Predict pictures in their own size: `answering.predictor.predict_samples`."""
    return predict_samples(predict, samples, image_shape, batch_size)


def save_inference_samples(
    folder, predict, samples, data_set, image_shape, batch_size=1, after_each=lambda *_: None
):
    """Write each picture with painted classes to folder/NAME.png, in its own size.

    after_each: function (sample, picture, probabilities, painted) to call with each.
    """
    output = gen_test_output(predict, samples, image_shape, batch_size)
    for sample, picture, probabilities in terminal.progress(
        output, total=len(samples), desc="painting", unit="picture"
    ):
        classes = choose_classes(np.moveaxis(probabilities, -1, 0))
        painted = paint_classes(picture, classes, data_set.paint)
        path = folder / f"{sample.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(painted))
        after_each(sample, picture, probabilities, painted)
