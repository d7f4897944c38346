"""Encodes rendered conversations with their pictures, and counts placeholders. Knows no labels and no length limit."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from lora_mm.data.encode import EncoderRow, Side, encode_rows, get_image_mark
from lora_mm.data.example import PICTURE, ImageSource, Turn, open_image
from lora_mm.data.render import Renderer, describe_error, get_words, outline_turns, to_messages
from lora_mm.data.slicing import Slicer
from lora_mm.errors import InputError, name_place
from lora_mm.models.fitting import AS_IS, Fitter

_PROBES = ((336, 336), (1000, 250), (90, 700), (640, 320), (320, 480), (32, 32))
"""Picture sizes to test whether the number of placeholders depends on the size."""


class Encoder(Renderer):
    """Encodes rendered conversations, whose pictures it fits, slices and gives to the processor.

    Args:
        processor: the base's ``AutoProcessor``, with a chat template.
        slicer: cuts every picture into crops, whose placeholders follow each other directly. None keeps pictures whole.
        fitter: fits every picture before the slicer and the processor; by default, leaves it as it is.
    """

    def __init__(self, processor: Any, *, slicer: Slicer | None = None, fitter: Fitter = AS_IS) -> None:
        super().__init__(processor)
        self.slicer = slicer
        self.fitter = fitter
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._expansions: dict[tuple[tuple[Turn, ...], tuple[tuple[int, int], ...]], int] = {}
        probe = (Turn("user", f"{PICTURE}a"),)
        measured = {self._measure_expansion(probe, (size,)) for size in _PROBES} if slicer is None else set()
        self._size_matters = len(measured) > 1

    # --- rows --------------------------------------------------------------------------------------------------------

    def _make_row(self, prompt: str, answer: str, suffix: int, turns: Sequence[Turn], name: str) -> EncoderRow:
        shown = [(self.fitter(_open(name, source)), turn) for turn in turns for source in turn.images]
        if self.slicer:
            shown = [(view, turn) for picture, turn in shown for view in self.slicer(picture)]
        questions = [get_words(turn) for _, turn in shown]
        return EncoderRow(self._slice_prompt(prompt), answer, suffix, [picture for picture, _ in shown], questions)

    def show(self, source: ImageSource) -> list[Image.Image]:
        """Return what the model sees of a picture, before the processor resizes it: one view, or several if sliced.

        Raises:
            InputError: the picture cannot be opened.
        """
        fitted = self.fitter.show(open_image(source))
        return self.slicer(fitted) if self.slicer else [fitted]

    def _encode(self, names: Sequence[str], rows: Sequence[EncoderRow], side: Side) -> dict[str, Tensor]:
        """Make the model inputs of a batch; InputError names the example that the processor refuses."""
        try:
            return encode_rows(self.processor, rows, side)
        except Exception as error:  # each of the processors raises errors of its own
            for name, row in zip(names, rows, strict=True) if len(rows) > 1 else ():
                self._encode([name], [row], side)
            if isinstance(error, InputError):
                raise InputError(*(f"{', '.join(names)}: {fault}" for fault in error.faults)) from error
            raise InputError(
                f"{', '.join(names)}: the base's processor refuses this: {describe_error(error)}"
            ) from error

    # --- placeholders ------------------------------------------------------------------------------------------------

    def _count_expansion(self, name: str, turns: Sequence[Turn]) -> int:
        """Count the tokens that a row gains when placeholders replace the marks of these turns' pictures."""
        sources = [source for turn in turns for source in turn.images]
        if not sources:
            return 0
        if self.slicer:
            sizes = [(self.slicer.window, self.slicer.window)] * (self.slicer.views * len(sources))
        elif self._size_matters:
            sizes = [self.fitter.measure(_open(name, source).size) for source in sources]
        else:
            sizes = [_PROBES[0]] * len(sources)
        with name_place(name):
            return self._measure_expansion(outline_turns(turns), tuple(sizes))

    def _count_later_expansion(self, name: str, turns: Sequence[Turn], first: int) -> int:
        """Count the tokens of :meth:`_count_expansion` that come from the turn of index ``first`` on."""
        if not any(turn.images for turn in turns[first:]):  # opens no picture
            return 0
        return self._count_expansion(name, turns) - self._count_expansion(name, turns[:first])

    def _measure_expansion(self, outline: tuple[Turn, ...], sizes: tuple[tuple[int, int], ...]) -> int:
        """Encode blank pictures of these sizes (width, height) in the outline of a conversation, and count the gain.

        The outline matters too: some processors write a token between two neighbouring pictures only once.
        """
        key = outline, sizes
        if key not in self._expansions:
            shown = ", ".join(f"{width} × {height} pixels" for width, height in sizes)
            prompt = self.apply_template(shown, to_messages(outline))
            row = self._slice_prompt(prompt), "", 0, [Image.new("RGB", size) for size in sizes], ["a"] * len(sizes)
            expanded = self._encode([shown], [EncoderRow(*row)], "right")
            self._expansions[key] = expanded["input_ids"].shape[1] - len(self.tokenize(prompt))
        return self._expansions[key]

    def _slice_prompt(self, prompt: str) -> str:
        """Repeat each picture's mark for its views, where pictures are sliced."""
        mark = get_image_mark(self.processor)
        return prompt.replace(mark, mark * self.slicer.views) if self.slicer else prompt


def _open(name: str, source: ImageSource) -> Image.Image:
    with name_place(name):
        return open_image(source)
