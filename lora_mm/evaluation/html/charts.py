"""Lines, bars with intervals and heat maps as SVG, coloured by the page's style. Knows numbers; knows no run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora_mm.evaluation.html.markup import Html, tag

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 210, 46, 12, 12, 30
_POINTS = 300
"""Of a line; more cannot be told apart on its 340 pixels."""
_DOTS = 25
"""Points up to which each is marked."""
_SMOOTH = 12
"""A smoothed line follows this share of all points behind it: one in so many."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve over steps."""

    title: str
    points: Sequence[tuple[float, float]]
    unit: str = ""
    smooth: bool = False
    """Whether a running mean is drawn over it."""
    from_zero: bool = True


def render_line_chart(line: Line) -> Html:
    """``line`` as a figure; nothing where it has no points."""
    points = _thinned([(x, y) for x, y in line.points if math.isfinite(y)])
    if not points:
        return Html()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = (min(0.0, min(ys)) if line.from_zero else min(ys)), max(ys)
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * max(size, 1e-30):  # as good as level
        half = size / 2 if size > 1e-30 else 0.5
        low, high = low - half, high + half
    rows = _ticks(low, high, 4)
    low, high = min(low, rows[0]), max(high, rows[-1])
    x_ticks = [x for x in _ticks(min(xs), max(xs), 5) if min(xs) <= x <= max(xs)] if len(points) > 1 else xs
    span = (max(xs) - min(xs)) or 1

    def at(x: float, y: float) -> tuple[float, float]:
        across = 0.5 if len(points) == 1 else (x - min(xs)) / span
        up = (y - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for y in rows:
        _, py = at(xs[0], y)
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=py, y2=py))
        parts.append(tag("text", format_number(y), class_="tick", x=_LEFT - 6, y=py + 4, text_anchor="end"))
    for x in x_ticks:
        px, _ = at(x, low)
        parts.append(tag("text", format_number(x), class_="tick", x=px, y=_HEIGHT - 10, text_anchor="middle"))
    drawn = [at(x, y) for x, y in points]
    smooth = line.smooth and len(points) > _DOTS
    if len(points) > 1:
        parts.append(tag("path", class_="curve faint" if smooth else "curve", d=_path(drawn)))
    if smooth:
        means = [at(x, y) for x, y in zip(xs, _running_means(ys), strict=True)]
        parts.append(tag("path", class_="curve", d=_path(means)))
    if len(points) <= _DOTS:
        for (x, y), (px, py) in zip(points, drawn, strict=True):
            told = tag("title", f"step {format_number(x)}: {format_number(y)}{line.unit}")
            parts.append(tag("circle", told, class_="dot", cx=px, cy=py, r=3))
    ends = [f"{format_number(ys[at])} at step {format_number(xs[at])}" for at in (0, -1)]
    about = f"{line.title}: {', '.join(ends)}"
    svg = tag("svg", tag("title", about), *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")
    last = tag("span", f"{format_number(ys[-1])}{line.unit}", class_="last")
    return tag("figure", tag("figcaption", line.title, last), svg, class_="chart")


def render_interval_bars(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], *, main: str, scale: float = 100
) -> Html:
    """Named figures as bars on a scale from 0, each with its interval.

    Args:
        rows: name, figure, and its interval where it has one.
        main: name of the one that matters.
        scale: the figure that a whole bar stands for.
    """
    width, left, right, step, bar = 400, 0, 58, 46, 14
    parts = []
    for n, (name, value, interval) in enumerate(rows):
        y, full = n * step + 20, width - left - right
        at = [left + full * min(1, max(0, x / scale)) for x in (value, *(interval or ()))]
        style = "bar main" if name == main else "bar"
        parts.append(tag("text", name, class_="label", x=left, y=y - 6))
        parts.append(tag("rect", class_="track", x=left, y=y, width=full, height=bar, rx=3))
        parts.append(tag("rect", class_=style, x=left, y=y, width=max(1.0, at[0] - left), height=bar, rx=3))
        if interval:
            low, high, middle = at[1], at[2], y + bar / 2
            ends = "".join(f"M{x:.1f} {middle - 4}v8" for x in (low, high))
            whisker = f"M{low:.1f} {middle}H{high:.1f}{ends}"
            parts.append(tag("path", class_="whisker", d=whisker))
        parts.append(tag("text", f"{value:.2f}", class_="value", x=width, y=y + 12, text_anchor="end"))
    return tag("svg", *parts, viewBox=f"0 0 {width} {len(rows) * step}", class_="bars", role="img")


def render_heat_map(
    columns: Sequence[tuple[str, int]], labels: Sequence[str], cells: Sequence[Sequence[float]]
) -> Html:
    """Shares from 0 to 1 as a grid.

    Args:
        columns: groups of columns, each with a name and how many it has.
        labels: of the rows.
        cells: ``[rows][columns]``.
    """
    cell, row, left, top, gap = 40, 19, 30, 34, 8
    starts, x = [], left
    for _, count in columns:
        starts.append(x)
        x += count * cell + gap
    width, height = x - gap, top + row * len(labels)
    parts = []
    for (name, count), start in zip(columns, starts, strict=True):
        parts.append(tag("text", name, class_="label", x=start + count * cell / 2, y=12, text_anchor="middle"))
        parts += [tag("text", str(n + 1), class_="tick", x=start + (n + 0.5) * cell, y=28, text_anchor="middle")
                  for n in range(count)]  # fmt: skip
    places = [start + n * cell for (_, count), start in zip(columns, starts, strict=True) for n in range(count)]
    for n, (label, values) in enumerate(zip(labels, cells, strict=True)):
        y = top + n * row
        parts.append(tag("text", label, class_="tick", x=left - 6, y=y + 13, text_anchor="end"))
        for x, value in zip(places, values, strict=True):
            shade = f"{0.04 + 0.96 * value:.3f}"
            parts.append(tag("rect", class_="heat", x=x, y=y, width=cell - 1, height=row - 1, fill_opacity=shade))
            over = "cell over" if value > 0.55 else "cell"
            parts.append(tag("text", f"{value:.2f}", class_=over, x=x + cell / 2, y=y + 13, text_anchor="middle"))
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", style=f"width:{width}px", class_="map", role="img")


def format_number(value: float) -> str:
    """A number as a tick shows it: three digits that count, thousands as k and M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers around ``low`` to ``high``, some ``count`` of them."""
    if high == low:
        return [low]
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbours where there are more than :data:`_POINTS`."""
    size = math.ceil(len(points) / _POINTS)
    if size <= 1:
        return points
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _running_means(values: Sequence[float]) -> list[float]:
    """Exponential running means, as if they had begun in balance."""
    keep = 1 - min(1, _SMOOTH / len(values))
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
