"""Draws line charts, bars with intervals and heat maps as SVG, coloured by the page's style. Knows only numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lora_mm.html.render import render_template

_TEMPLATES = "evaluation/html/templates"

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 210, 46, 12, 12, 30
"""Size of a line chart and the margins of its plot, in pixels."""
_MAX_POINTS = 300
"""Maximum number of points of a curve; more cannot be distinguished on 340 pixels."""
_MAX_DOTS = 25
"""Up to this many points, each point is marked."""
_SMOOTHING = 12
"""A running mean covers about one in this many of all points."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve over training steps.

    Attributes:
        title: title of the chart.
        points: (step, value) of each point.
        unit: appended to values, such as `` GiB``.
        smooth: whether to draw a running mean over the curve.
        from_zero: whether the vertical axis begins at 0 or below.
    """

    title: str
    points: Sequence[Point]
    unit: str = ""
    smooth: bool = False
    from_zero: bool = True


@dataclass(frozen=True, slots=True)
class _Axes:
    """Maps data to pixels of a line chart.

    Attributes:
        left, right: first and last step.
        low, high: smallest and largest value of the vertical axis.
        rows: values at which a grid line is drawn.
    """

    left: float
    right: float
    low: float
    high: float
    rows: Sequence[float]

    @classmethod
    def around(cls, points: Sequence[Point], *, from_zero: bool) -> "_Axes":
        """Choose axes that hold all points; the vertical axis ends at round numbers."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        low, high = (min(0.0, min(ys)) if from_zero else min(ys)), max(ys)
        size = max(abs(low), abs(high))
        if high - low <= 1e-9 * max(size, 1e-30):  # nearly constant
            half = size / 2 if size > 1e-30 else 0.5
            low, high = low - half, high + half
        ticks = _place_ticks(low, high, 4)
        return cls(min(xs), max(xs), min(low, ticks[0]), max(high, ticks[-1]), ticks)

    @property
    def columns(self) -> list[float]:
        """Steps with a label."""
        return [x for x in _place_ticks(self.left, self.right, 5) if self.left <= x <= self.right]

    def locate(self, x: float, y: float) -> Point:
        """Convert a step and a value to pixels; a single step is in the middle."""
        across = (x - self.left) / (self.right - self.left) if self.right > self.left else 0.5
        up = (y - self.low) / (self.high - self.low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def render_line_chart(line: Line) -> Markup:
    """Draw a line as an HTML figure; the markup is empty if the line has no finite points."""
    points = _thin_out([(x, y) for x, y in line.points if math.isfinite(y)])
    if not points:
        return Markup()
    axes = _Axes.around(points, from_zero=line.from_zero)
    located = [axes.locate(x, y) for x, y in points]
    curves = []
    if len(points) > 1:
        curves.append(("curve", _format_path(located)))
    if line.smooth and len(points) > _MAX_DOTS:
        curves[0] = ("curve faint", curves[0][1])
        means = _compute_running_means([y for _, y in points])
        curves.append(
            ("curve", _format_path([axes.locate(x, mean) for (x, _), mean in zip(points, means, strict=True)]))
        )
    dots = []
    if len(points) <= _MAX_DOTS:
        labels = [f"step {format_number(x)}: {format_number(y)}{line.unit}" for x, y in points]
        dots = [(x, y, label) for (x, y), label in zip(located, labels, strict=True)]
    ends = [f"{format_number(y)} at step {format_number(x)}" for x, y in (points[0], points[-1])]
    return render_template(
        f"{_TEMPLATES}/line_chart.html",
        title=line.title,
        last=f"{format_number(points[-1][1])}{line.unit}",
        description=f"{line.title}: {', '.join(ends)}",
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        rows=[(axes.locate(axes.left, y)[1], format_number(y)) for y in axes.rows],
        columns=[(axes.locate(x, axes.low)[0], format_number(x)) for x in axes.columns],
        curves=curves,
        dots=dots,
    )


def render_interval_bars(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], *, highlighted: str, scale: float = 100
) -> Markup:
    """Draw figures as bars from 0, each with its interval.

    Args:
        rows: name, figure and interval (low, high) of each bar; the interval may be None.
        highlighted: name of the bar in the accent colour.
        scale: figure of a full bar.

    Returns:
        An ``<svg>`` element.
    """
    width, margin, distance, thickness = 400, 58, 46, 14
    full = width - margin
    bars = []
    for number, (label, value, interval) in enumerate(rows):
        y = number * distance + 20
        length, *ends = [full * min(1.0, max(0.0, x / scale)) for x in (value, *(interval or ()))]
        whisker = ""
        if interval:
            middle = y + thickness / 2
            whisker = f"M{ends[0]:.1f} {middle}H{ends[1]:.1f}" + "".join(f"M{x:.1f} {middle - 4}v8" for x in ends)
        bars.append(
            {
                "label": label,
                "value": f"{value:.2f}",
                "y": y,
                "length": max(1.0, length),
                "style": "bar main" if label == highlighted else "bar",
                "whisker": whisker,
            }
        )
    return render_template(
        f"{_TEMPLATES}/interval_bars.html",
        bars=bars,
        width=width,
        height=len(rows) * distance,
        full=full,
        thickness=thickness,
    )


def render_heat_map(
    groups: Sequence[tuple[str, int]], labels: Sequence[str], cells: Sequence[Sequence[float]]
) -> Markup:
    """Draw shares as a grid of shaded cells.

    Args:
        groups: name and number of columns of each group of columns.
        labels: one for each row.
        cells: ``[rows][columns]``, the columns of all groups side by side; each from 0 to 1.

    Returns:
        An ``<svg>`` element.
    """
    column, row, left, top, gap = 40, 19, 30, 34, 8
    heads, lefts = [], []
    x = left
    for name, count in groups:
        starts = [x + n * column for n in range(count)]
        middles = [start + column / 2 for start in starts]
        heads.append({"name": name, "middle": x + count * column / 2, "columns": middles})
        lefts += starts
        x += count * column + gap
    rows = [
        {
            "label": label,
            "y": top + number * row,
            "cells": [
                {
                    "x": start,
                    "middle": start + column / 2,
                    "opacity": f"{0.04 + 0.96 * value:.3f}",
                    "style": "cell over" if value > 0.55 else "cell",
                    "value": f"{value:.2f}",
                }
                for start, value in zip(lefts, values, strict=True)
            ],
        }
        for number, (label, values) in enumerate(zip(labels, cells, strict=True))
    ]
    return render_template(
        f"{_TEMPLATES}/heat_map.html",
        groups=heads,
        rows=rows,
        width=x - gap,
        height=top + row * len(labels),
        left=left,
        cell_width=column - 1,
        cell_height=row - 1,
    )


def format_number(value: float) -> str:
    """Write a number as a tick label: three significant digits, with k, M and G for thousands, millions, billions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _place_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers that enclose ``low`` to ``high``."""
    if high == low:
        return [low]
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _thin_out(points: list[Point]) -> list[Point]:
    """Average neighbours if there are more than :data:`_MAX_POINTS`."""
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _compute_running_means(values: Sequence[float]) -> list[float]:
    """Compute exponential running means, each divided by its weights so far, so that the first are not biased to 0."""
    keep = 1 - min(1, _SMOOTHING / len(values))
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _format_path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
