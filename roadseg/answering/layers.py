"""What stands before and behind VGG16, inside the network: light, colours, sizes, road's odds."""

import math

from roadseg.answering.predictor import in_front
from roadseg.data.augmentation import VGG_MEAN_RGB
from roadseg.data.light import LUMINANCE_RGB
from roadseg.engine import keras

SHARES = 0.01, 0.99  # of road; beyond them one picture tells little of the log-odds
ROUNDS = 3  # of the share of road; more change nothing (experiments/log.md)
SURE = 0.9  # probability that what is in front of the camera is road
FRONT_RAISE = 1.5  # the most log-odds by which it raises road; 1 and 2.5 are about as good


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


class RaiseRoad(keras.layers.Layer):
    """Makes road likelier in a picture of which the network believes too little.

    Two things tell, and the one that asks for more counts; neither ever makes road less likely.
    The share of road: other cameras see more of it than those of the calibration. The mean
    probability of a picture tells how much, and each round tells it better: M. Saerens, P. Latinne,
    C. Decaestecker: Adjusting the Outputs of a Classifier to New a Priori Probabilities, Neural
    Computation 14, 2002. The front: where all cameras of the calibration have road in front of
    them, others have, too; the network should be as sure of it as `SURE`.
    share, front: of road in the pictures of the calibration and in their `in_front`, 0..1; front
    counts if it is SURE or more. Logits: [N, H, W, 2].
    """

    def __init__(self, share, front=0.0, **options):
        super().__init__(**options)
        self.share, self.has_front = max(share, SHARES[0]), front >= SURE

    def call(self, logits):  # [N, H, W, 2]
        ops = keras.ops
        # Not by slices of channels: OpenVINO moves those before the calibration when it quantizes.
        log_odds = ops.sum(logits * ops.array([-1.0, 1.0], "float32"), axis=-1, keepdims=True)
        raised = 0.0
        for _ in range(ROUNDS):
            raised = log_odds_of_mean(log_odds + raised, self.share) - to_log_odds(self.share)
        if self.has_front:
            front = in_front(log_odds, *ops.shape(log_odds)[1:3])
            missing = to_log_odds(SURE) - log_odds_of_mean(front)
            raised = ops.maximum(raised, ops.minimum(missing, FRONT_RAISE))
        return logits + raised * ops.array([0.0, 1.0], "float32")

    def compute_output_shape(self, logits_shape):
        return logits_shape


def log_odds_of_mean(log_odds, least=SHARES[0]):
    """Return the log-odds of a picture's mean probability, which is kept between least and .99.

    From [N, H, W, 1] to [N, 1, 1, 1].
    """
    seen = keras.ops.mean(keras.ops.sigmoid(log_odds), axis=(1, 2), keepdims=True)
    return to_log_odds(keras.ops.clip(seen, least, SHARES[1]), keras.ops.log)


def to_log_odds(probability, log=math.log):
    return log(probability / (1 - probability))
