"""Impossible adapters and unknown model types: what the command line says, with exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import lora_mm
from lora_mm.models.anatomy import get_anatomy
from tests.cli.conftest import Cli
from tests.helpers.bases import make_family_base
from tests.helpers.family_inputs import IMAGE, SIZE, TEXT, VISION
from tests.helpers.tiny import TEMPLATE, tiny_tokenizer

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bases")
    return lambda family: folder / family if (folder / family).exists() else make_family_base(folder / family, family)


@pytest.fixture
def finetune(cli: Cli, scienceqa_folder: Path, tmp_path: Path) -> Call:
    """``lora-mm finetune`` of a base with adapters, two steps."""

    def call(base: Path, adapters: list[Any], **more: Any) -> tuple[int, str, str]:
        chosen = {
            "base.model": str(base),
            "base.dtype": "float32",
            "data.path": str(scienceqa_folder),
            "adapters": adapters,
            "data.format": "QCM-A",
            "data.max_length": 1000,
            "training.max_steps": 2,
            **more,
        }
        flags = [part for key, value in chosen.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        return cli("finetune", "--recipe", "scienceqa-pocket", "--output", tmp_path / "run", *flags)

    return call


@pytest.mark.parametrize(
    ("family", "adapters", "said"),
    [
        (
            "qwen2_vl",
            ["crop_lora"],
            ["crop_lora cannot be used on 'qwen2_vl' models", "in one row", "lora-mm models show"],
        ),
        ("mllama", ["visual_expert"], ["visual_expert cannot be used on 'mllama'", "cross-attention", "mma, lora"]),
        (
            "fuyu",
            [{"method": "mma", "part": "vision"}],
            ["mma on vision cannot be used on 'fuyu' models: it has no vision tower. Place it on language."],
        ),
        (
            "llava",
            ["crop_lora"],
            ["adapters.0: 'llava' bases do not slice pictures", "--set data.slicing.rows=2"],
        ),
        ("llava", [{"method": "mma", "layers": []}], ["matches no module of this model", "leave `layers` out"]),
        ("llava", [{"method": "mma", "layers": [5]}], ["layers [5] do not exist", "layers 0 to 1"]),
        ("llava", ["mma", {"method": "mma", "at": "block"}], ["Two adapters on one module", "give each its own part"]),
        ("llava", [{"method": "mma", "rank": 0}], ["adapters.0.rank: ", "greater than or equal to 1"]),
        ("llava", [{"method": "mma", "experts": 0}], ["adapters.0.experts: ", "greater than or equal to 1"]),
        ("llava", [{"method": "moe_lora", "top_k": 9}], ["adapters.0: top_k 9 is more than the number of experts, 4"]),
        ("llava", [{"method": "mma", "rank": 10, "groups": 5}], ["groups 5 must divide the layer's width, 48"]),
    ],
)
def test_an_impossible_adapter_is_refused_with_the_way_out(
    finetune: Call, bases: Callable[[str], Path], tmp_path: Path, family: str, adapters: list[Any], said: list[str]
) -> None:
    code, _, err = finetune(bases(family), adapters)
    assert code == 2, err
    for words in said:
        assert words in err
    assert len(err.strip().splitlines()) <= 2
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_experts_without_a_crop_are_reported(finetune: Call, bases: Callable[[str], Path]) -> None:
    code, out, err = finetune(bases("idefics2"), [{"method": "crop_lora", "experts": 6}])
    assert code == 0, err
    assert "crop_lora: no training data reached experts 2, 5 (counted from 0)" in out


def test_crops_without_an_expert_are_reported(finetune: Call, bases: Callable[[str], Path]) -> None:
    with pytest.warns(UserWarning, match="A picture has crops outside the 3 that have an expert; they get no adapter"):
        code, out, err = finetune(bases("idefics2"), [{"method": "crop_lora", "experts": 3}])
    assert code == 0, err
    assert "no training data reached" not in out


def make_unlisted(folder: Path) -> Path:
    """A base of a type without a row: DeepSeek-VL."""
    torch.manual_seed(0)
    tower = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
    config = hf.DeepseekVLConfig(
        vision_config=tower, text_config=hf.LlamaConfig(**TEXT).to_dict(), image_token_id=IMAGE
    )
    hf.DeepseekVLForConditionalGeneration(config).save_pretrained(folder)
    pictures = hf.DeepseekVLImageProcessorPil(size={"height": SIZE, "width": SIZE}, min_size=4)
    processor = hf.DeepseekVLProcessor(pictures, tiny_tokenizer(), num_image_tokens=4)
    processor.chat_template = TEMPLATE
    processor.save_pretrained(folder)
    return folder


def test_a_type_without_a_row_trains_merges_and_says_what_it_does_not_know(
    finetune: Call, cli: Cli, tmp_path: Path
) -> None:
    base = make_unlisted(tmp_path / "base")
    crops = [{"method": "crop_lora", "experts": 2}]
    code, _, err = finetune(base, crops, **{"data.slicing": {"rows": 1, "columns": 2}})
    assert code == 2
    assert "it is not known whether 'deepseek_vl' bases slice pictures" in err
    assert "--set base.anatomy.crops=none" in err
    code, out, err = finetune(base, ["lora", {"method": "lora", "part": "vision"}], train=["connector"])
    assert code == 0, err
    assert "2 steps" in out
    code, out, err = cli("merge", tmp_path / "run", "--output", tmp_path / "merged")
    assert code == 0, err


def test_a_described_base_is_loaded_as_the_adapters_card_says(finetune: Call, cli: Cli, tmp_path: Path) -> None:
    base = make_unlisted(tmp_path / "base")
    crops = {"method": "crop_lora", "experts": 2}
    code, _, err = finetune(
        base, [crops], **{"base.anatomy": {"crops": "none"}, "data.slicing": {"rows": 1, "columns": 2}}
    )
    assert code == 0, err
    said = json.loads((tmp_path / "run" / "adapter_config.json").read_text())["anatomy"]
    assert said == {"crops": "none"}
    model = lora_mm.load(str(base), tmp_path / "run")
    assert get_anatomy(model.get_base_model()).family.crops == "none"
    code, out, err = cli("evaluate", tmp_path / "run", "--json")
    assert code == 0, err
    saved = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert json.loads(out)["scores"]["adapter"] == saved["scores"]["adapter"]


def test_an_anatomy_that_does_not_fit_names_the_missing_module(finetune: Call, tmp_path: Path) -> None:
    base = make_unlisted(tmp_path / "base")
    code, _, err = finetune(base, ["mma"], **{"base.anatomy": {"language": {"layers": ["model.text_model.layers"]}}})
    assert code == 2, err
    assert "this deepseek_vl model has no 'model.text_model.layers', its language layers" in err
