"""Several adapters on one loaded base: each answers as it does alone, whoever answered before."""

import json
import shutil
from pathlib import Path

import pytest

import lora_mm
from lora_mm.adapters.support import find_obstacle
from lora_mm.data.collate import Collator
from lora_mm.data.example import Turn
from lora_mm.data.fetch import fetch_picture
from lora_mm.errors import InputError
from lora_mm.jobs.inference import AdaptedModel, load_adapted
from lora_mm.models.families import FAMILIES
from lora_mm.models.loading import load_base
from tests.helpers.bases import PROCESSORS, make_family_base

NAMES = ["one", "two", "experts", "crops"]


@pytest.fixture(scope="module")
def picture(scienceqa_folder: Path) -> str:
    return str(scienceqa_folder / "images" / "train" / "4" / "image.png")


@pytest.fixture(scope="module")
def conversations(picture: str) -> list[list[Turn]]:
    """Text alone, a picture, two turns with a picture in the first, and one with a picture each."""
    seen = (fetch_picture(picture),)
    ask, tell = Turn("user", "Question: Which colour is it?"), Turn("assistant", "The answer is A.")
    shown = Turn("user", "Which colour?", seen)
    return [[ask], [shown], [shown, tell, ask], [shown, tell, shown]]


@pytest.fixture(scope="module")
def model(trained: dict[str, Path]) -> AdaptedModel:
    return load_adapted([str(trained[name]) for name in NAMES])


def answers(model: AdaptedModel, conversations: list[list[Turn]]) -> list[str]:
    return [model.reply(turns, max_new_tokens=6) for turns in conversations]


def test_each_answers_as_alone_whoever_answered_before(
    model: AdaptedModel, trained: dict[str, Path], conversations: list[list[Turn]]
) -> None:
    alone: dict[str | None, list[str]] = {
        name: answers(load_adapted([str(trained[name])]), conversations) for name in NAMES
    }
    alone[None] = answers(load_adapted([str(trained["one"])], base_only=True), conversations)
    assert len({tuple(found) for found in alone.values()}) == len(alone), "else a switch would not show"
    for name in [*NAMES, None, *reversed(NAMES), "crops", None, "one", "experts"]:
        model.activate(name)
        assert model.active == name
        assert answers(model, conversations) == alone[name], name


def test_in_one_conversation_each_turn_is_its_own(model: AdaptedModel, conversations: list[list[Turn]]) -> None:
    """Switched between two prompts of one conversation, nothing of the other is left in a cache."""
    turns = conversations[2]
    model.activate("two")
    expected = model.reply(turns, max_new_tokens=6)
    model.activate("crops")
    model.reply(turns[:1], max_new_tokens=6)
    model.activate("two")
    assert model.reply(turns, max_new_tokens=6) == expected


def test_the_pieces_are_the_answer(model: AdaptedModel, conversations: list[list[Turn]]) -> None:
    pieces: list[str] = []
    model.activate("one")
    answer = model.reply(conversations[1], max_new_tokens=12, write=pieces.append)
    assert "".join(pieces).strip() == answer
    assert answer


def test_stopped_it_ends_after_the_token(model: AdaptedModel, conversations: list[list[Turn]]) -> None:
    asked: list[int] = []
    model.activate(None)
    whole = model.reply(conversations[0], max_new_tokens=20, stop=lambda: bool(asked.append(1)))
    assert len(asked) > 2
    before, asked[:] = len(asked), []
    part = model.reply(conversations[0], max_new_tokens=20, stop=lambda: len(asked.append(1) or asked) == 2)  # type: ignore[func-returns-value]
    assert len(asked) == 2 < before
    assert whole.startswith(part.rstrip("�"))


def test_a_conversation_longer_than_the_base_reads_is_refused(model: AdaptedModel) -> None:
    with pytest.raises(InputError, match=r"has [\d,]+ tokens and the answer up to 8; the base's limit is 1,024\."):
        model.reply([Turn("user", "word " * 1200)], max_new_tokens=8)


@pytest.mark.parametrize("family", PROCESSORS)
def test_every_family_talks_about_pictures_over_several_turns(family: str, picture: str, tmp_path: Path) -> None:
    base = load_base(str(make_family_base(tmp_path / family, family)))
    collator = Collator(base.processor, max_length=1000)
    method = "mma" if find_obstacle("mma", FAMILIES[family], "language") is None else "visual_expert"
    model = lora_mm.attach(base.model, [method]).eval()
    model = AdaptedModel(base, model, {method: ("default", collator)}, collator)
    shown = Turn("user", "Which?", (Path(picture),))
    pieces: list[str] = []
    answer = model.reply([shown, Turn("assistant", "Red."), shown], max_new_tokens=3, write=pieces.append)
    assert "".join(pieces).strip() == answer


def test_names_are_those_of_the_folders_and_numbered_where_taken(trained: dict[str, Path], tmp_path: Path) -> None:
    again = shutil.copytree(trained["two"], tmp_path / "one")
    dotted = shutil.copytree(trained["two"], tmp_path / "v1.5")
    model = load_adapted([str(trained["one"]), str(again), str(dotted)])
    assert model.names == ["one", "one-2", "v1.5"]
    assert model.active == "one"
    with pytest.raises(InputError, match=r"Unknown adapter 'onee'. Known: one, one-2, v1\.5\. Did you mean 'one'"):
        model.activate("onee")


def test_only_those_named_are_loaded(trained: dict[str, Path]) -> None:
    folders = [str(trained[name]) for name in NAMES]
    assert load_adapted(folders, only=["two"]).names == ["two"]
    with pytest.raises(InputError, match="Unknown adapter 'tow'"):
        load_adapted(folders, ["base.model=/nowhere"], only=["tow"])  # told before the base is looked for


def test_what_cannot_stand_on_one_base_is_told_before_it_is_loaded(trained: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(trained["one"], tmp_path / "other")
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("dtype: float32\n  quant", "dtype: bfloat16\n  quant"))
    both = [str(trained["one"]), str(other)]
    with pytest.raises(InputError) as error:
        load_adapted(both)
    assert str(error.value) == (
        "base.dtype differs: one has float32, other has bfloat16. Choose one for all with --set base.dtype=VALUE."
    )
    assert load_adapted(both, ["base.dtype=float32"]).names == ["one", "other"]
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LORA"}))
    with pytest.raises(InputError, match="one PEFT type, but one is ROUTED, other is LORA"):
        load_adapted(both, ["base.model=/nowhere"])
