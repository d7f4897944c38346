"""Whatever a value holds, the page shows it as text."""

import html
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup

import lora_mm
from lora_mm.html.render import render_template, replace_unprintable, truncate_text

TEMPLATE = "evaluation/html/templates/line_chart.html"
VALUES = {"width": 10, "height": 10, "left": 1, "right": 9.126, "rows": [(1.0, "1")], "columns": [], "curves": [],
          "dots": [], "last": "", "description": ""}  # fmt: skip


@given(st.text())
def test_text_is_read_back_as_it_was(text: str) -> None:
    page = render_template(TEMPLATE, **VALUES, title=text)
    inside = page.split("<figcaption>")[1].split("<span")[0]
    assert "<" not in inside
    assert html.unescape(inside) == replace_unprintable(text)


@given(st.text())
def test_an_attribute_stays_inside_its_quotes(text: str) -> None:
    page = render_template(TEMPLATE, **VALUES | {"curves": [(text, "M0 0")]}, title="Loss")
    inside = page.split('<path class="')[1].split('" d="M0 0"/>')[0]
    assert not set('"<>') & set(inside)
    assert html.unescape(inside) == replace_unprintable(text)


def test_markup_is_left_as_it_is_and_floats_have_two_decimals() -> None:
    page = render_template(TEMPLATE, **VALUES, title=Markup("<b>x</b>"))
    assert "<figcaption><b>x</b><span" in page
    assert 'x1="1" x2="9.13" y1="1" y2="1"' in page


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render_template(TEMPLATE, **VALUES)


def test_no_template_turns_escaping_off() -> None:
    templates = list(Path(lora_mm.__file__).parent.rglob("*.html"))
    assert len(templates) >= 6
    for template in templates:
        source = template.read_text(encoding="utf-8")
        for switch in ("|safe", "| safe", "autoescape", "<script", "http://", "https://"):
            assert switch not in source, template


def test_control_characters_and_lone_surrogates_are_marked() -> None:
    assert replace_unprintable("a\0b\x1b[31m\ud800\tc\n") == "a\ufffdb\ufffd[31m\ufffd\tc\n"
    assert replace_unprintable("grüße 你好 🎈") == "grüße 你好 🎈"


def test_long_text_ends_in_an_ellipsis() -> None:
    assert truncate_text("abc", 3) == "abc"
    assert truncate_text("abcd", 3) == "abc …"
