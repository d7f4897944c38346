"""Whole merges: equal answers with and without lora-mm, and nothing left of a merge that fails."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import lora_mm
from lora_mm.artifact.folder import load_adapter, load_adapters, save_adapter
from lora_mm.data.splits import load_split
from lora_mm.errors import InputError, LoraMMError
from lora_mm.evaluation.scoring import score_model
from lora_mm.jobs.merge import MergeResult, merge
from lora_mm.jobs.session import load_recipe_base, make_base_collator
from lora_mm.models import layer_roles
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe
from tests.helpers.tiny import make_recipe, perturb

MMA = [
    {"method": "mma", "at": "block", "rank": 4, "temperature": 1, "dropout": 0.1},
    {"method": "mma", "part": "vision", "rank": 4, "temperature": 1, "dropout": 0.1},
]


def make_adapter(
    folder: Path, recipe_file: Path, adapters: Sequence[dict[str, Any]] = MMA, *settings: str, seed: int = 1
) -> Recipe:
    """An adapter folder as a run writes it, perturbed instead of trained."""
    recipe = load_recipe(str(recipe_file), [f"adapters={json.dumps(list(adapters))}", *settings])
    base = load_recipe_base(recipe)
    torch.manual_seed(seed)
    model = lora_mm.attach(base.model, recipe.adapters, train=recipe.train).eval()
    perturb(model, seed=seed, size=0.1)
    save_adapter(model, folder, base=base, recipe=recipe.to_yaml(), fit=recipe.data.pictures.fit)
    return recipe


@pytest.fixture(scope="module")
def recipe_file(base_folder: Path, scienceqa_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", base_folder, scienceqa_folder)


@pytest.fixture(scope="module")
def adapter(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    return folder, make_adapter(folder, recipe_file)


def merged(adapter: tuple[Path, Recipe], output: Path, **options: Any) -> tuple[MergeResult, list[str]]:
    lines: list[str] = []
    return merge(adapter[0], output, say=lines.append, **options), lines


# --- into the weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_merged_model_gives_the_adapters_answers(adapter: tuple[Path, Recipe], tmp_path: Path, modality: str) -> None:
    made, lines = merged(adapter, tmp_path / "out", modality=modality)
    assert made.drifts[modality].largest < 1e-4
    assert made.drifts[modality].effect > 0.05
    assert any(line.startswith(f"{modality}: max |Δlogit| ") for line in lines)
    assert made.lines[0] in (made.output / "README.md").read_text()
    recipe = adapter[1]
    split = load_split(recipe, "test")
    examples = [item for item in split.examples if bool(item.images) is (modality == "image")]
    base = load_recipe_base(recipe)
    collator = make_base_collator(recipe, base)
    want = score_model(load_adapter(base, adapter[0]), collator, recipe, examples)
    whole = load_recipe(str(adapter[0] / "recipe.yaml"), [f"base.model={made.output}"])
    found = score_model(load_recipe_base(whole).model, collator, recipe, examples)
    assert found.answers == want.answers
    assert found.score == want.score


def test_it_loads_where_lora_mm_is_not_installed(adapter: tuple[Path, Recipe], tmp_path: Path) -> None:
    made, _ = merged(adapter, tmp_path / "out", modality="image")
    stock, _ = merged(adapter, tmp_path / "lora", modality="image", format="lora")
    script = """
        import sys
        sys.modules["lora_mm"] = None
        import json, torch
        from peft import PeftModel
        from PIL import Image
        from transformers import AutoModelForImageTextToText, AutoProcessor

        merged, base, stock = sys.argv[1:]
        processor = AutoProcessor.from_pretrained(merged)
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}],
            add_generation_prompt=True,
        )
        inputs = processor(text=[text], images=[Image.new("RGB", (20, 16), "red")], return_tensors="pt")
        bare = AutoModelForImageTextToText.from_pretrained(base)
        with torch.no_grad():
            plain = bare(**inputs).logits
            models = AutoModelForImageTextToText.from_pretrained(merged), PeftModel.from_pretrained(bare, stock)
            logits = [model.eval()(**inputs).logits for model in models]
        apart = [(logits[0] - logits[1]).abs().max().item(), (logits[0] - plain).abs().max().item()]
        assert not [name for name in sys.modules if name.startswith("lora_mm.")]
        print(json.dumps(apart))
    """
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(script),
        str(made.output),
        adapter[1].base.model,
        str(stock.output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    between, effect = json.loads(done.stdout)
    assert between < 1e-4
    assert effect > 0.1


def test_names_are_text_too_and_recipes_take_overrides(adapter: tuple[Path, Recipe], tmp_path: Path) -> None:
    lines: list[str] = []
    output = str(tmp_path / "out")
    result = merge(str(adapter[0]), output, overrides=["data.path=/no/such"], modality="text", say=lines.append)
    assert result.output == Path(output)
    assert any("random probes for text" in line for line in lines)
    with pytest.raises(InputError, match="No adapter folder 'nowhere'"):
        merge(["nowhere"], tmp_path / "other", modality="text")
    with pytest.raises(InputError, match="No adapter to merge"):
        merge([], tmp_path / "other")


def test_several_adapters_merge_in_the_order_given(
    adapter: tuple[Path, Recipe], recipe_file: Path, tmp_path: Path
) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    make_adapter(second, recipe_file, [{"method": "lora", "at": "all", "rank": 2}], "train=[]", seed=2)
    make_adapter(third, recipe_file, [{**MMA[0], "rank": 2}], "train=[]", seed=3)
    folders = [adapter[0], second, third]
    made = merge(folders, tmp_path / "out", modality="image")
    assert made.drifts["image"].largest < 1e-4
    lora = merge(folders, tmp_path / "lora", modality="text", format="lora")
    assert lora.drifts["text"].largest < 1e-4
    other = merge(folders[::-1], tmp_path / "other", modality="image")
    assert other.drifts["image"].largest < 1e-4
    files = [folder.output / "model.safetensors" for folder in (made, other)]
    assert files[0].read_bytes() != files[1].read_bytes(), "two MMA one after the other do not commute"
    card = (made.output / "README.md").read_text()
    assert "`mine` and `second` and `third`" in card


def test_the_processor_beside_a_merged_model_fits_pictures_or_the_card_says_how(
    adapter: tuple[Path, Recipe], recipe_file: Path, tmp_path: Path
) -> None:
    wide = Image.new("RGB", (32, 8), "red")
    for fit in ("pad", "squash"):
        recipe = make_adapter(tmp_path / fit, recipe_file, MMA, f"data.pictures.fit={fit}")
    fitter = make_base_collator(recipe, load_recipe_base(recipe)).fitter
    assert (fitter.fit, fitter.window) == ("squash", 16)
    lines: list[str] = []
    padded = merge(tmp_path / "pad", tmp_path / "padded", modality="image", say=lines.append).output
    image = AutoProcessor.from_pretrained(padded).image_processor
    own = load_recipe_base(recipe).processor.image_processor
    want = own([replace(fitter, fit="pad")(wide)], return_tensors="pt")["pixel_values"]
    assert torch.equal(image([wide], return_tensors="pt")["pixel_values"], want)
    assert "before the processor" not in (padded / "README.md").read_text()
    assert not any("fit pictures" in line for line in lines)
    squashed = merge(tmp_path / "squash", tmp_path / "squashed", modality="image", say=lines.append).output
    assert "must be resized to a square without regard to the aspect before" in (squashed / "README.md").read_text()
    assert "The processor does not fit pictures by itself: they must be resized" in lines[-1]
    stock = merge(tmp_path / "pad", tmp_path / "stock", modality="image", format="lora").output
    assert "must be padded to a square in the processor's mean colour before" in (stock / "README.md").read_text()
    with pytest.raises(InputError, match=r"data.pictures.fit differs \(.*: pad; .*: processor\)"):
        merge([tmp_path / "pad", adapter[0]], tmp_path / "out", modality="image")


def test_an_untrained_adapter_beside_another_changes_nothing(
    adapter: tuple[Path, Recipe], recipe_file: Path, tmp_path: Path
) -> None:
    idle = tmp_path / "idle"
    recipe = load_recipe(str(recipe_file), ['adapters=[{"method":"lora","rank":2}]', "train=[]"])
    base = load_recipe_base(recipe)
    save_adapter(lora_mm.attach(base.model, recipe.adapters), idle, base=base, recipe=recipe.to_yaml())
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        alone = load_adapter(load_recipe_base(recipe), adapter[0])(input_ids=ids).logits
        together = load_adapters(load_recipe_base(recipe), [adapter[0], idle]).eval()(input_ids=ids).logits
    torch.testing.assert_close(together, alone)


def test_the_drift_in_16_bits_is_reported_and_small(adapter: tuple[Path, Recipe], tmp_path: Path) -> None:
    made, lines = merged(adapter, tmp_path / "out", modality="text", dtype="bfloat16")
    assert 1e-4 < made.drifts["text"].typical < made.drifts["text"].typical_limit
    assert made.dtype == "bfloat16"
    assert "(no limit in this precision)" in lines[-1]


# --- from 4 bits ---------------------------------------------------------------------------------------------------


def test_an_adapter_on_nf4_merges_into_both_formats(recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    make_adapter(folder, recipe_file, MMA, "base.quantization=nf4")
    for modality in ("text", "image"):
        lora = merge(folder, tmp_path / f"lora-{modality}", modality=modality, format="lora")
        assert lora.drifts[modality].largest < 1e-3
        model = merge(folder, tmp_path / f"model-{modality}", modality=modality)
        assert model.drifts[modality].largest < 1e-3, "dequantised and merged in fp32: the same weights"
        assert "max |Δlogit|" in model.lines[0]


# --- refused, with nothing left ------------------------------------------------------------------------------------


def test_a_merge_beyond_its_limits_leaves_nothing(
    adapter: tuple[Path, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a planted fault: v is missing among the readers of the norm."""
    monkeypatch.setattr(layer_roles, "NORM_READERS", {"attn_norm": ("q", "k"), "ffn_norm": ("gate", "up")})
    lines: list[str] = []
    with pytest.raises(LoraMMError, match="differ by more than the limit on text; nothing was written") as error:
        merge(adapter[0], tmp_path / "out", modality="text", say=lines.append)
    assert error.value.exit_code == 1
    assert any("max |Δlogit|" in line for line in lines), "the figures are reported before the error"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    adapter: tuple[Path, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(LoraMMError, match=r"only 0\.0 GB are free"):
        merge(adapter[0], tmp_path / "out", modality="text")
    assert list(tmp_path.iterdir()) == []


def test_mma_without_a_modality_is_refused_with_the_ways_out(adapter: tuple[Path, Recipe], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--modality image or --modality text"):
        merge(adapter[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_a_repeated_adapter_and_another_base_are_refused(
    adapter: tuple[Path, Recipe], recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(InputError, match="exists"):
        merge(adapter[0], tmp_path / "used", modality="text")
    with pytest.raises(InputError, match="given twice"):
        merge([adapter[0]] * 2, tmp_path / "out", modality="text")
    from tests.helpers.tiny import make_base

    other = tmp_path / "other"
    make_adapter(other, recipe_file, MMA, f"base.model={make_base(tmp_path / 'base', seed=1)}")
    with pytest.raises(InputError, match="different bases"):
        merge([adapter[0], other], tmp_path / "out", modality="text")
    assert not (tmp_path / "out").exists()


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_more_memory_than_the_base_and_one_gigabyte(recipe_file: Path, tmp_path: Path) -> None:
    """A base of 416 MB; with files of 50 MB instead of 500, a second copy anywhere would show."""
    script = """
        import json, resource, sys
        from pathlib import Path

        import torch
        from transformers import LlavaForConditionalGeneration

        import lora_mm
        from lora_mm.artifact.folder import save_adapter
        from lora_mm.jobs.session import load_recipe_base
        from lora_mm.jobs.merge import merge
        from lora_mm.merging import shards
        from lora_mm.recipe.load import load_recipe
        from tests.jobs.test_merge import MMA
        from tests.helpers.tiny import perturb, tiny_config

        folder, recipe_file, part = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        if part == "make":
            small = Path(load_recipe(recipe_file).base.model)
            config = tiny_config(attention_bias=True, tie_word_embeddings=False)
            config.text_config.update({"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8})
            torch.manual_seed(0)
            LlavaForConditionalGeneration(config).save_pretrained(folder / "base")
            for file in small.iterdir():
                if not (folder / "base" / file.name).exists():
                    (folder / "base" / file.name).write_bytes(file.read_bytes())
        recipe = load_recipe(recipe_file, [f"base.model={folder / 'base'}", f"adapters={json.dumps(MMA)}", "train=[]"])
        if part == "make":
            base = load_recipe_base(recipe)
            model = lora_mm.attach(base.model, recipe.adapters)
            perturb(model, size=0.01)
            save_adapter(model, folder / "adapter", base=base, recipe=recipe.to_yaml())
            raise SystemExit
        shards.MAX_SHARD_BYTES = 50_000_000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        merge(folder / "adapter", folder / "out", modality="text")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
        print(json.dumps([(peak - before) * 1024, size]))
    """
    for part in ("make", "merge"):
        command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(recipe_file), part]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr
    used, size = json.loads(done.stdout)
    assert size > 400e6
    assert used < size + 200e6, f"{used / 1e6:.0f} MB for a base of {size / 1e6:.0f} MB"
    shutil.rmtree(tmp_path)
