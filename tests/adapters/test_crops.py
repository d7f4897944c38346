"""A LoRA for each crop on every family that has one, on batches by the family's real processor.

Pictures are in unlike grids, several in a row or none. SmolVLM's processor asks for num2words; its batches come from
Idefics3's, whose layout it shares.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.attach import find_idle_experts
from lora_mm.adapters.crops import OUTSIDE, OVERVIEW
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.support import find_obstacle
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.data.slicing import Slicer
from lora_mm.models.anatomy import find_role_modules
from lora_mm.models.families import FAMILIES
from lora_mm.models.forward import move_batch
from lora_mm.models.loading import load_base
from tests.helpers.bases import make_family_base
from tests.helpers.families import FAMILY, family_model
from tests.helpers.family_inputs import SIZE
from tests.helpers.fresh import Saved, logits_in_another_process
from tests.helpers.tiny import perturb

CROPPED = [name for name, row in FAMILIES.items() if find_obstacle("crop_lora", row) is None]
every_family = pytest.mark.parametrize("family", CROPPED)
PROCESSOR_OF = {"smolvlm": "idefics3"}
SLICED = Slicer(2, 2, SIZE)
EXPERTS = 4
FIELDS = {"method": "crop_lora", "at": "block", "rank": 2, "experts": EXPERTS, "dropout": 0}
SHAPES = {"square": (16, 16), "wide": (40, 16), "high": (16, 40), "large": (60, 56)}


def covered(family: str, **_: object) -> set[str]:
    """What a test here bears out (see benchmarks/families.py)."""
    return {"crop_lora"}


@pytest.fixture(scope="module")
def collator_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Collator]:
    folder, made = tmp_path_factory.mktemp("bases"), dict[str, Collator]()

    def make(family: str) -> Collator:
        if family not in made:
            base = load_base(str(make_family_base(folder / family, PROCESSOR_OF.get(family, family))))
            slicer = SLICED if FAMILIES[family].crops == "none" else None
            made[family] = Collator(base.processor, max_length=5000, slicer=slicer)
        return made[family]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise, so that no tile is of one colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (name, (width, height)) in enumerate(SHAPES.items()):
        noise = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(number))
        Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in SHAPES}


def asked(pictures: dict[str, Path], *names: str) -> Example:
    return Example(" ".join(names) or "text", f"Which of {len(names)}?", "This one.", tuple(pictures[n] for n in names))


def mixed(pictures: dict[str, Path]) -> list[Example]:
    return [
        asked(pictures, "wide"),
        asked(pictures),
        asked(pictures, "large", "square"),
        asked(pictures, "high"),
        asked(pictures, "square"),
    ]


def adapted(family: str, experts: int = EXPERTS) -> peft.PeftModel:
    torch.manual_seed(100)
    model = lora_mm.attach(family_model(family), [{**FIELDS, "experts": experts}]).eval()
    perturb(model)
    return model


@torch.no_grad()
def tower(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What leaves the tower's last layer that is read, in a forward of the whole model: [rows, tokens, D]."""
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    last = find_role_modules(base, "vision", "attn_norm")[-1].rsplit(".", 1)[0]
    found: list[Tensor] = []
    hook = base.get_submodule(last).register_forward_hook(
        lambda _, args, out: found.append((out if isinstance(out, Tensor) else out[0]).detach())
    )
    model(**inputs(batch), use_cache=False)
    hook.remove()
    (rows,) = found
    return rows


def expected(family: str, collator: Collator, pictures: dict[str, Path], examples: list[Example]) -> list[int]:
    """The crop in each row of the tower, by how many rows the processor makes of each picture when it stands alone."""
    places: list[int] = []
    row = FAMILIES[family]
    for example in examples:
        alone = len(example.images) == 1 or family != "llava_onevision"  # which tiles no picture of several
        for source in example.images:
            if row.crops == "none":
                count = SLICED.views
            elif alone:
                single = collator([Example("one", "Which?", "This.", (source,))])
                count = len(tower(family_model(family), single))
            else:
                count = 1
            crops = [find_place(family, source.stem, number, count - 1) for number in range(count - 1)]
            places += [OVERVIEW, *crops] if row.crops == "overview_first" else [*crops, OVERVIEW]
    return places


SHOWS_THE_GRID = ("llava_next", "llava_onevision", "idefics3", "smolvlm")
"""Families whose prompt or inputs show the grid of a picture's tiles; in the others a crop is its number."""


def find_place(family: str, shape: str, number: int, count: int) -> int:
    """The place of a crop among experts in 2 × 2, by the shape of its picture."""
    width = {"wide": count, "high": 1}.get(shape, 2)
    if family not in SHOWS_THE_GRID:
        return number
    return number // width * 2 + number % width if number % width < 2 else OUTSIDE


def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_starts_as_the_base_bitwise(
    family: str, dtype: torch.dtype, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    base = family_model(family).to(dtype)
    batch = move_batch(base, inputs(collator_of(family)(mixed(pictures))))
    expected = base(**batch).logits
    model = lora_mm.attach(family_model(family).to(dtype), [FIELDS]).eval()
    assert torch.equal(model(**batch).logits, expected)
    perturb(model)
    assert (model(**batch).logits - expected).abs().max() > 0.01
    with model.disable_adapter():
        assert torch.equal(model(**batch).logits, expected)


@every_family
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gradients_reach_every_expert_that_met_a_crop_also_recomputed(
    family: str, reentrant: bool | None, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    if reentrant and not FAMILY[family].reentrant:
        pytest.skip("the base's own tower gets no gradient by that kind")
    collator, examples = collator_of(family), mixed(pictures)
    met = {move_batch for move_batch in expected(family, collator, pictures, examples) if 0 <= move_batch < EXPERTS}
    gradients = []
    for kind in {None, reentrant}:
        model = adapted(family).train()
        if kind is not None:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": kind})
            model.get_base_model().enable_input_require_grads()
        torch.manual_seed(3)
        model(**inputs(collator(examples)), use_cache=False).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[-1], gradients[0], rtol=1e-4, atol=1e-6)
    assert all(grad is not None for grad in gradients[0].values())
    for name, grad in gradients[0].items():
        experts = grad.view(EXPERTS, -1).any(dim=1).nonzero().flatten().tolist()
        assert experts == sorted(met), name


def test_loaded_in_another_process_it_computes_the_same_bitwise(
    collator_of: Callable[[str], Collator], pictures: dict[str, Path], tmp_path: Path
) -> None:
    cases, answers = {}, {}
    for family in CROPPED:
        model, batch = adapted(family), inputs(collator_of(family)(mixed(pictures)[:3]))
        cases[family] = Saved(family, tmp_path / family, batch)
        model.save_pretrained(str(tmp_path / family), save_embedding_layers=False)
        with torch.no_grad():
            answers[family] = model(**batch, use_cache=False).logits
    found = logits_in_another_process(cases, tmp_path)
    assert [family for family in cases if not torch.equal(found[family], answers[family])] == []


def test_experts_that_do_nothing_are_found() -> None:
    model = adapted("llava")
    assert find_idle_experts(model) == {}
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, RoutedLayer):
                layer.routed_up["default"].weight[2:] = 0
    assert find_idle_experts(model) == {"crop_lora": [2, 3]}


@every_family
def test_an_expert_moves_its_own_crop_in_every_picture_and_nothing_else(
    family: str, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    collator, examples = collator_of(family), mixed(pictures)
    model, batch = adapted(family), collator(examples)
    places = torch.tensor(expected(family, collator, pictures, examples))
    assert {move_batch for move_batch in places.tolist() if move_batch < EXPERTS} >= {OVERVIEW, 0}
    before = tower(model, batch)
    assert len(before) == len(places)
    untouched = places.eq(OVERVIEW) | places.ge(EXPERTS)
    base = tower(family_model(family), batch)
    assert torch.equal(before[untouched], base[untouched]), "overviews have no expert"
    assert (before - base)[~untouched].flatten(1).abs().amax(1).gt(1e-3).all()
    for expert in range(EXPERTS):
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, RoutedLayer):
                    layer.routed_up["default"].weight[expert].mul_(2)
        after = tower(model, batch)
        assert torch.equal((after - before).flatten(1).abs().amax(1) > 0, places == expert), expert
        before = after


def test_families_that_tile_are_tried_on_grids_of_several_sizes(
    collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    """Else the test above would hold for a router that gives every picture the same number of crops."""
    found = {
        family: {max(expected(family, collator_of(family), pictures, [one])) + 1 for one in mixed(pictures)[3:]}
        for family in CROPPED
        if FAMILIES[family].crops in ("overview_first", "overview_last")
    }
    assert all(len(counts) > 1 for counts in found.values()), found


@every_family
@torch.no_grad()
def test_rows_of_a_mixed_batch_equal_themselves_alone(
    family: str, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    collator, examples = collator_of(family), mixed(pictures)
    model = adapted(family)
    for build, right in ((collator, True), (collator.prompts, False)):
        together = build(examples)
        logits = model(**inputs(together)).logits
        for row, example in enumerate(examples):
            alone = build([example])
            single = model(**inputs(alone)).logits[0]
            real = slice(0, len(single)) if right else slice(-len(single), None)
            torch.testing.assert_close(logits[row, real], single, rtol=1e-3, atol=1e-3)


@every_family
def test_a_batch_without_pictures_is_the_base_bitwise(
    family: str, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    batch = inputs(collator_of(family)([asked(pictures)]))
    with torch.no_grad():
        assert torch.equal(adapted(family)(**batch).logits, family_model(family)(**batch).logits)


@every_family
def test_cached_generation_equals_whole_forwards(
    family: str, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    model, batch = (
        adapted(family),
        collator_of(family).prompts([asked(pictures, *names) for names in (("wide",), (), ("large",))]),
    )

    def steps(**options: bool) -> Tensor:
        made = model.generate(
            **batch,
            **options,
            max_new_tokens=4,
            do_sample=False,
            suppress_tokens=list(range(10)),
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack(made.logits)

    written = steps()
    torch.testing.assert_close(written, steps(use_cache=False), rtol=1e-3, atol=1e-3)
    with model.disable_adapter():
        changed = (written - steps())[0].abs().amax(dim=-1)
    assert (changed > 5e-3).tolist() == [True, False, True], "the row without a picture is the base's"


@pytest.mark.parametrize("family", [name for name in CROPPED if FAMILIES[name].crops != "none"])
def test_crops_beyond_the_trained_ones_stay_as_the_base_makes_them_and_that_is_said(
    family: str, collator_of: Callable[[str], Collator], pictures: dict[str, Path]
) -> None:
    """One expert, and pictures of more crops: the first crop of each is adapted, the others are not."""
    collator, examples = collator_of(family), [asked(pictures, "large"), asked(pictures, "wide")]
    batch, places = collator(examples), torch.tensor(expected(family, collator, pictures, examples))
    assert places.max() > 0
    model = adapted(family, experts=1)
    with pytest.warns(UserWarning, match="crops outside the 1 that have an expert; they get no adapter"):
        rows = tower(model, batch)
    changed = (rows - tower(family_model(family), batch)).flatten(1).abs().amax(1) > 0
    assert torch.equal(changed, places == 0)
    few = collator([asked(pictures)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model(**inputs(few))
