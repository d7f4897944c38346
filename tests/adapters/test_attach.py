"""Routed adapters on a real, tiny LLaVA: start, gradients, routing, saving, switching, generation and refusals."""

import copy
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import lora_mm
from lora_mm.adapters.config import RoutedConfig
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.errors import InputError, LoraMMError
from tests.helpers.tiny import perturb, tiny_batch, tiny_model

VISION = {"method": "mma", "part": "vision"}
ADAPTERS: dict[str, tuple[list[Any], list[str]]] = {
    "attn": (["mma"], []),
    "block": ([{"method": "mma", "at": "block"}], []),
    "no bias": ([{"method": "mma", "bias": False}, {**VISION, "bias": False}], []),
    "one group": ([{"method": "mma", "groups": 1, "experts": 3}, {**VISION, "at": "block", "groups": 1}], []),
    "vision": ([VISION], []),
    "with connector": (["mma", VISION], ["connector"]),
    "with head": ([{"method": "mma", "layers": [1]}], ["head"]),
    "with lora": (
        ["mma", VISION, {"method": "lora", "at": "all"}, {"method": "lora", "part": "vision"}],
        ["connector"],
    ),
}
every_adapter = pytest.mark.parametrize("name", list(ADAPTERS))


def adapted(name: str, *, noise: int | None = 1, seed: int = 0) -> peft.PeftModel:
    adapters, train = ADAPTERS[name]
    torch.manual_seed(100)
    model = lora_mm.attach(tiny_model(seed), adapters, train=train).eval()
    if noise is not None:
        perturb(model, noise)
    return model


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor] | None = None) -> Tensor:
    return model(**(batch or tiny_batch()), use_cache=False).logits


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch without its padding, and without the picture if it has none."""
    real = batch["attention_mask"][row].bool()
    single = {name: batch[name][row : row + 1, real] for name in ("input_ids", "attention_mask")}
    return {**single, "pixel_values": batch["pixel_values"]} if (single["input_ids"] == 3).any() else single


def routed_layers(model: nn.Module, part: str = "language_model") -> list[RoutedLayer]:
    return [module for path, module in model.named_modules() if isinstance(module, RoutedLayer) and part in path]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- start and gradients -------------------------------------------------------------------------------------------


@every_adapter
def test_starts_as_the_base_bitwise(name: str) -> None:
    model = adapted(name, noise=None)
    assert torch.equal(logits(model), logits(tiny_model()))
    perturb(model)
    assert (logits(model) - logits(tiny_model())).abs().max() > 0.01


@every_adapter
def test_gradients_reach_every_trained_tensor_and_nothing_else(name: str) -> None:
    model = adapted(name)
    batch = tiny_batch()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    without = [path for path, parameter in trained(model).items() if parameter.grad is None or not parameter.grad.any()]
    assert without == []
    assert [path for path, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_each_modalitys_embedding_gets_a_gradient_from_its_own_rows() -> None:
    model = adapted("attn")
    batch = tiny_batch()
    embedding = routed_layers(model)[0].routed_modality["default"].weight
    for row, index in ((0, 1), (1, 0)):
        embedding.grad = None
        single = alone(batch, row)
        model(**single, labels=single["input_ids"]).loss.backward()
        assert embedding.grad is not None
        assert embedding.grad[index].any()
        assert not embedding.grad[1 - index].any()


@pytest.mark.parametrize("name", ["vision", "with lora"])
def test_nothing_is_created_in_a_tower_layer_that_is_never_read(name: str) -> None:
    model = adapted(name)  # three layers, of which vision_feature_layer=-2 reads the first two
    paths = [path for path in trained(model) if "vision_tower" in path]
    assert {path.split("encoder.layers.")[1][0] for path in paths} == {"0", "1"}


def test_the_frozen_model_trains_nothing_but_the_adapter() -> None:
    model = adapted("attn")
    assert all(".routed_" in path for path in trained(model))
    assert all(".routed_" in path or ".modules_to_save." in path for path in trained(adapted("with connector")))


def test_adapters_of_a_bf16_base_are_kept_in_fp32() -> None:
    model = lora_mm.attach(tiny_model().bfloat16(), ["mma", VISION, "lora"])
    assert {parameter.dtype for parameter in trained(model).values()} == {torch.float32}
    batch = tiny_batch()
    assert logits(model, {**batch, "pixel_values": batch["pixel_values"].bfloat16()}).dtype == torch.bfloat16


# --- routing -------------------------------------------------------------------------------------------------------


@every_adapter
def test_rows_of_a_mixed_batch_equal_the_same_rows_alone(name: str) -> None:
    model, batch = adapted(name), tiny_batch()
    together = logits(model, batch)
    for row in range(2):
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(logits(model, alone(batch, row))[0], together[row, real], rtol=1e-5, atol=1e-5)


def test_routing_table_has_a_row_for_each_modality_that_sums_to_one() -> None:
    model = adapted("with connector")
    for layer in routed_layers(model):
        table = layer.compute_routing_table("default")
        assert table.shape == (2, 2)
        torch.testing.assert_close(table.sum(dim=1), torch.ones(2))
        assert (table[0] - table[1]).abs().max() > 1e-3
    for layer in routed_layers(model, "vision_tower"):
        assert layer.compute_routing_table("default").shape == (1, 2)


def test_layers_of_a_part_share_one_embedding_and_parts_have_their_own() -> None:
    model = adapted("with connector")
    assert [path for path in trained(model) if "routed_modality" in path] == [
        "base_model.model.model.vision_tower.encoder.layers.0.layer_norm1.routed_modality.default.weight",
        "base_model.model.model.language_model.layers.0.input_layernorm.routed_modality.default.weight",
    ]
    for part in ("language_model", "vision_tower"):
        tables = [layer.modality_embeddings["default"] for layer in routed_layers(model, part)]
        assert len(tables) == 2
        assert tables[0] is tables[1]


@pytest.mark.parametrize(("modality", "row"), [(0, 1), (1, 0)])
def test_a_modalitys_embedding_moves_the_rows_of_that_modality_only(modality: int, row: int) -> None:
    model = adapted("block")
    before = logits(model)
    with torch.no_grad():
        routed_layers(model)[0].routed_modality["default"].weight[modality] += torch.linspace(-3, 3, 48)
    after = logits(model)
    assert torch.equal(before[1 - row], after[1 - row])
    assert (before[row] - after[row]).abs().max() > 1e-4


def test_the_order_of_rows_changes_nothing() -> None:
    model, batch = adapted("block"), tiny_batch()
    swapped = {**batch, **{name: batch[name].flip(0) for name in ("input_ids", "attention_mask")}}
    torch.testing.assert_close(logits(model, swapped).flip(0), logits(model, batch), rtol=1e-5, atol=1e-5)


# --- saving, switching ---------------------------------------------------------------------------------------------


@every_adapter
def test_saved_and_loaded_under_another_name_it_computes_the_same_bitwise(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path), adapter_name="other")
    assert torch.equal(logits(loaded), logits(model))
    assert trained(loaded) == {}


def test_loaded_in_another_process_it_computes_the_same_bitwise(base_folder: Path, tmp_path: Path) -> None:
    """And a plain LoRA loads where lora-mm cannot be imported, while a routed adapter says there what it lacks."""
    models = {"routed": adapted("with lora"), "stock": lora_mm.attach(tiny_model(), "lora", train=["connector"]).eval()}
    perturb(models["stock"])
    for name, model in models.items():
        model.save_pretrained(str(tmp_path / name), save_embedding_layers=False)
    torch.save(tiny_batch(), tmp_path / "batch.pt")
    script = """
    import sys
    from importlib.abc import MetaPathFinder

    class Absent(MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.split(".")[0] == "lora_mm":
                raise ModuleNotFoundError(f"No module named '{name}'")

    absent = Absent()
    sys.meta_path.insert(0, absent)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(int(sys.argv[3]))
    base, folder = sys.argv[1:3]
    batch = torch.load(folder + "/batch.pt")

    def answer(name):
        model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder + "/" + name)
        with torch.no_grad():
            torch.save(model(**batch, use_cache=False).logits, folder + "/" + name + ".pt")

    answer("stock")
    try:
        answer("routed")
    except KeyError as error:
        print("refused:", error)
    sys.meta_path.remove(absent)
    import lora_mm
    answer("routed")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(base_folder), str(tmp_path)]
    done = subprocess.run([*command, str(torch.get_num_threads())], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused: 'ROUTED'" in done.stdout
    for name, model in models.items():
        assert torch.equal(torch.load(tmp_path / f"{name}.pt"), logits(model)), name


def test_disabled_it_computes_the_base_bitwise() -> None:
    for name in ("with connector", "with lora"):
        model = adapted(name)
        with model.disable_adapter():
            assert torch.equal(logits(model), logits(tiny_model()))
        assert not torch.equal(logits(model), logits(tiny_model()))


def two_adapters() -> tuple[peft.PeftModel, Tensor, Tensor]:
    """One model with ``default`` and ``other``, and what each gives when alone on a model."""
    first = adapted("block")
    alone_second = lora_mm.attach(tiny_model(), [VISION, "mma"], adapter_name="other").eval()
    perturb(alone_second, 2)
    model = adapted("block")
    model.add_adapter("other", RoutedConfig(placements=[VISION, "mma"]))
    model.eval()
    state = peft.get_peft_model_state_dict(alone_second, adapter_name="other")
    peft.set_peft_model_state_dict(model, state, adapter_name="other")
    return model, logits(first), logits(alone_second)


def test_two_adapters_are_switched_by_set_adapter() -> None:
    model, first, second = two_adapters()
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    assert torch.equal(logits(model), second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


def test_adding_a_second_adapter_leaves_the_first_one_training() -> None:
    model = adapted("block")
    before = set(trained(model))
    model.add_adapter("other", RoutedConfig(placements=["mma"]))
    assert set(trained(model)) == before
    model.set_adapter("other")
    assert trained(model)
    assert all(".other." in path for path in trained(model))


def test_a_deleted_adapter_is_gone_and_the_other_stays() -> None:
    model, _, second = two_adapters()
    model.set_adapter("other")
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert not [path for path, _ in model.named_parameters() if ".default." in path]
    model.add_adapter("default", RoutedConfig(placements=["mma"]))  # the name is free again
    assert torch.equal(logits(model), second)
    model.set_adapter("default")
    assert torch.equal(logits(model), logits(tiny_model()))


def test_a_deep_copy_computes_the_same_and_goes_its_own_way() -> None:
    model = adapted("with connector")
    before = logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), before)
    perturb(twin, 5)
    single = alone(tiny_batch(), 1)
    logits(twin, single)  # the twin's batch is not the model's
    assert torch.equal(logits(model), before)
    assert not torch.equal(logits(twin), before)


# --- generation ----------------------------------------------------------------------------------------------------


def endless(model: peft.PeftModel) -> peft.PeftModel:
    """Never stop at an end-of-sequence token, so that all rows write equally much."""
    model.get_base_model().generation_config.eos_token_id = None
    return model


@torch.no_grad()
def greedy(model: nn.Module, batch: dict[str, Tensor], steps: int) -> Tensor:
    """Token after token, each from a whole forward without cache."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for _ in range(steps):
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = model(**{**batch, "input_ids": ids, "attention_mask": mask}, position_ids=positions, use_cache=False)
        ids = torch.cat([ids, out.logits[:, -1:].argmax(dim=-1)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return ids


@pytest.mark.parametrize("name", ["block", "with lora"])
@pytest.mark.parametrize("seed", [0, 1])
def test_cached_generation_of_a_mixed_batch_equals_whole_forwards(name: str, seed: int) -> None:
    model, batch = endless(adapted(name)), tiny_batch(seed)
    written = model.generate(**batch, max_new_tokens=10, do_sample=False)
    assert torch.equal(written, greedy(model, batch, 10))
    with model.disable_adapter():
        unadapted = model.generate(**batch, max_new_tokens=10, do_sample=False)
    assert not torch.equal(written, unadapted)


@pytest.mark.parametrize("seed", [0, 1])
def test_beams_of_a_mixed_batch_equal_beams_of_each_row_alone(seed: int) -> None:
    model, batch = endless(adapted("block")), tiny_batch(seed)
    options = {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 3, "do_sample": False}
    together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    for row in range(2):
        single = alone(batch, row)
        by_itself = model.generate(**single, **options)[:, single["input_ids"].shape[1] :]
        assert torch.equal(together[3 * row : 3 * row + 3], by_itself)


def test_a_text_only_question_after_a_picture_is_routed_as_text() -> None:
    model, batch = endless(adapted("block")), tiny_batch()
    fresh = model.generate(**alone(batch, 1), max_new_tokens=6, do_sample=False)
    model.generate(**alone(batch, 0), max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(**alone(batch, 1), max_new_tokens=6, do_sample=False), fresh)


@pytest.mark.parametrize("name", ["block", "with lora"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    results = []
    for checkpointing in (False, True):
        model = adapted(name).train()  # dropout included: the recomputed forward must draw the same
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        recomputed = counted_calls(routed_layers(model)[-1])
        torch.manual_seed(3)
        loss = model(**tiny_batch(), labels=tiny_batch()["input_ids"], use_cache=False).loss
        loss.backward()
        assert recomputed() == 1 + checkpointing
        results.append((loss, {path: parameter.grad for path, parameter in trained(model).items()}))
    (loss, gradients), (loss_again, gradients_again) = results
    assert torch.equal(loss, loss_again)
    torch.testing.assert_close(gradients_again, gradients, rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_batches_before_one_backward_keep_their_own_routing_when_recomputed(reentrant: bool) -> None:
    """Of a batch with a picture and one without: recomputed in the backward pass, each is what it was."""
    batches, results = [alone(tiny_batch(), row) for row in range(2)], []
    for checkpointing in (False, True):
        model = adapted("block").train()
        for layer in routed_layers(model):
            layer.placements["default"] = replace(layer.placements["default"], dropout=0.0)
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.get_base_model().enable_input_require_grads()
        losses = [model(**batch, labels=batch["input_ids"], use_cache=False).loss for batch in batches]
        sum(losses).backward()
        results.append({path: parameter.grad for path, parameter in trained(model).items()})
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def counted_calls(module: nn.Module) -> Any:
    calls: list[None] = []
    module.register_forward_pre_hook(lambda *_: calls.append(None))
    return lambda: len(calls)


# --- plain LoRA ----------------------------------------------------------------------------------------------------


def test_plain_lora_alone_is_a_stock_config() -> None:
    model = lora_mm.attach(tiny_model(), [{"method": "lora", "at": "qkv", "rank": 4}])
    config = model.peft_config["default"]
    assert type(config) is peft.LoraConfig
    assert (config.r, config.lora_alpha) == (4, 16)
    assert len(config.target_modules) == 2 * 3
    assert torch.equal(logits(model.eval()), logits(tiny_model()))


def test_placements_of_plain_lora_keep_their_own_ranks_and_scales() -> None:
    model = lora_mm.attach(
        tiny_model(),
        [
            {"method": "lora", "at": "qkv", "rank": 4, "alpha": 8},
            {"method": "lora", "at": "ffn", "rank": 2, "scale": 0.5},
            {"method": "lora", "part": "vision", "at": "all", "rank": 4, "alpha": 8, "layers": [1]},
        ],
    )
    found = {
        path.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for path, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    language = "model.language_model.layers.{}.{}"
    vision = "model.vision_tower.encoder.layers.1.{}"
    expected = {language.format(n, f"self_attn.{role}_proj"): (4, 2.0) for n in range(2) for role in "qkv"}
    expected |= {language.format(n, f"mlp.{role}_proj"): (2, 0.5) for n in range(2) for role in ("gate", "up", "down")}
    expected |= {vision.format(f"self_attn.{role}"): (4, 2.0) for role in ("q_proj", "k_proj", "v_proj", "out_proj")}
    expected |= {vision.format(role): (4, 2.0) for role in ("mlp.fc1", "mlp.fc2")}
    assert found == expected


def test_routed_lora_equals_the_stock_one() -> None:
    """The same weights by our layer and by PEFT's give the same logits."""
    fields = {"method": "lora", "at": "all", "rank": 4, "alpha": 12}
    stock = lora_mm.attach(tiny_model(), [fields]).eval()
    perturb(stock)
    ours = peft.get_peft_model(tiny_model(), RoutedConfig(placements=[fields])).eval()
    state = {
        path.replace("lora_A", "routed_down").replace("lora_B", "routed_up"): (
            value.unsqueeze(0) if "lora_B" in path else value
        )
        for path, value in peft.get_peft_model_state_dict(stock).items()
    }
    assert not peft.set_peft_model_state_dict(ours, state).unexpected_keys
    torch.testing.assert_close(logits(ours), logits(stock), rtol=1e-5, atol=1e-5)
    assert not torch.equal(logits(ours), logits(tiny_model()))


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapters", "train", "message"),
    [
        (["mmma"], [], r"unknown method 'mmma'.* Did you mean 'mma'\?"),
        ([{"method": "mma", "at": "atn"}], [], r"no site 'atn'.* Did you mean 'attn'\?"),
        ([{"method": "mma", "part": "connector"}], [], "part: input should be 'language' or 'vision'"),
        (["mma", {"method": "mma", "at": "block"}], [], "Two adapters on one module, .*input_layernorm"),
        ([{"method": "lora", "bias": True}], [], "bias"),
        ([{"method": "lora"}, {"method": "lora", "at": "ffn", "dropout": 0.5}], [], "one dropout"),
        ([{"method": "lora", "dropout": 0.5, "drops": "hidden"}], [], "drops its input"),
        (["mma"], ["conector"], "Unknown part 'conector'; the model has: .*connector"),
        ([], [], "Nothing to train"),
    ],
)
def test_what_cannot_be_attached_is_refused_with_reason(adapters: list[Any], train: list[str], message: str) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=message):
        lora_mm.attach(model, adapters, train=train)
    assert untouched(model), "a refusal must change nothing"


def untouched(model: nn.Module) -> bool:
    """Whether a tiny model is as it was built: no adapters, no hooks, and the same logits."""
    hooks = [hook for module in model.modules() for hook in (*module._forward_pre_hooks, *module._forward_hooks)]
    routed = [module for module in model.modules() if isinstance(module, RoutedLayer)]
    return not hooks and not routed and torch.equal(logits(model), logits(tiny_model()))


def test_a_width_that_the_second_placement_does_not_fit_leaves_the_model_as_it_was() -> None:
    """Three groups divide the language model's width, 48, and not the tower's, 32."""
    model = tiny_model()
    wrong = [{"method": "mma", "rank": 6, "groups": 3}, {**VISION, "rank": 6, "groups": 3}]
    with pytest.raises(InputError, match="mma on vision at attn: groups 3 must divide the layer's width, 32"):
        lora_mm.attach(model, wrong)
    assert untouched(model)
    assert trained(lora_mm.attach(model, ["mma"])), "and it can be adapted still"


def test_a_second_adapter_that_is_refused_leaves_the_first_as_it_was() -> None:
    model = adapted("block")
    before = logits(model)
    with pytest.raises(InputError, match="layers"):
        model.add_adapter("other", RoutedConfig(placements=[{"method": "mma", "layers": [9]}]))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_parts_alone_can_train() -> None:
    model = lora_mm.attach(tiny_model(), [], train=["connector"])
    assert trained(model)
    assert all(".multi_modal_projector.modules_to_save." in path for path in trained(model))


def test_what_is_no_model_of_transformers_is_refused() -> None:
    with pytest.raises(InputError, match="A Linear is not a model of transformers"):
        lora_mm.attach(nn.Linear(2, 2), "mma")


def test_embeddings_without_ids_are_refused() -> None:
    model = adapted("attn")
    embeddings = model.get_input_embeddings()(torch.tensor([[5, 6]]))
    with pytest.raises(LoraMMError, match="only inputs_embeds were given; pass input_ids"):
        model(inputs_embeds=embeddings)


def test_a_cache_filled_without_routing_is_refused() -> None:
    single, base = alone(tiny_batch(), 1), tiny_model()
    with torch.no_grad():
        cache = base(**single, past_key_values=DynamicCache(), use_cache=True).past_key_values
    model = lora_mm.attach(base, "mma").eval()
    with pytest.raises(LoraMMError, match="key-value cache does not hold the modality"):
        model(input_ids=torch.tensor([[7]]), past_key_values=cache)


def test_a_layer_called_outside_its_model_is_refused() -> None:
    model = adapted("attn")
    logits(model)
    with pytest.raises(LoraMMError, match="An adapter got 3 rows, but the model's input had 2"):
        routed_layers(model)[0](torch.zeros(3, 1, 48))
