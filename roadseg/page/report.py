"""One self-contained HTML page from one run folder, also of a run that is not finished.

python report.py RUN          writes RUN/report.html: opens from the disk, needs no network
"""

import base64
import html
import json
import string
from pathlib import Path

from roadseg.data.datasets import DATASETS, row_of
from roadseg.files import read_json, write_atomically
from roadseg.page.charts import VIEWS, draw_charts
from roadseg.training import run_folder

TEMPLATE = Path(__file__).with_name("template.html")
COLUMNS = ("MaxF", "AP", "PRE", "REC", "FPR", "FNR", "IoU")
LAYERS = ("picture", "probability", "mask")


def write(folder):
    """Write report.html of a run from what its folder holds. Returns its path."""
    settings, metrics = (_read(folder / f"{name}.json") for name in ("settings", "metrics"))
    # A run that goes on for more epochs has lost its scores, and the pictures that belong to them.
    shown = _read(folder / "report" / "report.json") if metrics else {}
    rows = run_folder.read_log(folder)
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    page = template.substitute(
        title=_text(f"{_title(settings)}: {folder.absolute().name}"),
        subtitle=_text(_subtitle(settings, rows, bool(metrics))),
        banner=_banner(settings),
        cards=_cards(metrics, rows),
        tables=_tables(metrics),
        charts=_section("Curves", "charts", draw_charts(metrics, shown, rows)),
        worst=_section("The worst validation pictures", "gallery", _worst(folder, shown)),
        gallery=_gallery(folder, shown, settings),
        settings=_rows((name, json.dumps(value)) for name, value in settings.items()),
    )
    path = folder / "report.html"
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path


def _read(path):
    return read_json(path) if path.is_file() else {}


def _text(value):
    return html.escape(str(value))


def _title(settings):
    data_set = DATASETS.get(settings.get("dataset"))
    return data_set.title if data_set else "A run"


def _subtitle(settings, rows, finished):
    shape = "x".join(map(str, settings.get("image_shape", [])))
    state = "finished" if finished else "not finished: what there is up to now"
    return (
        f"FCN-8s on VGG16, pictures of {shape} pixels, {len(rows)} of "
        f"{settings.get('epochs', '?')} epochs, {state}. {settings.get('labels', '')}"
    )


def _banner(settings):
    """Warn, in large letters, where scores are not what a reader may take them for."""
    if settings.get("dataset") == "synthetic":
        text = "Drawn scenes: this network has never seen a real street."
    elif not settings.get("labels_are_official", True):
        text = "Agreement with the labels that were there, not with KITTI's own."
    else:
        return ""
    return f'<p class="banner" role="note">{text}</p>'


def _cards(metrics, rows):
    """The few numbers that a reader looks for first."""
    cards = [
        (f"{name}, {title.lower()}", metrics[view]["all"][name])
        for view, title in (("perspective", "in the picture"), ("birds_eye", "from above"))
        if view in metrics
        for name in ("MaxF", "AP")
    ]
    others = {"mean IoU": "mean_iou", "accuracy": "accuracy"}
    cards += [(name, metrics[key]) for name, key in others.items() if key in metrics]
    if "calibration" in metrics:
        cards.append(("calibration error", metrics["calibration"]["expected_calibration_error"]))
    if not cards and rows:
        cards = [("best F1 up to now", max(float(row["val_max_f"] or 0) for row in rows))]
    return "".join(
        f'<div class="card"><span class="soft">{_text(name)}</span><b>{value:.2f}</b></div>'
        for name, value in cards
    )


def _tables(metrics):
    """A table for each view, a row for each category; or a row for each class."""
    tables = []
    for view, title in VIEWS.items():
        if view in metrics:
            head = "".join(f'<th scope="col">{name}</th>' for name in ("", *COLUMNS, "pictures"))
            body = _rows(
                (name, *(f"{scores[column]:.2f}" for column in COLUMNS), scores["pictures"])
                for name, scores in metrics[view].items()
            )
            tables.append(_table(f"{title}, percent", head, body))
    if metrics and not tables:
        head = '<th scope="col">class</th><th scope="col">IoU</th>'
        body = _rows(
            (name, "absent" if iou is None else f"{iou:.2f}")
            for name, iou in metrics["classes"].items()
        )
        tables.append(_table("Intersection over union, percent", head, body))
    return f"<h2>Scores</h2>{''.join(tables)}" if tables else ""


def _table(caption, head, body):
    return (
        f'<div class="scroll"><table><caption>{_text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _rows(rows):
    return "".join(
        f'<tr><th scope="row">{_text(first)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )


def _section(title, style, parts):
    return f'<h2>{title}</h2><div class="{style}">{"".join(parts)}</div>' if parts else ""


# --- charts ---------------------------------------------------------------------------------------


# --- pictures -------------------------------------------------------------------------------------


def _image(path, text, style=""):
    """Put a JPEG into the page. Returns nothing where there is none."""
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="{style}" alt="{_text(text)}" src="data:image/jpeg;base64,{content}">'


def _worst(folder, shown):
    """A figure for each of the worst pictures, errors coloured, from above beside it."""
    what = "F1" if "precision" in shown else "accuracy"
    texts = {"errors": "road missed red, invented blue", "above": "the same from above"}
    figures = []
    for row in shown.get("worst", ()):
        images = "".join(
            _image(
                folder / "report" / "validation" / f"{row['name']}_{view}.jpg",
                f"{row['name']}: {texts[view]}",
            )
            for view in row["views"]
        )
        figures.append(
            f'<figure><div class="pair">{images}</div><figcaption>{_text(row["name"])}: {what} '
            f"{row['score']:.2f}</figcaption></figure>"
        )
    return figures


def _gallery(folder, shown, settings):
    """Testing pictures that fade between picture, probability and mask, and link to the whole."""
    figures = []
    for name in shown.get("testing", ()):
        layers = "".join(
            _image(folder / "report" / "testing" / f"{name}_{layer}.jpg", f"{name}: {layer}", layer)
            for layer in LAYERS
        )
        figures.append(
            f'<figure><a href="pictures/{_text(name)}.png"><div class="layers">{layers}</div>'
            f"<figcaption>{_text(name)}</figcaption></a></figure>"
        )
    if not figures:
        return ""
    fader = (
        '<div class="fader"><label for="fader">picture · probability · mask</label>'
        '<input id="fader" type="range" min="0" max="2" step="0.05" value="2">'
        '<span class="soft">keys <kbd>1</kbd> <kbd>2</kbd> <kbd>3</kbd></span>'
        f"{_legend(settings)}</div>"
    )
    return f'<h2>Testing pictures</h2>{fader}<div class="gallery">{"".join(figures)}</div>'


def _legend(settings):
    data_set = row_of(settings)
    return (
        "<span>"
        + "".join(
            f'<span class="key" style="background:rgb{data_set.paint[index]}"></span>{_text(name)}'
            for index, name in enumerate(data_set.classes)
            if index in data_set.paint
        )
        + "</span>"
    )
