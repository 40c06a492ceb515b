"""Validate a network during training."""

import functools

from roadseg.answering.network import Predictor, prediction_batch
from roadseg.answering.predictor import read_sample
from roadseg.data.pictures import pairs_that_fit, picture_shape, read_label
from roadseg.scoring.evaluation import score_pictures

SHARE_OF_MEMORY = 0.1  # for pictures and labels that are kept, decoded


def make_validate(job, network, answering_network, after_each=lambda *_: None):
    """Make a function () -> Tally, which predicts with network, in its precision.

    It takes samples, if not all are to be predicted. Of several processes the first predicts alone,
    with answering_network, which gets the weights. after_each: of `score_pictures`.
    """
    inner = answering_network if job.team.processes > 1 else network
    predict, batch_size = Predictor(inner, team=job.team), prediction_batch(job.team)
    shape = picture_shape(job.split.validation[0].picture)
    keep = functools.lru_cache(maxsize=pairs_that_fit(shape, SHARE_OF_MEMORY))
    read, read_once = keep(read_sample), keep(lambda sample: read_label(sample, job.data_set))

    def validate(samples=job.split.validation):
        if inner is not network:
            inner.set_weights(network.get_weights())
        return score_pictures(
            predict,
            samples,
            job.data_set,
            job.settings["image_shapes"],
            batch_size,
            after_each=after_each,
            read=read,
            read_label=lambda sample, _: read_once(sample),
        )

    return validate
