"""What rounding an exported network costs, in the score of its task."""

import numpy as np

from roadseg import terminal
from roadseg.answering.predictor import predict_samples
from roadseg.answering.runtimes import on_whole_numbers
from roadseg.data.pictures import read_label
from roadseg.engine import BFLOAT16, FLOAT32
from roadseg.errors import WrongAnswerError
from roadseg.scoring.tally import Tally

LARGEST_DIFFERENCE = 0.05  # percent of MaxF or mean IoU, of bfloat16 on its own
LARGEST_LOSS = 0.1  # percent of F1 at probability 0.5, or of mean IoU


def score_of(tally):
    """Return (name, percent) of the one score that a network is judged by."""
    scores = tally.scores()
    if "calibration" in scores:
        return "F1", scores["calibration"]["f1_at_half"]
    return "mean IoU", scores["mean_iou"]


def choose_precision(exact, rounded):
    """Choose the precision of predict.py by the scores of one part in both.

    exact, rounded: Tally in float32, in bfloat16. Returns what settings.json notes:
    {"chosen": bfloat16 where the scores differ by at most LARGEST_DIFFERENCE, "score": its name,
    precision: percent}.
    """
    scores = [tally.scores() for tally in (exact, rounded)]
    name, values = "mean IoU", [score["mean_iou"] for score in scores]
    if "perspective" in scores[0]:
        name, values = "MaxF", [score["perspective"]["all"]["MaxF"] for score in scores]
    is_same = abs(values[0] - values[1]) <= LARGEST_DIFFERENCE
    chosen = BFLOAT16 if is_same else FLOAT32
    return {"chosen": chosen, "score": name, **dict(zip((FLOAT32, BFLOAT16), values, strict=True))}


def compare_scores(predict, answer, samples, data_set, image_shapes, accept_loss=False):
    """Score a network and its export on labelled pictures, in their own size, one by one.

    predict: of `network.Predictor`; answer: of the export, uint8 [N, H, W, 3] -> probabilities;
    image_shapes: of `nearest_shape`. Returns a line. Raises WrongAnswerError where the score falls
    by more than LARGEST_LOSS, unless that is accepted.
    """
    kinds = ((predict, image_shapes), (on_whole_numbers(answer), None))
    outputs = [predict_samples(ask, samples, shape) for ask, shape in kinds]
    tallies, largest, total = [Tally(data_set.classes) for _ in kinds], 0.0, 0.0
    pairs = terminal.progress(
        zip(*outputs, strict=True), total=len(samples), desc="comparing", unit="picture"
    )
    for seen in pairs:
        sample = seen[0][0]
        label = read_label(sample, data_set)
        for tally, (_, _, probabilities) in zip(tallies, seen, strict=True):
            tally.add(label, probabilities, sample.category)
        difference = np.abs(seen[0][2] - seen[1][2])
        largest, total = max(largest, difference.max()), total + difference.mean()
    (name, before), (_, after) = map(score_of, tallies)
    pictures = terminal.counted(len(samples), "validation picture")
    said = (
        f"{name} {after:.2f} instead of {before:.2f} on {pictures}; "
        f"probabilities differ by {largest:.2f} at most, {total / len(samples):.4f} on average"
    )
    if before - after > LARGEST_LOSS and not accept_loss:
        raise WrongAnswerError(
            f"{said}: more than {LARGEST_LOSS} is lost; nothing was written; "
            "--accept-loss writes it all the same"
        )
    return said
