"""The page is one file that fetches nothing, shows data as text, and is drawn by a real browser."""

import io
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_mm.adapters.routing_map import RoutingMap
from lora_mm.data.example import Example, ImageCell, Turn
from lora_mm.errors import LoraMMError
from lora_mm.evaluation.answers import Answer
from lora_mm.evaluation.compare import compare_answers
from lora_mm.evaluation.html import gallery
from lora_mm.evaluation.html.gallery import NamedAnswers
from lora_mm.evaluation.html.page import Page
from lora_mm.evaluation.score import Score, Tally
from lora_mm.html.render import replace_unprintable
from tests.helpers.page_reader import PageReader

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def picture(seed: int, side: int = 64) -> bytes:
    """Noise, which no encoder makes small."""
    rng, stream = random.Random(seed), io.BytesIO()
    Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).save(stream, format="PNG")
    return stream.getvalue()


def page(count: int = 40, side: int = 64, text: str = "red") -> Page:
    rng = random.Random(0)
    examples = [
        Example(str(n), f"Which {text}?", "red", (picture(n, side),) if n % 2 else (), references=("red", text))
        for n in range(count)
    ]
    sides = [[Answer(item.id, text, ("red", text), rng.choice((1.0, 0.0, None))) for item in examples] for _ in "ab"]
    routing = RoutingMap(text, ("text", "image"), (0, 1), (((0.2, 0.8), (0.9, 0.1)),) * 2, text)
    history = [
        {"step": n, "loss": 3 / (n + 1), "learning_rate": 1e-3, "samples_per_second": 9.0, "memory_bytes": 2**30}
        for n in range(1, 61)
    ]
    return Page(
        title=text,
        summary=text,
        facts={text: text},
        table=text,
        scores={text: Score({text: Tally(3, 9)}), "adapter": Score({text: Tally(7, 9)})},
        examples=examples,
        answers=NamedAnswers("adapter", sides[0]),
        baseline=NamedAnswers(text, sides[1]),
        comparison=compare_answers(("adapter", text), *sides),
        history=history,
        routing=[routing],
        recipe=text,
    )


def test_nothing_is_fetched_and_nothing_runs() -> None:
    document = page().html()
    PageReader(document).check_harmless()
    assert "url(" not in document
    assert "@import" not in document


HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;</bdi>javascript:alert(1)"


def make_hostile_page(text: str) -> Page:
    """A page with ``text`` wherever data, names or settings can be."""
    made = page(4, 8, text)
    unreadable = ImageCell([{"picture": {"bytes": b"none"}}], 0, "picture", text)
    said = (Turn("user", text), Turn("assistant", text))
    examples = [
        replace(item, id=f"{text}{n}", history=said, images=(unreadable,)) for n, item in enumerate(made.examples)
    ]
    return replace(made, examples=examples, answers=replace(made.answers, name=text))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1) | st.just(HOSTILE))
def test_texts_stay_text_and_add_no_element(text: str) -> None:
    plain, hostile = (PageReader(make_hostile_page(word).html()) for word in ("word", f"x{text}x"))
    hostile.check_harmless()
    assert hostile.tags == plain.tags
    assert {name for name, _ in hostile.attributes} == {name for name, _ in plain.attributes}
    assert replace_unprintable(f"x{text}x") in hostile.text


def test_every_part_is_there() -> None:
    read = PageReader(page().html())
    for heading in ("Training", "Routing", "Answers", "Loss", "Learning rate", "Samples per second", "Memory"):
        assert heading in read.text
    text = " ".join(read.text)
    for part in ("exact McNemar", "95 % interval of", "Wrong with both", "Right with both", "6 of "):
        assert part in text
    assert {"img", "table", "svg"} <= set(read.tags)


def test_a_score_alone_has_no_training_and_no_routing() -> None:
    alone = replace(page(), history=(), routing=(), baseline=None, comparison=None, recipe="")
    read = PageReader(alone.html())
    assert "Training" not in read.text
    assert "Routing" not in read.text
    assert {"Wrong", "Right"} <= set(read.text)


def test_the_size_is_bounded_and_the_page_says_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    document = page(60, 300).html()
    assert 8 <= document.count("<img") <= 24
    assert len(document) < 1_700_000
    monkeypatch.setattr(gallery, "_PICTURE_BUDGET", 100_000)
    small = page(60, 300).html()
    assert len(small) < 200_000
    assert "picture left out: the page would grow too large" in small


def test_long_texts_are_truncated() -> None:
    one = Example("1", "p" * 10_000, "red")
    alone = replace(page(), examples=[one], answers=NamedAnswers("adapter", [Answer("1", "a" * 10_000, ("red",), 0.0)]),
                    baseline=None, comparison=None)  # fmt: skip
    assert "p" * 901 not in alone.html()
    assert "a" * 901 not in alone.html()


def test_a_picture_that_cannot_be_opened_leaves_a_note(tmp_path: Path) -> None:
    one = Example("1", "What?", "red", (tmp_path / "<script>gone.png", b"no picture"))
    alone = replace(page(), examples=[one], answers=NamedAnswers("adapter", [Answer("1", "red", ("red",), 1.0)]),
                    baseline=None, comparison=None)  # fmt: skip
    document = alone.html()
    assert "&lt;script&gt;gone.png" in document
    assert "<script" not in document
    assert "not a picture in a known format" in document


def test_earlier_turns_are_shown() -> None:
    one = Example("1", "And now?", "red", history=(Turn("user", "Before?"), Turn("assistant", "Blue.")))
    alone = replace(page(), examples=[one], answers=NamedAnswers("adapter", [Answer("1", "red", ("red",), 1.0)]),
                    baseline=None, comparison=None)  # fmt: skip
    read = PageReader(alone.html())
    assert [text for text in read.text if text in ("Before?", "Blue.", "And now?")] == ["Before?", "Blue.", "And now?"]


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page(4).write(tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LoraMMError, match="cannot be written"):
        page(4).write(tmp_path / "file" / "report.html")


def screenshot(file: Path, folder: Path, *flags: str, width: int = 1100) -> Image.Image:
    """The top of the page as Chromium shows it."""
    picture = folder / f"{width}{''.join(flags)}.png"
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet, *flags]
    command += ["--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1600"]
    done = subprocess.run([*command, f"--screenshot={picture}", file.as_uri()], capture_output=True, timeout=120)
    assert picture.is_file(), done.stderr.decode(errors="replace")
    return Image.open(picture).convert("RGB")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_it_shows_in_a_real_browser_light_dark_and_on_a_phone(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    page(12, 64, "colour").write(file)
    light, phone = screenshot(file, tmp_path), screenshot(file, tmp_path, width=500)
    dark = screenshot(file, tmp_path, "--blink-settings=preferredColorScheme=0")
    for image, paper in ((light, (251, 250, 248)), (phone, (251, 250, 248)), (dark, (20, 23, 26))):
        counts = {colour: count for count, colour in image.getcolors(1 << 24) or []}
        assert image.getpixel((2, 2)) == paper
        assert counts[paper] < 0.9 * image.width * image.height, "more than an empty page"
        assert len(counts) > 1000, "noise of the pictures, edges of letters"
        accent = (15, 118, 110) if paper[0] > 200 else (45, 191, 174)
        assert counts.get(accent, 0) > 500, "bars and curves"
