"""MoE-LLaVA's mixture of feed-forwards against ours, whose experts are low-rank updates of one feed-forward.

The formulas are those of PKU-YuanGroup/MoE-LLaVA at 6cb5f66: ``initialize_moe_modules`` and ``forward``
(moellava/model/language_model/llava_llama_moe.py), which put DeepSpeed's ``MoE`` in the place of a feed-forward; and of
microsoft/DeepSpeed at 01c61b8: ``top2gating`` and ``TopKGate.forward`` (deepspeed/moe/sharded_moe.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.token_router import find_token_routers
from tests.helpers.tiny import perturb, tiny_batch, tiny_model
from tests.parity.law import TOLERANCE, assert_same_function, get_trained, measure_error
from tests.parity.plain import apply_linear, decode, embed, run, swiglu

EXPERTS, RANK, BALANCE = 4, 4, 0.01


@dataclass
class Gate:
    """``top2gating`` of one feed-forward.

    Attributes:
        weight: the router, [E, D].
        noise: makes the noise that is added to the logits before the second expert is chosen; None for none.
        capacity: number of tokens that an expert takes; None for all.
        probabilities: [tokens, E], of every call.
        second: [tokens], the second expert, of every call.
        dropped: number of choices beyond the capacity, of every call.
    """

    weight: Tensor
    noise: Callable[[Tensor], Tensor] | None = None
    capacity: int | None = None
    probabilities: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor) -> Tensor:
        """Weights of the experts, [tokens, E], zero but for two."""
        logits = F.linear(x.float(), self.weight.float())
        probabilities = logits.softmax(dim=1)
        first = F.one_hot(probabilities.argmax(dim=1), EXPERTS)
        noisy = logits if self.noise is None else logits + self.noise(logits)
        second = F.one_hot(noisy.masked_fill(first.bool(), -math.inf).argmax(dim=1), EXPERTS)
        capacity = len(x) if self.capacity is None else self.capacity
        kept_first = first * (first.cumsum(dim=0) <= capacity)
        kept_second = second * (second.cumsum(dim=0) + first.sum(dim=0) <= capacity)
        self.probabilities.append(probabilities)
        self.second.append(second.argmax(dim=1))
        self.dropped.append(int((first - kept_first + second - kept_second).sum()))
        weights = probabilities * (kept_first + kept_second)
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).eps)

    def compute_balance(self) -> Tensor:
        """``l_aux`` over the tokens of all calls."""
        probabilities = torch.cat(self.probabilities)
        first = F.one_hot(probabilities.argmax(dim=1), EXPERTS).float()
        return (probabilities.mean(dim=0) * first.mean(dim=0)).mean() * EXPERTS * EXPERTS


def mix(mlp: nn.Module, x: Tensor, gate: Gate) -> Tensor:
    """DeepSpeed's ``MoE``: every expert is a feed-forward of its own, with the weights W + B_e A_e."""
    weights = gate(x).to(x.dtype)

    def expert_linear(module: RoutedLayer, x: Tensor, expert: int) -> Tensor:
        down = module.routed_down["default"].weight.unflatten(0, (EXPERTS, RANK))[expert]
        return apply_linear(module, x) + x @ down.T @ module.routed_up["default"].weight[expert].T

    results = [swiglu(mlp, x, lambda layer, value, e=e: expert_linear(layer, value, e)) for e in range(EXPERTS)]
    return sum(weights[:, e, None] * result for e, result in enumerate(results))


def adapted(**fields: object) -> peft.PeftModel:
    fields = {"method": "moe_lora", "experts": EXPERTS, "rank": RANK, "balance": BALANCE, **fields}
    torch.manual_seed(0)  # of the routers
    model = lora_mm.attach(tiny_model(), [fields])
    perturb(model, size=0.1)
    return model.double()


def make_gates(model: nn.Module, **options: object) -> dict[str, Gate]:
    """Path of a feed-forward → its gate."""
    routers = {path: module for path, module in model.named_modules() if path.endswith("gate_proj")}
    return {
        path.removesuffix(".gate_proj"): Gate(module.routed_router["default"].weight, **options)
        for path, module in routers.items()
        if isinstance(module, RoutedLayer)
    }


def decode_mixed(model: peft.PeftModel, batch: dict[str, Tensor], gates: dict[str, Gate]) -> Tensor:
    """Logits of the tokens of all rows, one after the other, without padding."""
    mixed = {id(model.get_submodule(path)): gate for path, gate in gates.items()}

    def feed_forward(mlp: nn.Module, x: Tensor) -> Tensor:
        return mix(mlp, x, mixed[id(mlp)]) if id(mlp) in mixed else swiglu(mlp, x)

    return torch.cat([decode(model.get_base_model(), h, feed_forward=feed_forward) for h in embed(batch)])


@pytest.mark.parametrize("layers", [None, "even"])
def test_the_decoder_computes_moe_llavas_mixture_and_its_balance_loss(layers: str | None) -> None:
    """``even`` is the layers of its ``sparse`` mode; the loss beside the logits reaches the routers with its weight."""
    model, batch = adapted(layers=layers).train(), tiny_batch()
    gates = make_gates(model)
    assert len(gates) == (2 if layers is None else 1)
    theirs = decode_mixed(model, batch, gates)
    balances = [gate.compute_balance() for gate in gates.values()]
    ours = run(model, batch)
    assert_same_function(ours, theirs, get_trained(model), BALANCE * sum(balances))
    for router, balance in zip(find_token_routers(model), balances, strict=True):
        assert measure_error(router.balance, balance) <= TOLERANCE


def test_without_the_balance_loss_the_gradients_differ() -> None:
    """So the law above holds for the loss too."""
    model, batch = adapted().train(), tiny_batch()
    with pytest.raises(AssertionError, match=r"mlp\.gate_proj"):
        assert_same_function(run(model, batch), decode_mixed(model, batch, make_gates(model)), get_trained(model))


@torch.no_grad()
def test_departure_deepspeed_samples_the_second_expert_even_in_evaluation() -> None:
    """Gumbel noise on the logits draws it by its probability, so answers differ from run to run. Ours is the likeliest,
    and the same in every run."""
    model, batch = adapted().eval(), tiny_batch()
    runs = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        gates = make_gates(model, noise=lambda x, g=generator: -torch.empty_like(x).exponential_(generator=g).log())
        logits = decode_mixed(model, batch, gates)
        runs.append((logits, torch.cat(next(iter(gates.values())).second)))
    assert (runs[0][1] != runs[1][1]).double().mean() == pytest.approx(10 / 18)
    assert measure_error(runs[0][0], runs[1][0]) == pytest.approx(0.239, rel=0.02)
    assert torch.equal(run(model, batch), run(model, batch))


@torch.no_grad()
def test_departure_deepspeed_drops_tokens_beyond_an_experts_capacity() -> None:
    """With MoE-LLaVA's ``capacity_factor`` of 1.5 in training, an expert takes ¾ of the tokens. Where all choose one,
    the last lose it. Ours drops none."""
    model, batch = adapted(layers=[0]).eval(), tiny_batch()
    h = embed(batch)[0]
    (gate,) = make_gates(model).values()
    gate.weight[0] = torch.linalg.lstsq(h, h.new_full((len(h), 1), 30.0)).solution[:, 0]
    dropping = Gate(gate.weight, capacity=math.ceil(len(h) / EXPERTS * 1.5 * 2))
    weights, kept = gate(h), dropping(h)
    assert gate.dropped == [0]
    assert dropping.dropped == [len(h) - dropping.capacity]
    assert (weights[:, 0] > 0.99).all()
    assert not kept[dropping.capacity :, 0].any()
    (router,) = find_token_routers(model)
    ours = router.route(h[None], None, training=False)
    assert (ours[1][0, :, 0] == 0).all()
    assert measure_error(ours[0][0, :, 0], weights[:, 0]) <= TOLERANCE


@torch.no_grad()
def test_departure_deepspeeds_balance_counts_padding() -> None:
    model = adapted(layers=[0]).eval()
    h = torch.randn(1, 20, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h[:, :12] = h[:, :1]  # padding: 12 times the same state
    real = torch.arange(20)[None] >= 12
    (router,) = find_token_routers(model)
    router.route(h, real, training=False)
    with_padding, without = (Gate(router.router.weight) for _ in range(2))
    with_padding(h[0])
    without(h[real])
    assert measure_error(router.balance, without.compute_balance()) <= TOLERANCE
    assert measure_error(with_padding.compute_balance(), without.compute_balance()) == pytest.approx(0.196, rel=0.02)
