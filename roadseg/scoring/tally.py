"""Sum the counts of all pictures, from which the scores derive."""

import numpy as np

from roadseg.answering.painting import to_confidence
from roadseg.answering.predictor import in_front
from roadseg.data.pictures import VOID
from roadseg.scoring import birds_eye, metrics
from roadseg.scoring.calibration import LOG_ODDS_BINS, calibration_scores, log_odds_counts
from roadseg.scoring.metrics import ROAD


class Tally:
    """Counts of all pictures; the size does not depend on their number."""

    def __init__(self, class_names):
        self.class_names = tuple(class_names)
        self.confusion = np.zeros((len(self.class_names),) * 2, np.int64)
        self.pictures = {}  # category -> pictures counted
        # View -> category -> (int64 [2, 256], pictures)
        self.views = {"perspective": {}, "birds_eye": {}}
        self.log_odds = np.zeros((2, LOG_ODDS_BINS), np.int64)
        self.front = np.zeros(2, np.int64)  # pixels in front of the camera: others, road
        self.loss_sum = 0.0

    def add(self, label, probabilities, category, calibration=None):
        """Count one picture.

        label: uint8 [H, W] class indices or VOID; probabilities: float32 [H, W, C] that sum to 1;
        category: such as "um", scored separately too; calibration: of
        `calibration_files.read_calibration`, for the scores from above.
        """
        valid = label != VOID
        self.confusion += metrics.confusion_matrix(
            label, probabilities.argmax(axis=-1), len(self.class_names)
        )
        true_class = np.where(valid, label, 0)[..., None]
        chosen = np.take_along_axis(probabilities, true_class, axis=-1)[..., 0]
        self.loss_sum += float(-np.log(np.maximum(chosen[valid], 1e-7)).sum())
        self.pictures[category] = self.pictures.get(category, 0) + 1
        if len(self.class_names) == 2:
            self.log_odds += log_odds_counts(label, probabilities[..., ROAD])
            is_road = in_front(label[None], *label.shape) == ROAD  # a bonnet, not valid, is none
            self.front += np.bincount(is_road.ravel(), minlength=2)
            confidence = to_confidence(probabilities[..., ROAD])
            self._count("perspective", category, label, confidence)
            if calibration is not None:
                places = birds_eye.find_places(calibration, *label.shape)
                label = birds_eye.look_down(label, places, VOID)
                self._count("birds_eye", category, label, birds_eye.look_down(confidence, places))

    def __iadd__(self, other):
        """Add the counts of other pictures."""
        self.confusion += other.confusion
        self.log_odds += other.log_odds
        self.front += other.front
        self.loss_sum += other.loss_sum
        for category, number in other.pictures.items():
            self.pictures[category] = self.pictures.get(category, 0) + number
        for view, categories in other.views.items():
            for category, counted in categories.items():
                self._add_view(view, category, *counted)
        return self

    def _count(self, view, category, label, confidence):
        self._add_view(view, category, metrics.confidence_counts(label, confidence), 1)

    def _add_view(self, view, category, counts, number):
        """Add the counts of `number` pictures, seen in a view."""
        before, pictures = self.views[view].get(category, (0, 0))
        self.views[view][category] = before + counts, pictures + number

    @property
    def loss(self):
        """Mean cross-entropy over all valid pixels, in nats."""
        return self.loss_sum / max(int(self.confusion.sum()), 1)

    def scores(self):
        """Return the scores in the layout of metrics.json, without what the run says."""
        scores = {"pictures": sum(self.pictures.values())}
        scores |= metrics.class_scores(self.confusion, self.class_names)
        for view, categories in self.views.items():
            if categories:
                total = tuple(sum(parts) for parts in zip(*categories.values(), strict=True))
                scores[view] = {
                    name: metrics.kitti_scores(counts) | {"pictures": number}
                    for name, (counts, number) in [("all", total), *sorted(categories.items())]
                }
        if self.views["perspective"]:
            scores["calibration"] = calibration_scores(self.log_odds)
        return scores
