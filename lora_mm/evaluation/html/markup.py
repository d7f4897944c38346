"""HTML and SVG as values: text is escaped unless it is markup already. Knows no page."""

import html
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
_EMPTY = frozenset({"img", "meta", "br", "hr", "rect", "line", "circle", "path"})


class Html(str):
    """Markup; any other string is text."""

    __slots__ = ()


Child = str | Iterable["Child"] | None
"""Markup, text, several of them, or nothing."""


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """``<name>`` with attributes and children.

    ``_`` in an attribute's name is written ``-``, one at its end is left out (``class_``). An attribute that is True
    stands alone; None and False are left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY and not children:
        return Html(f"<{name}{written}>" if name in ("img", "meta", "br", "hr") else f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after the other."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(printable(child)))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def printable(text: str) -> str:
    """``text`` with a mark in place of what no page may hold: control characters, halves of characters."""
    return _UNPRINTABLE.sub("\ufffd", text)


def shortened(text: str, length: int) -> str:
    """The first ``length`` characters, and an ellipsis where there are more."""
    return text if len(text) <= length else text[:length].rstrip() + " …"


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(printable(shown))}"'
