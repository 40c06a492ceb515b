"""Adam with a rate for each layer, and a cosine that counts whole steps."""

from roadseg import devices
from roadseg.engine import keras

# Times the learning rate. Adam's steps are as long for a scaled input as for a large one, so what
# reads a scaled skip has to step further, or pool3 would never be heard.
RATE_FACTORS = {"score_fc7": 3.0, "score_pool4": 30.0, "score_pool3": 600.0}


class LayerwiseAdam(keras.optimizers.Adam):
    """Adam in which each layer has the learning rate times its entry in RATE_FACTORS.

    It keeps an average of the weights, over about averaged_share of the steps so far: the later
    a step, the more it counts (O. Shamir, T. Zhang: arXiv:1212.1824).
    """

    def __init__(self, learning_rate, averaged_share, **options):
        super().__init__(learning_rate, use_ema=True, **options)
        self.averaged_share = averaged_share

    @property
    def ema_momentum(self):
        """How much of the average outlives the step that is being taken."""
        calls = keras.ops.cast(self._iterations + 1, "float32")  # parts of steps, if they are cut
        return 1 - 1 / keras.ops.maximum(self.averaged_share * calls, 1.0)

    @ema_momentum.setter
    def ema_momentum(self, constant):
        """Keras sets a constant, which is not used."""

    def build(self, variables):
        layer_names = [variable.path.split("/")[0] for variable in variables]
        self.rate_factors = [RATE_FACTORS.get(name, 1.0) for name in layer_names]
        super().build(variables)

    def _clip_gradients(self, grads):
        return devices.team().clip_together(super()._clip_gradients, grads)

    def update_step(self, gradient, variable, learning_rate):
        factor = self.rate_factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)


class CosineOfSteps(keras.optimizers.schedules.CosineDecay):
    """A cosine that counts whole steps; Keras hands it the number of parts of steps."""

    parts = 1

    def __call__(self, step):
        return super().__call__(step // self.parts)
