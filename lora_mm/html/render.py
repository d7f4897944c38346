"""Renders the package's Jinja templates. Every value is escaped unless it is markup. Knows no page."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")


def render_template(template: str, **values: object) -> Markup:
    """Render a template to markup.

    A page that extends ``html/templates/document.html`` loads and runs nothing, whatever its values contain.

    Args:
        template: path of the template inside the package, such as ``jobs/preview.html``.
        values: names that the template reads. Strings are escaped; ``Markup`` is not.

    Returns:
        The markup, with U+FFFD in place of every character that is not allowed in a page.
    """
    return Markup(replace_unprintable(_ENVIRONMENT.get_template(template).render(**values)))


def replace_unprintable(text: str) -> str:
    """Replace control characters, noncharacters and lone surrogates with U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def truncate_text(text: str, length: int) -> str:
    """Truncate a text that is too long.

    Args:
        text: the text.
        length: number of characters to keep.

    Returns:
        ``text``, or its first ``length`` characters and an ellipsis.
    """
    return text if len(text) <= length else text[:length].rstrip() + " …"


def _format_value(value: Any) -> Any:
    """Write floats (coordinates in SVG) with at most two decimals; return other values unchanged."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),  # the package, so that each subpackage has its own templates
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_format_value,
    trim_blocks=True,
    lstrip_blocks=True,
)
