"""Write one self-contained HTML page of a run, finished or not."""

import base64
import json
from pathlib import Path

from roadseg.data import vgg_weights
from roadseg.data.datasets import FCN_8S, row_of
from roadseg.errors import refuse_missing
from roadseg.files import read_json, write_text
from roadseg.page.charts import SCORES, charts_by_epoch, charts_of_road, score_column
from roadseg.page.gallery import key_of_errors
from roadseg.scoring.metrics import CLASS_SCORES, largest_confusions, row_shares
from roadseg.training import run_folder

# Part of metrics.json -> its table's title and columns.
VIEW_COLUMNS = ("MaxF", "AP", "PRE", "REC", "FPR", "FNR", "IoU", "pictures")
TABLES = {
    "perspective": (
        "In the picture (MaxF: F1 at its best threshold; there precision, recall, false positive "
        "and false negative rate; AP: average precision)",
        VIEW_COLUMNS,
    ),
    "birds_eye": ("Seen from above, as KITTI ranks", VIEW_COLUMNS),
    "per_class": (
        "Each class (answer: the most probable; share: of the ground truth's pixels)",
        CLASS_SCORES,
    ),
}
LAYERS = ("picture", "probability", "mask")
WORST_TEXTS = {"errors": "errors", "above": "errors, from above"}


def write(folder):
    """Write report.html from the files of a run folder. Returns its path.

    It lies in that folder; of the ready network in the current one.
    """
    settings, metrics = (
        read_json(folder / f"{name}.json", missing={}) for name in ("settings", "metrics")
    )
    # A run resumed for more epochs has no scores yet; the pictures are outdated.
    shown = read_json(folder / "report" / "report.json", missing={}) if metrics else {}
    rows = run_folder.read_log(folder)
    with run_folder.of_this_version(folder):
        row = row_of(settings) if settings else None
        shapes = run_folder.shapes_text(settings)
    page = load_template().render(
        name=folder.absolute().name,
        title=row.title if row else "A run",
        stride=32 >> len(run_folder.recipe_of(settings).get("skips", FCN_8S)),
        settings=settings,
        kinds_of_weights=vgg_weights.KINDS,
        shapes=shapes,
        settings_texts={name: json.dumps(value) for name, value in settings.items()},
        epochs=len(rows),
        is_finished=bool(metrics),
        cards=_cards(metrics, rows),
        pictures=metrics.get("pictures"),
        tables=_tables(metrics),
        charts=_charts(metrics, shown, rows),
        **_confusion(metrics),
        score_name="F1" if "precision" in shown else "accuracy",
        worst=_worst(folder, shown),
        gallery=_gallery(folder, shown),
        legend=row.legend if row else {},
        key_of_errors=key_of_errors(row.classes) if row else {},
    )
    path = run_folder.output_folder(folder) / "report.html"
    write_text(path, page)
    return path


def load_template():
    """Load template.html. Raises UserError where Jinja2 is not installed."""
    refuse_missing(("jinja2",), "requirements.txt")
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True)
    return templates.get_template("template.html")


def _cards(metrics, rows):
    """Return the main scores: [(name, value)]."""
    views = (("perspective", "in the picture"), ("birds_eye", "from above"))
    cards = [
        (f"{name}, {title}", metrics[view]["all"][name])
        for view, title in views
        if view in metrics
        for name in ("MaxF", "AP")
    ]
    others = {"mean IoU": "mean_iou", "accuracy": "accuracy"}
    cards += [(name, metrics[key]) for name, key in others.items() if key in metrics]
    if "calibration" in metrics:
        cards.append(("calibration error", metrics["calibration"]["expected_calibration_error"]))
    if not cards and rows:
        score = score_column(rows)
        cards = [(f"best {SCORES[score]} so far", max(float(row[score]) for row in rows))]
    return cards


def _tables(metrics):
    """Return tables: [(caption, names of columns, {name of the row: {column: score}})]."""
    return [
        (f"{title}, percent", columns, metrics[part])
        for part, (title, columns) in TABLES.items()
        if part in metrics
    ]


def _confusion(metrics):
    """Return the confusion matrix as shares of its rows, and the largest confusions, by name."""
    if "confusion" not in metrics:  # scored by an earlier version
        return {}
    counts, names = metrics["confusion"], list(metrics["classes"])
    return {
        "matrix": list(zip(names, row_shares(counts).tolist(), strict=True)),
        "confusions": largest_confusions(counts, names),
    }


def _charts(metrics, shown, rows):
    """Return the charts for which there are data."""
    charts = charts_by_epoch(rows) if rows else []
    if "precision" in shown:
        charts += charts_of_road(shown, metrics["perspective"]["all"])
    return charts


def _jpegs(folder, name, texts):
    """Read the existing JPEGs NAME_KEY.jpg of {key: text}: [(key, text, base64)]."""
    paths = {key: folder / f"{name}_{key}.jpg" for key in texts}
    return [
        (key, f"{name}: {texts[key]}", base64.b64encode(path.read_bytes()).decode())
        for key, path in paths.items()
        if path.is_file()
    ]


def _worst(folder, shown):
    """Return the worst pictures with errors painted: [(name, score, jpegs)]."""
    validation, rows = folder / "report" / "validation", []
    for row in shown.get("worst", ()):
        texts = {view: WORST_TEXTS[view] for view in row["views"]}
        rows.append((row["name"], row["score"], _jpegs(validation, row["name"], texts)))
    return rows


def _gallery(folder, shown):
    """Return testing pictures as picture, probability and mask: [(name, jpegs)]."""
    texts, testing = dict(zip(LAYERS, LAYERS, strict=True)), folder / "report" / "testing"
    return [(name, _jpegs(testing, name, texts)) for name in shown.get("testing", ())]
