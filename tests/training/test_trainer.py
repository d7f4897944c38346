"""The trainer and its callbacks: weight decay, tensors without a gradient, losses that are not finite, accumulation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import AutoProcessor, TrainingArguments

import lora_mm
from lora_mm.adapters.weights import AdapterWeight
from lora_mm.data.collate import Collator
from lora_mm.data.example import Example
from lora_mm.errors import LoraMMError
from lora_mm.training.callbacks import ZERO_STEPS
from lora_mm.training.loss import LossWeight
from lora_mm.training.trainer import AdapterTrainer
from tests.helpers.tiny import perturb, tiny_model

ADAPTERS = [{"method": "mma", "dropout": 0}, {"method": "mma", "part": "vision", "dropout": 0}]
LAST_NORM = "base_model.model.model.language_model.layers.1.input_layernorm"


@pytest.fixture
def adapted() -> Any:
    torch.manual_seed(0)
    model = lora_mm.attach(tiny_model(), ADAPTERS, train=["connector"])
    perturb(model)
    return model


@pytest.fixture(scope="module")
def texts() -> list[Example]:
    return [Example(f"t{n}", f"Which of {'so ' * n}many?", f"The answer is {'AB'[n % 2]}.") for n in range(4)]


@pytest.fixture(scope="module")
def pictured(scienceqa_folder: Path) -> list[Example]:
    files = sorted((scienceqa_folder / "images" / "train").rglob("*.png"))
    return [Example(f"p{n}", "Which?", f"The answer is {'AB'[n % 2]}.", (files[n],)) for n in range(4)]


@pytest.fixture
def trainer_of(base_folder: Path, tmp_path: Path) -> Callable[..., AdapterTrainer]:
    def make(
        model: nn.Module, examples: list[Example], loss_weight: LossWeight = "token", **settings: Any
    ) -> AdapterTrainer:
        collator = Collator(AutoProcessor.from_pretrained(base_folder), max_length=500)
        defaults = {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "learning_rate": 0.1,
            "max_grad_norm": 0.0,
        }
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            remove_unused_columns=False,
            disable_tqdm=True,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            **{**defaults, **settings},
        )
        return AdapterTrainer(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=examples,
            sampler=SequentialSampler(examples),
            loss_weight=loss_weight,
        )

    return make


def test_weights_decay_and_biases_and_vectors_do_not(
    adapted: Any, texts: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    trainer = trainer_of(adapted, texts, weight_decay=0.5)
    trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in adapted.named_parameters()}
    decays: dict[float, set[str]] = {}
    for group in trainer.optimizer.param_groups:
        decays.setdefault(group["weight_decay"], set()).update(names[id(p)] for p in group["params"])
    kinds = {
        decay: {name.partition(".routed_")[2].replace(".default", "") for name in found if ".routed_" in name}
        for decay, found in decays.items()
    }
    assert kinds == {
        0.5: {"down.weight", "up.weight", "router.weight", "modality.weight"},
        0.0: {"down.bias", "up.bias", "router.bias"},
    }
    whole = {
        decay: {name.split(".")[-1] for name in found if "modules_to_save" in name} for decay, found in decays.items()
    }
    assert whole == {0.5: {"weight"}, 0.0: {"bias"}}
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert decays[0.5] | decays[0.0] == trained


def test_a_tensor_cut_off_from_the_loss_stops_the_run_and_is_named(
    adapted: Any, pictured: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    adapted.get_submodule(LAST_NORM).register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(LoraMMError, match=r"Step 1: 6 trained tensors got no gradient") as error:
        trainer_of(adapted, pictured).train()
    assert f"{LAST_NORM}.routed_down.default.weight" in str(error.value)
    assert "and 3 more" in str(error.value)


def test_an_unused_tensor_stops_the_run_and_is_named(
    adapted: Any, texts: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    adapted.get_submodule(LAST_NORM).routed_down["stray"] = AdapterWeight(torch.zeros(2))
    with pytest.raises(LoraMMError, match=f"1 trained tensors got no gradient: {LAST_NORM}.routed_down.stray.weight"):
        trainer_of(adapted, texts).train()


def test_a_tower_layer_that_is_never_read_stops_the_run_once_there_are_pictures(
    adapted: Any, texts: list[Example], pictured: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    path = "base_model.model.model.vision_tower.encoder.layers.2.mlp.fc1.bias"
    adapted.get_parameter(path).requires_grad_(True)
    with pytest.raises(LoraMMError, match=f"Step 2: 1 trained tensors got no gradient: {path}"):
        trainer_of(adapted, texts + pictured).train()


def test_a_first_batch_without_pictures_waits_for_them(
    adapted: Any, texts: list[Example], pictured: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    trainer = trainer_of(adapted, texts + pictured)
    assert trainer.train().global_step == 2
    without = trainer_of(adapted, texts, max_steps=3)
    assert without.train().global_step == 3


@pytest.mark.parametrize("method", ["mma", "lora"])
def test_a_layer_whose_gradients_are_all_zeros_stops_the_run_and_is_named(
    method: str, texts: list[Example], pictured: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    """The up-projections begin at zero here, so that zeros alone say nothing of the down-projections."""
    layers = {"language": "model.language_model.layers.1", "vision": "model.vision_tower.encoder.layers.1"}
    for part, layer in layers.items():
        torch.manual_seed(0)
        model = lora_mm.attach(tiny_model(), [{"method": method}, {"method": method, "part": "vision"}])
        path = f"base_model.model.{layer}"
        for module in list(model.get_submodule(path).modules())[1:]:  # what the layer adds to its input
            module.register_forward_hook(lambda _, __, output: output * 0 if torch.is_tensor(output) else output)
        examples = (texts + pictured) * 12
        told = (
            rf"Step {ZERO_STEPS if part == 'language' else 2 * ZERO_STEPS}: the trained tensors of \d+ layers got only"
        )
        with pytest.raises(LoraMMError, match=told) as error:
            trainer_of(model, examples, max_steps=24).train()
        assert path in str(error.value)


@pytest.mark.parametrize("kind", ["texts", "pictured"])
@pytest.mark.parametrize(
    "adapters",
    [
        ["lora", {"method": "lora", "part": "vision"}],
        ["mma", {"method": "mma", "part": "vision"}],
        ["visual_expert"],
        [{"method": "moe_lora", "top_k": 1, "balance": 0}],
    ],
)
def test_layers_that_wait_for_their_data_are_no_fault(
    adapters: list[Any], kind: str, request: pytest.FixtureRequest, trainer_of: Callable[..., AdapterTrainer]
) -> None:
    model = lora_mm.attach(tiny_model(), adapters, train=["connector"])
    examples = request.getfixturevalue(kind) * 12
    assert trainer_of(model, examples, max_steps=12, warmup_steps=6).train().global_step == 12


def test_a_loss_that_is_not_finite_stops_the_run(
    adapted: Any, texts: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    with torch.no_grad():
        adapted.get_submodule(LAST_NORM).routed_up["default"].weight.fill_(float("inf"))
    with pytest.raises(LoraMMError, match=r"The loss is nan at step 1; .*training.learning_rate"):
        trainer_of(adapted, texts).train()


@pytest.mark.parametrize("weight", ["token", "example"])
def test_accumulated_batches_make_the_step_of_one_large_batch(
    weight: LossWeight, texts: list[Example], pictured: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    examples = [item for pair in zip(texts, pictured, strict=True) for item in pair][:4]
    answers = ["A", "The answer is B. BECAUSE: it is longer than the others.", "No", "The answer is A."]
    examples = [
        Example(item.id, item.prompt, answer, item.images) for item, answer in zip(examples, answers, strict=True)
    ]
    after = []
    for size, accumulated in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = lora_mm.attach(tiny_model(), ADAPTERS, train=["connector"])
        perturb(model)
        before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        trainer_of(
            model,
            examples,
            loss_weight=weight,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        ).train()
        after.append({name: p.detach() - before[name] for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(after[1], after[0], rtol=1e-3, atol=1e-5)
    assert max(change.abs().max() for change in after[0].values()) > 1e-3


def test_a_batch_without_pictures_passes_over_a_connector_that_trains_alone(
    texts: list[Example], pictured: list[Example], trainer_of: Callable[..., AdapterTrainer]
) -> None:
    def after(steps: int) -> dict[str, torch.Tensor]:
        model = lora_mm.attach(tiny_model(), [], train=["connector"])
        trainer_of(model, [*texts, *pictured], max_steps=steps).train()
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    untrained = lora_mm.attach(tiny_model(), [], train=["connector"]).state_dict()
    text, both = after(1), after(2)
    assert all(torch.equal(value, untrained[name]) for name, value in text.items())
    assert not any(torch.equal(value, untrained[name]) for name, value in both.items())
