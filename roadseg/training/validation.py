"""Validate a network during training."""

from roadseg.answering.network import Predictor, prediction_batch
from roadseg.scoring.evaluation import score_pictures


def make_validate(job, network, answering_network, after_each=lambda *_: None):
    """Make a function () -> Tally, which copies network's weights to answering_network to predict.

    It takes samples, if not all are to be predicted. after_each: of `score_pictures`.
    """
    predict, batch_size = Predictor(answering_network, team=job.team), prediction_batch(job.team)

    def validate(samples=job.split.validation):
        if answering_network is not network:
            answering_network.set_weights(network.get_weights())
        shape = job.settings["image_shapes"]
        return score_pictures(
            predict, samples, job.data_set, shape, batch_size, after_each=after_each
        )

    return validate
