"""Charts stay inside their frame, whatever the numbers."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_mm.evaluation.html.charts import Line, format_number, render_heat_map, render_interval_bars, render_line_chart

numbers = st.floats(-1e12, 1e12)


def places(svg: ElementTree.Element) -> list[tuple[float, float]]:
    """Points of every curve and dot."""
    found = [(float(dot.get("cx", "nan")), float(dot.get("cy", "nan"))) for dot in svg.iter("circle")]
    for path in svg.iter("path"):
        found += [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d", ""))]
    return found


@given(st.lists(numbers, min_size=1, max_size=700), st.booleans(), st.booleans())
def test_a_line_stays_inside_its_frame(values: list[float], smooth: bool, from_zero: bool) -> None:
    line = Line("loss", list(enumerate(values, start=1)), smooth=smooth, from_zero=from_zero)
    figure = ElementTree.fromstring(render_line_chart(line))
    found = places(figure)
    assert found
    assert all(45 <= x <= 389 and 11 <= y <= 181 for x, y in found)
    assert len(found) <= 602, "thinned"


def test_numbers_that_are_none_are_left_out() -> None:
    assert render_line_chart(Line("loss", [])) == ""
    assert render_line_chart(Line("loss", [(1, math.nan), (2, math.inf)])) == ""
    figure = ElementTree.fromstring(render_line_chart(Line("loss", [(1, 2.0), (2, math.nan), (3, 4.0)])))
    assert len(list(figure.iter("circle"))) == 2


def test_a_chart_says_in_words_where_it_began_and_ended() -> None:
    figure = ElementTree.fromstring(render_line_chart(Line("Loss", [(1, 2.5), (60, 0.25)])))
    assert next(figure.iter("title")).text == "Loss: 2.5 at step 1, 0.25 at step 60"


def test_bars_are_as_long_as_their_figures() -> None:
    svg = ElementTree.fromstring(
        render_interval_bars([("base", 25.0, None), ("adapter", 50.0, (40.0, 60.0))], highlighted="base")
    )
    bars = [float(bar.get("width", 0)) for bar in svg.iter("rect") if bar.get("class") != "track"]
    assert [bar.get("class") for bar in svg.iter("rect")][1::2] == ["bar main", "bar"]
    assert bars[1] == pytest.approx(2 * bars[0], abs=0.1)
    assert [text.text for text in svg.iter("text")] == ["base", "25.00", "adapter", "50.00"]
    assert len(list(svg.iter("path"))) == 1, "one has an interval"


def test_a_heat_map_has_a_cell_for_every_weight() -> None:
    cells = [[0.25, 0.75, 1.0, 0.0], [0.5, 0.5, 0.1, 0.9]]
    svg = ElementTree.fromstring(render_heat_map([("text", 2), ("image", 2)], ["0", "7"], cells))
    rects = list(svg.iter("rect"))
    shades = [float(rect.get("fill-opacity", 0)) for rect in rects]
    assert shades == [pytest.approx(0.04 + 0.96 * value, abs=0.001) for row in cells for value in row]
    assert len({(rect.get("x"), rect.get("y")) for rect in rects}) == 8
    shown = [text.text for text in svg.iter("text")]
    for label in ("text", "image", "0", "7", "0.75"):
        assert label in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.000012, "1.2e-5"), (0.5, "0.5"), (12.345, "12.3"), (1234, "1,234"), (12345, "12.3k"),
     (2.5e6, "2.5M"), (3e9, "3G"), (-0.25, "-0.25")],
)  # fmt: skip
def test_ticks_are_short(value: float, text: str) -> None:
    assert format_number(value) == text
