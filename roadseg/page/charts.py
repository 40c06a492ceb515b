"""The report's charts: what they show, in the data's own units. template.html draws them."""

from dataclasses import dataclass

SCORES = {"val_max_f": "F1", "val_iou": "Mean IoU"}


@dataclass(frozen=True)
class Chart:
    """A line chart. An axis is (its name with the unit, lowest value, highest value)."""

    title: str
    x: tuple
    y: tuple
    curves: dict  # style of template.html -> [(x, y)]; a single point is a dot


def score_column(rows):
    """Return the column of log.csv that chooses the best epoch, a key of SCORES."""
    return "val_max_f" if rows[0]["val_max_f"] else "val_iou"


def charts_by_epoch(rows):
    """Return the charts of log.csv's rows."""
    score = score_column(rows)
    losses, val_losses, scores = (
        [(int(row["epoch"]), float(row[name])) for row in rows]
        for name in ("loss", "val_loss", score)
    )
    epochs = ("epoch", 0, len(rows))
    lowest = min(90, *(value // 10 * 10 for _, value in scores))
    return [
        Chart(
            "Loss by epoch (green: training, boundaries weighted; orange: validation)",
            epochs,
            ("loss, nats per pixel", 0, max(loss for _, loss in losses + val_losses)),
            {"one": losses, "two": val_losses},
        ),
        Chart(
            f"{SCORES[score]} of the validation part by epoch",
            epochs,
            (f"{SCORES[score]}, %", lowest, 100),
            {"one": scores},
        ),
    ]


def charts_of_road(shown, scores):
    """Return the charts of road's probability.

    shown: of report/report.json; scores: of all pictures in perspective, of metrics.json.
    """
    pairs = zip(shown["recall"], shown["precision"], strict=True)
    # Where nothing is called road there is no precision.
    curve = [(100 * recall, 100 * precision) for recall, precision in pairs if recall]
    reliability = [(100 * bin["probability"], 100 * bin["road"]) for bin in shown["reliability"]]
    return [
        Chart(
            "Precision over recall (dot: best F1)",
            ("recall, %", 0, 100),
            ("precision, %", 0, 100),
            {"one": curve, "two": [(scores["REC"], scores["PRE"])]},
        ),
        Chart(
            "Share of road by predicted probability (dashed: perfect)",
            ("predicted probability of road, %", 0, 100),
            ("road among these pixels, %", 0, 100),
            {"even": [(0, 0), (100, 100)], "one": reliability},
        ),
    ]
