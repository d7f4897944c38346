"""Pictures are opened whole, upright, on white, or refused by name."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_mm.data import example
from lora_mm.data.example import FORMATS, MAX_PIXELS, Example, ImageCell, open_image, read_size
from lora_mm.errors import InputError


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int = 23, height: int = 17) -> Image.Image:
    levels = bytes(
        (7 * x * x + 13 * y * x + 31 * c * y) % 256 for y in range(height) for x in range(width) for c in range(3)
    )
    return Image.frombytes("RGB", (width, height), levels)


PNG, JPEG = encoded(noise()), encoded(noise(), "JPEG")


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(PNG)
    cell = ImageCell([{"image": None}, {"image": {"bytes": PNG, "path": None}}], 1, "image", "train-1 in data")
    for source in (file, PNG, cell):
        picture = open_image(source)
        assert (picture.mode, picture.size, picture.tobytes()) == ("RGB", (23, 17), noise().tobytes())


@pytest.mark.parametrize(
    ("picture", "left", "right"),
    [
        (Image.new("RGBA", (2, 1), (255, 0, 0, 255)), (255, 0, 0), (255, 255, 255)),
        (Image.new("RGBA", (2, 1), (0, 0, 0, 127)), (128, 128, 128), (255, 255, 255)),
        (Image.new("LA", (2, 1), (10, 255)), (10, 10, 10), (255, 255, 255)),
    ],
)
def test_transparent_parts_lie_on_white(picture: Image.Image, left: tuple, right: tuple) -> None:
    picture.putpixel((1, 0), (0,) * len(picture.getbands()))
    opened = open_image(encoded(picture))
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == (left, right)


def test_a_transparent_palette_colour_lies_on_white() -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([0, 0, 0, 0, 200, 0])
    picture.putpixel((1, 0), 1)
    opened = open_image(encoded(picture, transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 200, 0)]


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    picture = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 32768, 65535))
    opened = open_image(encoded(picture))
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_pixels_without_a_known_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"without a known range \(mode F\)"):
        open_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_a_photo_taken_sideways_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(noise(), "JPEG", exif=exif)).size == (17, 23)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, 0 bytes"),
        (b"<html>not found</html>", "not a picture in a known format"),
        (PNG[: len(PNG) // 2], "cut off or damaged"),
        (JPEG[: len(JPEG) // 2], "cut off or damaged"),
        (header_only(9_460, 9_460), "too large to open safely"),
        (header_only(60_000, 60_000), "too large to open safely"),
    ],
)
def test_what_cannot_be_shown_is_named_with_its_cause(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_image(file)
    assert str(file) in str(caught.value)
    assert len(caught.value.faults) == 1


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.png: No such file"):
        open_image(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="Is a directory"):
        open_image(tmp_path)


@pytest.mark.parametrize("name", ["real.eps", "eps.jpg"])
def test_a_format_that_pillow_runs_a_program_for_is_not_read(tmp_path: Path, name: str) -> None:
    """Pillow starts Ghostscript on PostScript, whatever the file is called."""
    noise().save(tmp_path / name, "EPS")
    with pytest.raises(InputError, match=r"not a picture in a known format .*; known are BMP, GIF, JPEG, PNG, PPM,"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("format", FORMATS)
def test_every_named_format_is_read(format: str) -> None:
    assert open_image(encoded(noise(), format)).size == (23, 17)


def test_a_photo_of_two_frames_is_read_as_a_jpeg() -> None:
    """Cameras name such files .jpg; Pillow calls them MPO."""
    photo = encoded(noise(), "MPO", save_all=True, append_images=[noise()])
    assert open_image(photo).size == (23, 17)


@pytest.mark.parametrize("size", [(1, 201), (20_000, 99), (1, 2_000_000)])
def test_a_picture_that_is_a_line_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    """A processor makes 72 × 144,000,000 pixels of 1 × 2,000,000, which take 40 KB."""
    line = encoded(Image.new("RGB", size))
    for read in (open_image, read_size):
        with pytest.raises(
            InputError, match=f"{size[0]} × {size[1]} pixels; the sides may differ by 200 times at most"
        ):
            read(line)
    assert open_image(encoded(Image.new("RGB", (1, 200)))).size == (1, 200)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"^{endless}: not a regular file$"):
            open_image(endless)
    (tmp_path / "large.png").write_bytes(PNG)
    monkeypatch.setattr(example, "MAX_BYTES", len(PNG) - 1)
    for large in (tmp_path / "large.png", PNG):
        with pytest.raises(InputError, match="more than 0 MB"):
            open_image(large)


def test_a_cell_is_named_by_its_row() -> None:
    with pytest.raises(InputError, match="val-7 in data: empty"):
        open_image(ImageCell([{"image": {"bytes": b""}}], 0, "image", "val-7 in data"))


def test_the_limit_is_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


@settings(max_examples=60, deadline=None)
@given(whole=st.sampled_from([PNG, JPEG]), part=st.floats(0, 1, exclude_max=True))
def test_a_cut_picture_is_refused_or_whole(whole: bytes, part: float) -> None:
    try:
        picture = open_image(whole[: int(part * len(whole))])
    except InputError:
        return
    assert picture.tobytes() == open_image(whole).tobytes()


@settings(max_examples=60, deadline=None)
@given(whole=st.sampled_from([PNG, JPEG]), place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_damage_is_never_more_than_an_input_error(whole: bytes, place: float, value: int) -> None:
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] = value
    with contextlib.suppress(InputError):
        assert open_image(bytes(damaged)).mode == "RGB"


def test_an_example_is_a_value() -> None:
    assert Example("1", "prompt", "target") == Example(
        id="1", prompt="prompt", target="target", images=(), candidates=(), references=(), answer=None
    )
