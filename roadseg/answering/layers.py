"""What stands before and behind VGG16, inside the network: light, colours, sizes, road's share."""

import math

from roadseg.data.augmentation import VGG_MEAN_RGB
from roadseg.data.light import LUMINANCE_RGB
from roadseg.engine import keras

SHARES = 0.01, 0.99  # of road; beyond them one picture tells little of the log-odds
ROUNDS = 3  # of `RaiseShare`; more change nothing (experiments/log.md)


class Brighten(keras.layers.Layer):
    """Brightens dark pictures by a gamma before they are answered; in training they stay dark.

    luminance: mean of the lower half that they get, 0..1; gamma: its range. Pictures: [N, H, W, 3],
    0..255.
    """

    def __init__(self, luminance, gamma, **options):
        super().__init__(**options)
        self.luminance, self.gamma = luminance, gamma

    def call(self, picture, training=False):  # [N, H, W, 3]
        if training:
            return picture
        ops = keras.ops
        lower = picture[:, ops.shape(picture)[1] // 2 :] / 255
        mean = ops.mean(ops.sum(lower * ops.array(LUMINANCE_RGB, "float32"), axis=-1), axis=(1, 2))
        gamma = math.log(self.luminance) / ops.log(ops.clip(mean, 0.001, 0.99))
        gamma = ops.clip(gamma, *self.gamma)[:, None, None, None]
        return 255 * ops.power(picture / 255, gamma)

    def compute_output_shape(self, picture_shape):
        return picture_shape


class Preprocess(keras.layers.Layer):
    """RGB pictures 0..255 of any size -> what VGG16 was trained on, padded to a multiple of 32.

    Blue, green, red, less the mean colour of ImageNet. The padding, below and to the right, is
    the mean colour, which is the zero that every convolution pads with.
    """

    def call(self, picture):  # [N, H, W, 3]
        height, width = keras.ops.shape(picture)[1:3]
        centred = picture - keras.ops.array(VGG_MEAN_RGB, "float32")
        padding = [[0, 0], [0, -height % 32], [0, -width % 32], [0, 0]]
        return keras.ops.pad(keras.ops.flip(centred, axis=-1), padding)

    def compute_output_shape(self, picture_shape):
        padded = [size and size + -size % 32 for size in picture_shape[1:3]]
        return (picture_shape[0], *padded, picture_shape[3])


class CropLike(keras.layers.Layer):
    """Cuts away below and to the right what is larger than a reference [N, H, W, anything]."""

    def call(self, x, reference):
        height, width = keras.ops.shape(reference)[1:3]
        return x[:, :height, :width]

    def compute_output_shape(self, x_shape, reference_shape):
        return (x_shape[0], *reference_shape[1:3], x_shape[3])


class RaiseShare(keras.layers.Layer):
    """Makes road likelier in a picture that shows more of it than those of the calibration.

    Other cameras see more road than KITTI's, and a network that has learned how little there is
    believes too little. The mean probability of a picture tells how much there is, and each round
    tells it better: M. Saerens, P. Latinne, C. Decaestecker: Adjusting the Outputs of a Classifier
    to New a Priori Probabilities, Neural Computation 14, 2002. Where a picture shows less, nothing
    changes. share: of road in the pictures of the calibration, 0..1. Logits: [N, H, W, 2].
    """

    def __init__(self, share, **options):
        super().__init__(**options)
        self.share = max(share, SHARES[0])

    def call(self, logits):  # [N, H, W, 2]
        ops = keras.ops
        # Not by slices: OpenVINO moves them before the calibration when it quantizes, wrongly.
        log_odds = ops.sum(logits * ops.array([-1.0, 1.0], "float32"), axis=-1, keepdims=True)
        raised = 0.0
        for _ in range(ROUNDS):
            seen = ops.mean(ops.sigmoid(log_odds + raised), axis=(1, 2), keepdims=True)
            seen = ops.clip(seen, self.share, SHARES[1])
            raised = ops.log(seen / (1 - seen)) - math.log(self.share / (1 - self.share))
        return logits + raised * ops.array([0.0, 1.0], "float32")

    def compute_output_shape(self, logits_shape):
        return logits_shape
