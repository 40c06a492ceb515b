"""One self-contained HTML page from one run folder, also of a run that is not finished.

python report.py RUN          writes RUN/report.html: opens from the disk, needs no network
"""

import argparse
import base64
import html
import json
import string
import sys
from pathlib import Path

from roadseg.data.datasets import DATASETS, row_of
from roadseg.errors import UserError
from roadseg.files import read_json, write_atomically
from roadseg.training import run_folder

HERE = Path(__file__).parent
WIDTH, HEIGHT = 360, 230  # of a chart, SVG units
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 18, 34  # of its margins
COLUMNS = ("MaxF", "AP", "PRE", "REC", "FPR", "FNR", "IoU")
VIEWS = {"perspective": "In the picture", "birds_eye": "Seen from above, as KITTI ranks"}
LAYERS = ("picture", "probability", "mask")


def write(folder):
    """Write report.html of a run from what its folder holds. Returns its path."""
    settings, metrics = (_read(folder / f"{name}.json") for name in ("settings", "metrics"))
    # A run that goes on for more epochs has lost its scores, and the pictures that belong to them.
    shown = _read(folder / "report" / "report.json") if metrics else {}
    rows = run_folder.read_log(folder)
    template = string.Template((HERE / "report_template.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=_text(f"{_title(settings)}: {folder.absolute().name}"),
        subtitle=_text(_subtitle(settings, rows, bool(metrics))),
        banner=_banner(settings),
        cards=_cards(metrics, rows),
        tables=_tables(metrics),
        charts=_section("Curves", "charts", _charts(metrics, shown, rows)),
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
    warnings = {
        "drawn": "Drawn scenes: this network has never seen a real street.",
        "agreement": "Agreement with the labels that were there, not with KITTI's own.",
    }
    labels = settings.get("labels", "")
    kind = (
        "drawn"
        if settings.get("dataset") == "synthetic"
        else ("agreement" if "agreement with these" in labels else None)
    )
    return f'<p class="banner" role="note">{_text(warnings[kind])}</p>' if kind else ""


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


def _charts(metrics, shown, rows):
    """All charts for which there is something to show."""
    charts = []
    if rows:
        epochs = [int(row["epoch"]) for row in rows]
        losses = [[float(row[name]) for row in rows] for name in ("loss", "val_loss")]
        title = "Loss by epoch (line: training, boundaries weighted; orange: validation)"
        charts.append(_lines(title, epochs, losses))
        score = "val_max_f" if rows[0]["val_max_f"] else "val_iou"
        names = {"val_max_f": "F1", "val_iou": "Mean IoU"}
        values = [float(row[score]) for row in rows]
        charts.append(_lines(f"{names[score]} of the validation part by epoch", epochs, [values]))
    if "precision" in shown:
        scores = metrics["perspective"]["all"]
        charts.append(
            _lines(
                "Precision over recall (dot: best F1)",
                [100 * x for x in shown["recall"]],
                [[100 * y for y in shown["precision"]]],
                dot=(scores["REC"], scores["PRE"]),
            )
        )
        bins = shown["reliability"]
        charts.append(
            _lines(
                "Share of road by predicted probability (dashed: perfect)",
                [bin["probability"] for bin in bins],
                [[bin["road"] for bin in bins]],
                limits=((0, 1), (0, 1)),
                even=True,
            )
        )
    bars = {view: metrics[view] for view in VIEWS if view in metrics}
    if bars:
        charts.append(
            _bars(
                "MaxF by category (orange: from above)",
                [
                    (name, [scores[name]["MaxF"] for scores in bars.values() if name in scores])
                    for name in metrics["perspective"]
                ],
            )
        )
    elif metrics:
        present = [(name, [iou]) for name, iou in metrics["classes"].items() if iou is not None]
        charts.append(_bars("IoU by class", present))
    return charts


def _scale(limits, start, end):
    low, high = limits
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _frame(title, x_limits, y_limits, body):
    """Put axes with their ends' values around a chart."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    (low, high), middle = y_limits, (TOP + bottom) / 2
    places = [(LEFT - 6, place + 4, "end") for place in (bottom, middle, TOP)]
    places += [(LEFT, bottom + 18, "start"), (right, bottom + 18, "end")]
    values = (low, (low + high) / 2, high, *x_limits)
    ticks = [f'<path class="grid" d="M{LEFT} {middle}H{right}"/>'] + [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{value:.3g}</text>'
        for (x, y, anchor), value in zip(places, values, strict=False)
    ]
    return (
        f'<div class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{_text(title)}"><title>{_text(title)}</title>'
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>{"".join(ticks)}{body}</svg>'
        f'<p class="soft">{_text(title)}</p></div>'
    )


def _lines(title, xs, series, dot=None, limits=None, even=False):
    """A chart of lines over one axis. dot: a point to mark; even: with the diagonal."""
    everything = [value for values in series for value in values]
    x_limits, y_limits = limits or ((min(xs), max(xs)), (min(everything), max(everything)))
    x = _scale(x_limits, LEFT, WIDTH - RIGHT)
    y = _scale(y_limits, HEIGHT - BOTTOM, TOP)
    body = f'<path class="even" d="M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}"/>' * even
    for style, values in zip(("one", "two"), series, strict=False):
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, values, strict=True))
        body += f'<polyline class="{style}" points="{points}"/>'
    if dot:
        body += f'<circle class="dot" cx="{x(dot[0]):.1f}" cy="{y(dot[1]):.1f}" r="5"/>'
    return _frame(title, x_limits, y_limits, body)


def _bars(title, groups):
    """A chart of bars. groups: [(name, [one or two percentages])]."""
    low = max(0, min(value for _, values in groups for value in values) // 10 * 10 - 10)
    y = _scale((low, 100), HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    body = ""
    for place, (name, values) in enumerate(groups):
        width = 0.7 * step / len(values)
        for number, (style, value) in enumerate(zip(("", " two"), values, strict=False)):
            left, top = LEFT + (place + 0.15) * step + number * width, y(value)
            body += (
                f'<rect class="bar{style}" x="{left:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
                f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{_text(name)} {value:.2f}</title>'
                f'</rect><text class="value" x="{left + width / 2:.1f}" y="{top - 4:.1f}" '
                f'text-anchor="middle">{value:.1f}</text>'
            )
        middle = LEFT + (place + 0.5) * step
        turn = f' transform="rotate(-40 {middle:.1f} {HEIGHT - 20})"' if len(groups) > 6 else ""
        body += (
            f'<text x="{middle:.1f}" y="{HEIGHT - 16}" text-anchor="middle"{turn}>{_text(name)}'
            "</text>"
        )
    return _frame(title, (), (low, 100), body)


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


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes RUN/report.html.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its name in runs/")
    try:
        print(write(run_folder.find_run(parser.parse_args(arguments).run)))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
