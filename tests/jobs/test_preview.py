"""A preview is one page that fetches nothing, with the pictures, the turns and what the model learns."""

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from lora_mm.data.check import load_recipe_or_path
from lora_mm.errors import LoraMMError
from lora_mm.jobs.preview import write_page
from lora_mm.jobs.session import make_collator_without_weights
from tests.helpers.own import Broken, sound_row, write_rows
from tests.helpers.page_reader import PageReader


def render_preview(path: Path, output: Path, *overrides: str, count: int = 24) -> str:
    """The page of a data set's rows for training."""
    recipe, splits = load_recipe_or_path(str(path), overrides)
    write_page(output, recipe, splits[0], make_collator_without_weights(recipe), count=count)
    return output.read_text(encoding="utf-8")


def test_a_preview_is_one_page_with_pictures_turns_and_masks(tmp_path: Path) -> None:
    made = Broken.of(tmp_path, ["sound", None, "empty answer", None, "truncated picture"])
    page = render_preview(made.file, tmp_path / "deep" / "page.html")
    assert page.count("<article") == 5
    assert page.count("data:image/jpeg;base64,") == 1
    assert "<mark> the 0th&lt;/s&gt;</mark>" in page
    assert "rows.jsonl:3: answer: empty" in page
    assert "cut off or damaged" in page
    assert page.index("answer: empty") < page.index("the 0th"), "faulty rows come first"
    PageReader(page).check_harmless()


def test_texts_and_file_names_cannot_become_markup(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    name = "\"><script>alert(1)<'.png"
    Image.new("RGB", (8, 6)).save(folder / name)
    rows = [
        {"question": "<script>alert(1)</script> {{ cards }}?", "answer": "<b>{% raw %}</b>", "id": "</b><script>"},
        {"question": "Which?", "answer": "a", "image": name},
        {"question": "javascript:alert(1)", "answer": "a", "image": "<script>gone.png"},
    ]
    page = render_preview(write_rows(folder, rows), tmp_path / "page.html")
    PageReader(page).check_harmless()
    assert "<b>{%" not in page
    assert "{{ cards }}?" in page, "text that looks like a template stays text"
    assert page.count("<article") == 3
    assert page.count('<img src="data:') == 1
    assert "&lt;script&gt;gone.png" in page


def test_control_characters_and_lone_surrogates_are_marked(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": ["\\ud800"], "answer": "a"}\n{"question": "b\\u001b[31m", "answer": "a"}\n')
    page = render_preview(file, tmp_path / "page.html")
    assert page.count('class="fault"') == 2
    assert "\x1b" not in page


def test_rows_on_the_page_are_spread_over_the_data(tmp_path: Path) -> None:
    file = write_rows(tmp_path, [sound_row(tmp_path, number) for number in range(30)])
    page = render_preview(file, tmp_path / "page.html", count=3)
    assert re.findall(r"<header><b>(\w+)</b>", page) == ["r0", "r14", "r29"]
    with pytest.raises(LoraMMError, match="cannot be written"):
        render_preview(file, file / "page.html")


def test_scienceqa_is_shown_by_problem(scienceqa_folder: Path, tmp_path: Path) -> None:
    page = render_preview(scienceqa_folder, tmp_path / "page.html", count=4)
    assert page.count("<article") == 4
    assert "rows of split train" in page


def read_pictures(page: str) -> list[Image.Image]:
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    return [Image.open(io.BytesIO(base64.b64decode(encoded))) for encoded in found]


def test_pictures_are_shown_as_the_model_sees_them(base_folder: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (96, 48), "blue")
    picture.paste("red", (0, 0, 24, 48))
    picture.save(tmp_path / "wide.png")
    file = write_rows(tmp_path, [{"question": "Which?", "answer": "a", "image": "wide.png"}])
    sizes = {}
    for fit in ("processor", "pad", "squash", "crop"):
        settings = (f"base.model={base_folder}", f"data.pictures.fit={fit}")
        [shown] = read_pictures(render_preview(file, tmp_path / "page.html", *settings))
        sizes[fit] = shown.size
        red, _, blue = shown.getpixel((shown.width // 8, shown.height // 2))  # type: ignore[misc]
        assert (red > blue) is (fit in ("pad", "squash")), "the red end is cut off by the processor too"
    assert sizes == {"processor": (48, 48), "pad": (96, 96), "squash": (16, 16), "crop": (48, 48)}
    grid = ("data.slicing={rows: 2, columns: 2, window: 32}", "data.pictures.fit=pad")
    views = read_pictures(render_preview(file, tmp_path / "page.html", f"base.model={base_folder}", *grid))
    assert [view.size for view in views] == [(32, 32)] * 5


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    file = write_rows(tmp_path, [sound_row(tmp_path, number) for number in range(6)])
    render_preview(file, tmp_path / "page.html")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = ["chromium", *flags.split(), "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
    where = [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={tmp_path / 'page.png'}",
        "--window-size=900,700",
    ]
    subprocess.run([*command, *where, (tmp_path / "page.html").as_uri()], capture_output=True, check=True, timeout=120)
    screenshot = Image.open(tmp_path / "page.png").convert("RGB")
    colours = {colour for _, colour in screenshot.getcolors(2**24) or []}
    assert (201, 239, 211) in colours, "what is supervised"
    assert (255, 255, 255) in colours
