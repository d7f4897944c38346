"""Whatever a text holds, the page holds it as text."""

import html

from hypothesis import given
from hypothesis import strategies as st

from lora_mm.evaluation.html.markup import Html, join, printable, shortened, tag


@given(st.text())
def test_text_is_read_back_as_it_was(text: str) -> None:
    made = tag("p", text)
    assert made.startswith("<p>")
    inside = made.removeprefix("<p>").removesuffix("</p>")
    assert "<" not in inside
    assert html.unescape(inside) == printable(text)


@given(st.text())
def test_an_attribute_stays_inside_its_quotes(text: str) -> None:
    inside = tag("p", title=text).removeprefix('<p title="').removesuffix('"></p>')
    assert not set('"<>') & set(inside)


def test_markup_is_left_as_it_is() -> None:
    assert tag("p", tag("b", "x & y"), " < ", Html("<i>z</i>")) == "<p><b>x &amp; y</b> &lt; <i>z</i></p>"
    assert join(["a", ["<", None]], Html("<br>")) == "a&lt;<br>"


def test_attributes_are_named_and_left_out_as_told() -> None:
    made = tag("rect", class_="bar", fill_opacity=0.5, x=3, hidden=True, rx=None, ry=False)
    assert made == '<rect class="bar" fill-opacity="0.5" x="3" hidden/>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_control_characters_and_halves_are_marked() -> None:
    assert printable("a\0b\x1b[31m\ud800\tc\n") == "a\ufffdb\ufffd[31m\ufffd\tc\n"
    assert printable("grüße 你好 🎈") == "grüße 你好 🎈"


def test_long_text_ends_in_an_ellipsis() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc …"
