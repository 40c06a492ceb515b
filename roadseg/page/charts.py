"""The report's charts as SVG."""

import html

VIEWS = {"perspective": "In the picture", "birds_eye": "Seen from above, as KITTI ranks"}
WIDTH, HEIGHT = 360, 230  # of a chart, SVG units
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 18, 34  # margins, SVG units


def draw_charts(metrics, shown, rows):
    """Draw all charts for which there are data."""
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
        scores, bins = metrics["perspective"]["all"], shown["reliability"]
        recall, precision = ([100 * x for x in shown[name]] for name in ("recall", "precision"))
        title = "Precision over recall (dot: best F1)"
        charts.append(_lines(title, recall, [precision], dot=(scores["REC"], scores["PRE"])))
        title = "Share of road by predicted probability (dashed: perfect)"
        chances, roads = ([bin[name] for bin in bins] for name in ("probability", "road"))
        charts.append(_lines(title, chances, [roads], limits=((0, 1), (0, 1)), even=True))
    views = [metrics[view] for view in VIEWS if view in metrics]
    if views:
        names = metrics["perspective"]
        groups = [(name, [view[name]["MaxF"] for view in views if name in view]) for name in names]
        charts.append(_bars("MaxF by category (orange: from above)", groups))
    elif metrics:
        present = [(name, [iou]) for name, iou in metrics["classes"].items() if iou is not None]
        charts.append(_bars("IoU by class", present))
    return charts


def _scale(limits, start, end):
    low, high = limits
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _frame(title, x_limits, y_limits, body):
    """Draw axes, labelled at their ends, around a chart."""
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
        f'aria-label="{html.escape(title)}"><title>{html.escape(title)}</title>'
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>{"".join(ticks)}{body}</svg>'
        f'<p class="soft">{html.escape(title)}</p></div>'
    )


def _lines(title, xs, series, dot=None, limits=None, even=False):
    """Draw a line chart; dot: a point to mark; even: draw the diagonal."""
    everything = [value for values in series for value in values]
    x_limits, y_limits = limits or ((min(xs), max(xs)), (min(everything), max(everything)))
    x = _scale(x_limits, LEFT, WIDTH - RIGHT)
    y = _scale(y_limits, HEIGHT - BOTTOM, TOP)
    body = ""
    if even:
        body = f'<path class="even" d="M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}"/>'
    for style, values in zip(("one", "two"), series, strict=False):
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, values, strict=True))
        body += f'<polyline class="{style}" points="{points}"/>'
    if dot:
        body += f'<circle class="dot" cx="{x(dot[0]):.1f}" cy="{y(dot[1]):.1f}" r="5"/>'
    return _frame(title, x_limits, y_limits, body)


def _bars(title, groups):
    """Draw a bar chart; groups: [(name, [one or two percentages])]."""
    low = max(0, min(value for _, values in groups for value in values) // 10 * 10 - 10)
    y = _scale((low, 100), HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(groups)
    body = ""
    for place, (name, values) in enumerate(groups):
        label = html.escape(name)
        width = 0.7 * step / len(values)
        for number, (style, value) in enumerate(zip(("", " two"), values, strict=False)):
            left, top = LEFT + (place + 0.15) * step + number * width, y(value)
            body += (
                f'<rect class="bar{style}" x="{left:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
                f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{label} {value:.2f}</title>'
                f'</rect><text class="value" x="{left + width / 2:.1f}" y="{top - 4:.1f}" '
                f'text-anchor="middle">{value:.1f}</text>'
            )
        middle = LEFT + (place + 0.5) * step
        turn = f' transform="rotate(-40 {middle:.1f} {HEIGHT - 20})"' if len(groups) > 6 else ""
        body += (
            f'<text x="{middle:.1f}" y="{HEIGHT - 16}" text-anchor="middle"{turn}>{label}</text>'
        )
    return _frame(title, (), (low, 100), body)
