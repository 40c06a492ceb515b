"""AdamW with a rate for each layer, and a cosine that counts whole steps."""

import devices
from engine import keras

# Times the learning rate. Adam's steps are as long for a scaled input as for a large one, so what
# reads a scaled skip has to step further, or pool3 would never be heard.
RATE_FACTORS = {"score_fc7": 3.0, "score_pool4": 30.0, "score_pool3": 600.0}


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW in which each layer has the learning rate times its entry in RATE_FACTORS."""

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
