"""Routed adapters on every family: start, gradients, rows, generation, saving, switching and checkpointing."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.methods import METHODS
from lora_mm.adapters.support import find_obstacle
from lora_mm.errors import InputError
from lora_mm.models.anatomy import find_layers, find_role_modules, get_anatomy
from lora_mm.models.families import FAMILIES
from lora_mm.models.forward import move_batch
from tests.helpers.families import FAMILY, family_batch, family_model
from tests.helpers.family_inputs import IMAGE, IMAGE_START, VIDEO, VIDEO_START, VOCABULARY, Batch
from tests.helpers.fresh import Saved, logits_in_another_process
from tests.helpers.tiny import perturb

PLACEMENTS: dict[str, dict[str, Any]] = {
    "mma language attn": {"method": "mma", "rank": 4},
    "mma language block": {"method": "mma", "at": "block", "rank": 4},
    "mma vision attn": {"method": "mma", "part": "vision", "rank": 4},
    "lora language all": {"method": "lora", "at": "all", "rank": 4},
    "lora vision all": {"method": "lora", "part": "vision", "at": "all", "rank": 4},
    "visual expert": {"method": "visual_expert", "at": "all", "rank": 4, "dropout": 0},
    "experts by token": {"method": "moe_lora", "rank": 4},
    "crops": {"method": "crop_lora", "at": "block", "rank": 4, "experts": 2, "dropout": 0},
}
COMBINED: dict[str, list[dict[str, Any]]] = {
    "by sample": [
        PLACEMENTS[name] for name in ("mma language block", "lora language all", "mma vision attn", "lora vision all")
    ],
    "by token": [
        PLACEMENTS["experts by token"],
        {**PLACEMENTS["visual expert"], "at": "attn"},
        PLACEMENTS["crops"],
    ],
}
"""Placements in one adapter: all methods, in two adapters, for what need not be tried on each alone."""
TILED = ("llava_next", "llava_onevision")
"""Families whose tiny picture is in several tiles; crop LoRA on the others is tested in test_crops."""


def stands(family: str, fields: dict[str, Any]) -> bool:
    """Whether the method can be used there, and the tiny batch has something for it to learn."""
    part = fields.get("part", METHODS[fields["method"]].parts[0])
    applies_there = find_obstacle(fields["method"], FAMILIES[family], part) is None
    return applies_there and (fields["method"] != "crop_lora" or family in TILED)


CASES = [(family, name) for family in FAMILIES for name, fields in PLACEMENTS.items() if stands(family, fields)]
every_case = pytest.mark.parametrize(("family", "name"), CASES)
every_family = pytest.mark.parametrize("family", list(FAMILIES))
every_family_with_a_norm_to_adapt = pytest.mark.parametrize(
    "family", [name for name in FAMILIES if stands(name, PLACEMENTS["mma language attn"])]
)
every_combination = pytest.mark.parametrize("combination", list(COMBINED))


def combined(family: str, combination: str) -> list[dict[str, Any]]:
    """The placements of a combination that can stand on ``family``."""
    return [fields for fields in COMBINED[combination] if stands(family, fields)]


def covered(family: str, name: str = "", combination: str = "", **_: object) -> set[str]:
    """What a test here bears out (see benchmarks/families.py)."""
    placements = [PLACEMENTS[name]] if name else combined(family, combination) if combination else []
    return {fields["method"] for fields in placements}


def rows_alone(family: str) -> list[Batch]:
    """The two rows of ``family_batch(family)``, each in a batch of its own."""
    if FAMILY[family].mixes:
        return [family_batch(family, (1,)), family_batch(family, (0,))]
    # The second with the zeros that stand for its picture.
    return [family_batch(family, (1,)), {key: value[1:] for key, value in family_batch(family).items()}]


def adapted(family: str, placements: Sequence[dict[str, Any]], *, noise: bool = True) -> peft.PeftModel:
    """Routed layers throughout, plain LoRA too: what PEFT's own layers do is PEFT's to test."""
    torch.manual_seed(100)
    model = peft.get_peft_model(family_model(family), RoutedConfig(placements=list(placements))).eval()
    if noise:
        perturb(model)
    return model


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch, use_cache=False).logits


@functools.cache
def base_logits(family: str, counts: tuple[int, ...] = (1, 0)) -> Tensor:
    return logits(family_model(family), family_batch(family, counts))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@every_case
def test_starts_as_the_base_bitwise_and_gradients_reach_every_tensor(family: str, name: str) -> None:
    model, batch = adapted(family, [PLACEMENTS[name]], noise=False), family_batch(family)
    part = next(iter(model.peft_config.values())).placements[0].part
    routed = [path for path, module in model.named_modules() if isinstance(module, RoutedLayer)]
    assert {path.removeprefix("base_model.model.") for path in routed} == {
        path
        for role in next(iter(model.peft_config.values())).placements[0].roles
        if role in get_anatomy(model.get_base_model()).stack(part).known_roles
        for path in find_role_modules(family_model(family), part, role)
    }
    assert torch.equal(logits(model, batch), base_logits(family))
    perturb(model)
    out = model(**batch, use_cache=False).logits
    assert (out - base_logits(family)).abs().max() > 0.01
    (out.float() * torch.linspace(-1, 1, out.shape[-1])).square().mean().backward()
    gradients = {path: parameter.grad for path, parameter in trained(model).items()}
    assert [path for path, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert [path for path, grad in gradients.items() if not grad.any()] == []
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), base_logits(family))
    assert torch.equal(logits(model, batch), out), "switched on again, it is the adapted model"


@every_combination
@every_family
def test_in_bf16_it_starts_as_the_base_bitwise_and_learns(family: str, combination: str) -> None:
    batch = move_batch(family_model(family).bfloat16(), family_batch(family))
    expected = logits(family_model(family).bfloat16(), batch)
    placements = combined(family, combination)
    model = peft.get_peft_model(family_model(family).bfloat16(), RoutedConfig(placements=placements)).eval()
    assert {parameter.dtype for parameter in trained(model).values()} == {torch.float32}
    assert torch.equal(logits(model, batch), expected)
    perturb(model)
    out = model(**batch, use_cache=False).logits
    assert out.dtype == torch.bfloat16
    assert (out - expected).abs().max() > 0.1
    out.float().square().mean().backward()
    assert [path for path, p in trained(model).items() if p.grad is None or not p.grad.isfinite().all()] == []


@every_family_with_a_norm_to_adapt
def test_in_bf16_a_connector_that_trains_is_kept_in_fp32(family: str) -> None:
    def lowered() -> nn.Module:
        return family_model(family).bfloat16()

    batch = move_batch(lowered(), family_batch(family))
    expected = logits(lowered(), batch)
    model = lora_mm.attach(lowered(), ["mma"], train=["connector"]).eval()
    torch.testing.assert_close(logits(model, batch), expected, rtol=0.1, atol=0.1)
    model(**batch, use_cache=False).logits.float().square().mean().backward()
    connector = {path: p.grad for path, p in trained(model).items() if ".modules_to_save." in path}
    assert connector
    assert any(grad is not None and bool(grad.any()) for grad in connector.values())
    assert all(p.dtype == torch.float32 for p in trained(model).values())


@every_case
def test_rows_of_a_mixed_batch_equal_themselves_alone(family: str, name: str) -> None:
    model = adapted(family, [PLACEMENTS[name]])
    if not FAMILY[family].mixes:
        assert (base_logits(family, (0,))[0] - base_logits(family)[1]).abs().max() > 0.01
    together = logits(model, family_batch(family))
    for row, alone in enumerate(rows_alone(family)):
        real = alone["input_ids"].shape[1]
        # Sums of another length come in another order: 9e-5 of logits of 5 at most, where another row would make 0.1.
        torch.testing.assert_close(together[row, -real:], logits(model, alone)[0], rtol=1e-4, atol=2e-4)


@every_family_with_a_norm_to_adapt
def test_a_modalitys_embedding_moves_the_rows_of_that_modality_only(family: str) -> None:
    model, batch = adapted(family, [PLACEMENTS["mma language block"]]), family_batch(family)
    embedding = next(p for path, p in trained(model).items() if "routed_modality" in path)
    for modality, row in ((1, 0), (0, 1)):
        before = logits(model, batch)
        with torch.no_grad():
            embedding[modality] += torch.linspace(-3, 3, embedding.shape[1])
        after = logits(model, batch)
        real = batch["attention_mask"][1 - row].bool()
        # Equal to the bit but in a mixture of experts, which sums the rows of a batch in another order.
        torch.testing.assert_close(before[1 - row, real], after[1 - row, real], rtol=0, atol=2e-5)
        assert (before[row] - after[row]).abs().max() > 1e-4


@every_combination
@every_family
def test_every_picture_of_several_in_a_row_is_read(family: str, combination: str) -> None:
    model, batch = adapted(family, combined(family, combination)), family_batch(family, (2,))
    before, pixels = logits(model, batch), batch["pixel_values"]
    assert before.isfinite().all()
    along = 1 if len(pixels) == 1 else 0  # of pictures, tiles or patches
    halves = pixels.chunk(2, dim=along)
    for changed in ((-halves[0], halves[1]), (halves[0], -halves[1])):
        assert (logits(model, {**batch, "pixel_values": torch.cat(changed, along)}) - before).abs().max() > 1e-3


SPECIAL = [*range(10), VOCABULARY, VOCABULARY + 1]
"""Ids that are never written, as a trained model writes none: a placeholder without a picture is an error."""


@torch.no_grad()
def greedy(model: nn.Module, family: str, batch: Batch, steps: int) -> Tensor:
    """Token after token, each from a whole forward without cache."""
    made, batch = FAMILY[family], dict(batch)
    marks = made.marks(batch["input_ids"], batch["attention_mask"], (1, 0))
    prompt = batch["input_ids"].shape[1]
    for _ in range(steps):
        mask = batch["attention_mask"]
        positions = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)} if made.positions else {}
        out = model(**batch, **positions, use_cache=False)
        scores = out.logits[:, -1:]
        scores[..., [index for index in SPECIAL if index < scores.shape[-1]]] = -torch.inf
        batch["input_ids"] = torch.cat([batch["input_ids"], scores.argmax(dim=-1)], dim=1)
        batch["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        for name in marks:
            last = batch[name][:, -1:]
            batch[name] = torch.cat([batch[name], last if made.grown is None else torch.full_like(last, made.grown)], 1)
    return batch["input_ids"][:, prompt:]


@every_combination
@every_family
def test_cached_generation_of_a_mixed_batch_equals_whole_forwards(family: str, combination: str) -> None:
    model, batch = adapted(family, combined(family, combination)), family_batch(family)
    written = new_tokens(model, batch, 4)
    assert model.base_model.signal.modality.tolist() == [1, 0]
    assert torch.equal(written, greedy(model, family, batch, 4))
    with model.disable_adapter():
        assert not torch.equal(written, new_tokens(model, batch, 4))


def new_tokens(model: nn.Module, batch: Batch, steps: int) -> Tensor:
    """What is written; some models give the prompt as well, BLIP-2 does not where it gets embeddings."""
    return model.generate(**batch, max_new_tokens=steps, do_sample=False, suppress_tokens=SPECIAL)[:, -steps:]


@every_combination
@every_family
def test_beams_of_a_row_equal_its_beams_alone(family: str, combination: str) -> None:
    model = adapted(family, combined(family, combination))
    options = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "suppress_tokens": SPECIAL}
    if not FAMILY[family].beams:
        with pytest.raises(ValueError, match="do not match"):
            family_model(family).generate(**family_batch(family), **options)
        return
    together = model.generate(**family_batch(family), **options)
    for row, alone in enumerate(rows_alone(family)):
        assert torch.equal(together[row, -3:], model.generate(**alone, **options)[0, -3:])


def test_every_adapter_loaded_in_another_process_computes_the_same_bitwise(tmp_path: Path) -> None:
    cases, expected = {}, {}
    for family, name in CASES:
        model, batch = adapted(family, [PLACEMENTS[name]]), family_batch(family)
        case = f"{family}, {name}"
        cases[case] = Saved(family, tmp_path / case, batch)
        model.save_pretrained(str(cases[case].folder), save_embedding_layers=False)
        expected[case] = logits(model, batch)
    found = logits_in_another_process(cases, tmp_path)
    assert [case for case in cases if not torch.equal(found[case], expected[case])] == []


@every_family
def test_plain_lora_alone_is_a_stock_adapter(family: str, tmp_path: Path) -> None:
    fields = [PLACEMENTS[name] for name in ("lora language all", "lora vision all")]
    fields = [{**item, "rank": 2} for item in fields if stands(family, item)]
    model, batch = lora_mm.attach(family_model(family), fields).eval(), family_batch(family)
    assert torch.equal(logits(model, batch), base_logits(family))
    perturb(model)
    model(**batch, use_cache=False).logits.square().mean().backward()
    assert [path for path, p in trained(model).items() if p.grad is None or not p.grad.any()] == []
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).peft_type == "LORA"
    loaded = peft.PeftModel.from_pretrained(family_model(family), str(tmp_path)).eval()
    assert torch.equal(logits(loaded, batch), logits(model, batch))


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if find_obstacle("moe_lora", row) is None])
def test_all_experts_at_once_are_the_dense_mixture(family: str) -> None:
    """Of every family's own feed-forward, each expert's update in its weights; mixed by the router's probabilities."""
    experts, rank = 3, 2
    model = adapted(family, [{"method": "moe_lora", "experts": experts, "top_k": experts, "rank": rank}])
    base = family_model(family)
    roles = [role for role in ("gate", "up", "gate_up", "down") if role in get_anatomy(base).language.known_roles]
    paths = {role: find_role_modules(base, "language", role)[-1] for role in roles}
    layer = find_layers(base, "language")[-1]
    seen: dict[str, Tensor] = {}
    routed = {role: model.get_base_model().get_submodule(path) for role, path in paths.items()}
    routed[roles[0]].register_forward_hook(lambda _, args, out: seen.update(read=args[0]))
    routed["down"].register_forward_hook(lambda _, args, out: seen.update(given=out))
    logits(model, family_batch(family))
    router = next(one.routed_router["default"].weight for one in routed.values() if "default" in one.routed_router)
    weights = (seen["read"] @ router.T).softmax(dim=-1)
    expected = torch.zeros_like(seen["given"])
    with torch.no_grad():
        for expert in range(experts):
            twin = copy.deepcopy(base.get_submodule(layer))
            for role, path in paths.items():
                down = routed[role].routed_down["default"].weight[expert * rank : (expert + 1) * rank]
                twin.get_submodule(path.removeprefix(f"{layer}.")).weight += (
                    routed[role].routed_up["default"].weight[expert] @ down
                )
            whole = getattr(twin, "mlp", None) or getattr(twin, "feed_forward", None)
            run = whole or (lambda x, of=twin: of.fc2(of.activation_fn(of.fc1(x))))
            expected += weights[..., expert, None] * run(seen["read"])
    torch.testing.assert_close(seen["given"], expected, rtol=1e-3, atol=1e-3)


@every_combination
@every_family
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(family: str, combination: str, reentrant: bool) -> None:
    placements = combined(family, combination)
    if reentrant and family == "gemma4":
        pytest.skip(
            "layers share keys and values through a dictionary, past which reentrant checkpointing sees nothing"
        )
    if reentrant and not FAMILY[family].reentrant:
        placements = [fields for fields in placements if fields.get("part") != "vision"]
    results = []
    for checkpointing in (False, True):
        model = adapted(family, placements).train()
        base = model.get_base_model()
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": reentrant})
            if reentrant:
                base.enable_input_require_grads()
        calls = counted(base.get_submodule(find_role_modules(base, "language", "o")[-1]))
        torch.manual_seed(3)  # dropout included: the recomputed forward must draw the same
        model(**family_batch(family), use_cache=False).logits.square().mean().backward()
        results.append({path: parameter.grad for path, parameter in trained(model).items()})
        assert calls() == 1 + checkpointing
    assert all(grad is not None and grad.any() for grad in results[0].values())
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)


def counted(module: nn.Module) -> Callable[[], int]:
    calls: list[None] = []
    module.register_forward_pre_hook(lambda *_: calls.append(None))
    return lambda: len(calls)


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.visual_tokens and FAMILY[name].mixes])
def test_text_alone_does_not_meet_the_visual_expert(family: str) -> None:
    model = adapted(family, [PLACEMENTS["visual expert"]])
    assert torch.equal(logits(model, family_batch(family, (0,))), base_logits(family, (0,)))


def test_a_family_without_a_tower_is_told_so() -> None:
    with pytest.raises(InputError, match=r"it has no vision tower\. Place it on language"):
        lora_mm.attach(family_model("fuyu"), [PLACEMENTS["mma vision attn"]])


QWEN_VIDEO = {"pixel_values_videos": torch.ones(16, 3 * 2 * 4 * 4), "video_grid_thw": torch.tensor([[1, 4, 4]])}
GLM = ("glm4v", "glm46v", "glm_ocr")
VIDEOS: dict[str, tuple[list[int], dict[str, Tensor]]] = {
    "llava_onevision": ([VIDEO] * 3, {"pixel_values_videos": torch.ones(1, 2, 3, 16, 16)}),
    **{
        name: ([IMAGE_START] + [VIDEO] * 4, QWEN_VIDEO)
        for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
    },
    **{name: ([VIDEO_START, IMAGE_START] + [IMAGE] * 4 + [7, 8], QWEN_VIDEO) for name in GLM},
}
"""A video of one or two frames: its tokens, and what the model gets beside them."""


def test_every_family_with_videos_is_tried_with_one() -> None:
    assert set(VIDEOS) == {name for name, row in FAMILIES.items() if "video" in row.placeholders}


@pytest.mark.parametrize("family", list(VIDEOS))
def test_a_video_is_a_modality_of_its_own(family: str) -> None:
    model = adapted(family, [PLACEMENTS["mma language attn"]])
    tokens, inputs = VIDEOS[family]
    ids = torch.tensor([[1, *tokens, 20, 21, 22], [0] * len(tokens) + [1, 20, 21, 22]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), **inputs}
    if inputs is QWEN_VIDEO:
        batch["mm_token_type_ids"] = 2 * (ids == (IMAGE if family in GLM else VIDEO)).long()
    before = logits(model, batch)
    assert model.base_model.signal.modality.tolist() == [2, 0]
    embedding = next(p for path, p in trained(model).items() if "routed_modality" in path)
    with torch.no_grad():
        embedding[2] += torch.linspace(-3, 3, embedding.shape[1])
    after = logits(model, batch)
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=2e-5)
    assert (before[0] - after[0]).abs().max() > 1e-4
