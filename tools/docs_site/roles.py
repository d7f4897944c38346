"""A griffe extension: docstrings become Markdown before mkdocstrings reads them. Knows no page."""

from typing import Any

import griffe

from tools.docs_site.pages import ROLE


class PlainRoles(griffe.Extension):
    """Replaces Sphinx roles (:class:`Name`), which Markdown does not have, by plain code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object.

        Args:
            obj: a module, class, function or attribute.
        """
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
