"""Cuts a picture into a grid of crops, for vision towers with one small square input. Knows pictures; knows no model.

Li et al., "Monkey", section 3.1: the picture is resized to the size of the grid and cut row by row; a view of the whole
picture comes last.
"""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Slicer:
    """Cuts every picture into ``rows`` × ``columns`` crops.

    Attributes:
        rows: number of rows of the grid.
        columns: number of columns of the grid.
        window: side of a crop and of the whole view, in pixels.
    """

    rows: int
    columns: int
    window: int

    @property
    def views(self) -> int:
        """Number of views of one picture: its crops and the whole picture."""
        return self.rows * self.columns + 1

    def __call__(self, picture: Image.Image) -> list[Image.Image]:
        """Cut a picture into crops in reading order, then the whole; each is a square of ``window`` pixels."""
        side = self.window
        whole = picture.resize((side * self.columns, side * self.rows), Image.Resampling.BICUBIC)
        corners = [(column * side, row * side) for row in range(self.rows) for column in range(self.columns)]
        crops = [whole.crop((x, y, x + side, y + side)) for x, y in corners]
        return [*crops, picture.resize((side, side), Image.Resampling.BICUBIC)]
