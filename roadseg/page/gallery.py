"""Save the small pictures and curves of a report.

RUN/report/report.json, RUN/report/testing/*.jpg and RUN/report/validation/*.jpg.
"""

import heapq

import imageio.v3 as imageio
import numpy as np

from roadseg.answering.painting import to_confidence
from roadseg.data.pictures import VOID, resize
from roadseg.files import write_json
from roadseg.scoring import birds_eye, metrics
from roadseg.scoring.calibration import reliability
from roadseg.scoring.metrics import ROAD

WIDTH = 416  # of small pictures, pixels
ABOVE_HEIGHT = 260  # of small pictures from above, pixels
JPEG_QUALITY = 70
TESTING_SHOWN = 60  # pictures at most, so that a report stays small
WORST_SHOWN = 12
MISSED, INVENTED = (230, 30, 30), (40, 90, 255)  # red, blue


def begin(folder, part):
    """Make the folder of a part of a run's gallery, without old JPEGs. Returns it."""
    gallery = folder / "report" / part
    gallery.mkdir(parents=True, exist_ok=True)
    for path in gallery.rglob("*.jpg"):
        path.unlink()
    return gallery


def save_small(path, picture, size=None):
    """Write a small JPEG of a picture: uint8 [H, W, 3] or [H, W]; size: (height, width)."""
    height, width = picture.shape[:2]
    size = size or (max(1, round(WIDTH * height / width)), WIDTH)
    small = resize(np.ascontiguousarray(picture), size)
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, small, plugin="pillow", quality=JPEG_QUALITY)


class TestingGallery:
    """Save evenly spaced testing pictures, each with its probability and mask."""

    def __init__(self, folder, samples):
        self.folder = begin(folder, "testing")
        step = max(1, -(-len(samples) // TESTING_SHOWN))
        self.names = [sample.name for sample in samples[::step]]

    def add(self, sample, picture, probabilities, painted):
        """Save a picture if it is one of the chosen.

        picture, painted: uint8 [H, W, 3]; probabilities: float32 [H, W, C].
        """
        if sample.name not in self.names:
            return
        is_road_set = probabilities.shape[-1] == 2
        certain = probabilities[..., ROAD] if is_road_set else probabilities.max(axis=-1)
        layers = {"picture": picture, "probability": to_confidence(certain), "mask": painted}
        for layer, image in layers.items():
            save_small(self.folder / f"{sample.name}_{layer}.jpg", image)


class WorstPictures:
    """Keep the pictures with the lowest scores, and no others in memory."""

    def __init__(self):
        self.rows = []  # {"name", "score", "views": {name: picture}}, the worst first

    def add(self, sample, picture, label, probabilities, calibration):
        """Add a picture: uint8 [H, W, 3], uint8 [H, W], float32 [H, W, C], matrices or None."""
        answer = probabilities.argmax(axis=-1)
        painted = paint_errors(picture, label, answer, probabilities.shape[-1])
        views = {"errors": painted}
        if calibration is not None:
            places = birds_eye.find_places(calibration, *label.shape)
            views["above"] = birds_eye.look_down(painted, places)
        score = score_picture(label, answer, probabilities.shape[-1])
        row = {"name": sample.name, "score": score, "views": views}
        self.rows = heapq.nsmallest(WORST_SHOWN, [*self.rows, row], key=lambda row: row["score"])

    def save(self, folder):
        """Write the pictures into a run's gallery. Returns [{"name", "score", "views"}]."""
        gallery = begin(folder, "validation")
        for row in self.rows:
            for view, image in row["views"].items():
                size = (ABOVE_HEIGHT, ABOVE_HEIGHT // 2) if view == "above" else None
                save_small(gallery / f"{row['name']}_{view}.jpg", image, size)
        return [row | {"views": list(row["views"])} for row in self.rows]


def score_picture(label, answer, classes):
    """Return one picture's F1 of road for two classes, else its accuracy, in percent."""
    valid = label != VOID
    if classes > 2:
        return 100.0 * float(np.mean((answer == label)[valid])) if valid.any() else 100.0
    truth, called = (label == ROAD)[valid], (answer == ROAD)[valid]
    total = int(truth.sum() + called.sum())
    return 200.0 * int((truth & called).sum()) / total if total else 100.0


def key_of_errors(classes):
    """Return what the colours of `paint_errors` mean: {text: (red, green, blue)}."""
    if len(classes) > 2:
        return {"another class": MISSED}
    road = classes[ROAD]
    return {f"{road} missed": MISSED, f"called {road}, but is not": INVENTED}


def paint_errors(picture, label, answer, classes):
    """Paint missed road red and invented road blue; for more classes, all errors red.

    picture: uint8 [H, W, 3]; label, answer: integers [H, W], class indices; VOID in label is never
    wrong; classes: how many there are. Returns uint8 [H, W, 3], pale where the answer is right.
    """
    painted = picture // 2 + 64
    wrong = (label != VOID) & (answer != label)
    invented = wrong & (answer == ROAD) & (classes == 2)
    for place, colour in ((wrong & ~invented, MISSED), (invented, INVENTED)):
        painted[place] = (picture[place] // 3 + np.array(colour) * 2 // 3).astype(np.uint8)
    return painted


def save(folder, tally, testing, worst):
    """Write report.json: curves of a Tally and names of the saved pictures."""
    content = {"testing": testing.names, "worst": worst.save(folder)}
    if tally.views["perspective"]:
        total = sum(counts for counts, _ in tally.views["perspective"].values())
        precision, recall = metrics.precision_and_recall(total)
        content["precision"], content["recall"] = precision.tolist(), recall.tolist()
        content["reliability"] = reliability(tally.log_odds)
    write_json(folder / "report" / "report.json", content)
