"""A rich console that prints texts from outside as they are. Knows no run."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from lora_mm.printable import discard_output, to_printable


class PlainConsole(Console):
    """A console for texts from outside: without markup, emoji codes and highlighting, and with spelled-out characters.

    If the reader of the output is gone, or the disk under it is full, the output is lost and the program goes on, since
    its work is elsewhere: in files, or in JSON on the other stream.

    Args:
        stderr: whether to print to standard error.
        options: more options of rich's console.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to a text; its characters are spelled out before anything measures it."""
        return super().render_str(to_printable(text), **options)

    def render(self, *arguments: Any, **options: Any) -> Iterator[Segment]:
        """Render to segments; whatever the renderable, no text in it commands the terminal."""
        for segment in super().render(*arguments, **options):
            yield segment if segment.control else Segment(to_printable(segment.text), segment.style)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Go on without output."""
        self.quiet = True
        discard_output(self.file)  # type: ignore[arg-type]


def to_text(text: str, style: str = "") -> Text:
    """Make a cell or line of a text from outside, for any rich console: no markup, characters spelled out.

    Args:
        text: the text.
        style: rich's name of a style.
    """
    return Text(to_printable(text), style=style)
