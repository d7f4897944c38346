"""LaVIN's adapters, on a LLaMA decoder and on a CLIP tower, against ours.

The formulas are those of luogen1996/LaVIN at dd0a1bf: ``RepAdapter_Router.forward``, ``forward_llama_attn``,
``forward_llama_block`` and ``forward_clip`` (lavin/mm_adapter.py), ``Transformer.forward`` (lavin/model.py),
``Attention.forward`` and ``Transformer.forward`` (lavin/eval_model.py), ``LaVIN_Generator.generate``
(lavin/generator.py).

LaVIN puts a modality token in front of the sequence. Its routers read that token as their own layer has made it,
``RMSNorm_l(h_l)[0]``, where ours read one embedding for all layers, RMS-normalised. As the token sees nothing but
itself, its state at a layer depends on the modality alone: LaVIN's routing is a table of layer × modality, and ours can
be any such table.
"""

from collections.abc import Callable

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lora_mm
from lora_mm.adapters.layers import RoutedLayer
from tests.helpers.tiny import perturb, tiny_batch, tiny_model
from tests.parity.law import TOLERANCE, assert_same_function, get_gradients, get_trained, measure_error
from tests.parity.plain import TOWERS, apply_linear, decode, embed, look, rms_norm, run, run_tower, widen

TEXT, IMAGE = 0, 1
KINDS = (IMAGE, TEXT)
"""Modality of each row of the batch."""
SCALE, TEMPERATURE = 0.7, 3.0

Read = Callable[[str, Tensor], Tensor]
"""From the place of a norm and its output to the weights of the two experts, broadcastable to [..., 2]."""


def adapted(at: str, **fields: object) -> peft.PeftModel:
    model = lora_mm.attach(
        tiny_model(), [{"method": "mma", "at": at, "scale": SCALE, "temperature": TEMPERATURE, **fields}]
    )
    perturb(model, seed=2)
    return model.double().eval()


def get_routed(model: nn.Module) -> dict[str, RoutedLayer]:
    """The adapted norms, by their place: ``0.input_layernorm``."""
    found = {path: module for path, module in model.named_modules() if isinstance(module, RoutedLayer)}
    return {path.split(".layers.")[1]: module for path, module in found.items()}


def get_tokens(model: nn.Module) -> Tensor:
    """The embeddings of the modalities, [M, D]."""
    return next(iter(get_routed(model).values())).routed_modality["default"].weight


def apply_adapter(
    x: Tensor,
    layer: RoutedLayer,
    weights: Tensor,
    *,
    keep_hidden: Tensor | None = None,
    keep_input: Tensor | None = None,
) -> Tensor:
    """``RepAdapter_Router.forward``: 1×1 convolutions, one down, and for each expert one up in two groups.

    Args:
        x: ``[..., tokens, D]``, the output of the norm.
        layer: whose projections are used.
        weights: of the experts, broadcastable to ``[..., tokens, 2]``.
        keep_hidden: ``[..., tokens, 8]``, what dropout multiplies the hidden units by; None for no dropout.
        keep_input: ``[..., tokens, D]``, what it multiplies the input by, which LaVIN does not.
    """
    down, up = layer.routed_down["default"], layer.routed_up["default"]
    columns = (x if keep_input is None else x * keep_input).transpose(-1, -2)
    columns = columns if columns.dim() == 3 else columns.unsqueeze(0)
    hidden = F.conv1d(columns, down.weight.unsqueeze(-1), down.bias)
    hidden = hidden if keep_hidden is None else hidden * keep_hidden.transpose(-1, -2)
    for expert in range(2):
        result = F.conv1d(hidden, up.weight[expert].unsqueeze(-1), up.bias[expert], groups=2).transpose(-1, -2)
        x = x + SCALE * weights[..., expert, None] * result.view_as(x)
    return x


def ask_router(layer: RoutedLayer, x: Tensor) -> Tensor:
    router = layer.routed_router["default"]
    return F.softmax(F.linear(x, router.weight, router.bias) / TEMPERATURE, dim=-1)


def decode_routed(model: peft.PeftModel, h: Tensor, kind: int) -> Tensor:
    """Logits of a decoder with LaVIN's adapters, where each router reads the normalised embedding of the modality."""
    layers, token = get_routed(model), get_tokens(model)[kind]
    unit = token / (token.square().mean() + 1e-6).sqrt()

    def adapt(place: str, x: Tensor) -> Tensor:
        return apply_adapter(x, layers[place], ask_router(layers[place], unit)) if place in layers else x

    return decode(model.get_base_model(), h, adapt=adapt)


def decode_behind_token(
    model: peft.PeftModel, h: Tensor, token: Tensor, *, detach: bool = False, positions: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of LaVIN's ``Transformer.forward``: the modality token comes first, and only the routers read it.

    Args:
        model: ours, whose parameters are read.
        h: ``[tokens, D]``, what follows the modality token.
        token: ``[D]``, the modality token.
        detach: whether the routers pass no gradient to what they read.
        positions: of the modality token and the others; None for 0, 1, 2 and so on.

    Returns:
        The logits of the other tokens, and the weights that each router gave.
    """
    layers, said = get_routed(model), {}

    def adapt(place: str, x: Tensor) -> Tensor:
        if place not in layers:
            return x
        said[place] = ask_router(layers[place], x[0].detach() if detach else x[0])
        return apply_adapter(x, layers[place], said[place])

    seen = torch.ones(len(h) + 1, len(h) + 1, dtype=torch.bool).tril()
    seen[1:, 0] = False
    h = torch.cat([token[None], h])
    return decode(model.get_base_model(), h, adapt=adapt, positions=positions, seen=seen)[1:], said


# --- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["attn", "block"])
def test_the_decoder_computes_lavins_adapters(at: str) -> None:
    model, batch = adapted(at), tiny_batch()
    theirs = torch.cat([decode_routed(model, h, kind) for h, kind in zip(embed(batch), KINDS, strict=True)])
    assert_same_function(run(model, batch), theirs, get_trained(model))
    assert measure_error(run(model, batch), run(adapted(at, scale=0), batch)) > 0.1, "or the adapters do nothing"


def test_in_the_first_layer_the_modality_token_is_our_embedding() -> None:
    """LaVIN's ``RMSNorm(m)`` is our m̂ where the norm's weight is 1, as in a model that was just made; so even the
    router and the embeddings have LaVIN's gradients."""
    model, batch = adapted("attn", layers=[0]), tiny_batch()
    tokens = get_tokens(model)
    rows = zip(embed(batch), KINDS, strict=True)
    theirs = torch.cat([decode_behind_token(model, h, tokens[kind])[0] for h, kind in rows])
    assert_same_function(run(model, batch), theirs, get_trained(model))


@pytest.mark.parametrize("at", ["attn", "block"])
@torch.no_grad()
def test_for_any_lavin_there_is_one_of_ours_that_answers_alike(at: str) -> None:
    """The routers' weights are solved for, so that R m̂ + c is what LaVIN's router says of its layer's token."""
    model, batch = adapted(at), tiny_batch()
    perturb(model, seed=5)
    tokens, answers, said = get_tokens(model), {}, {}
    for h, kind in zip(embed(batch), KINDS, strict=True):
        answers[kind], said[kind] = decode_behind_token(model, h, tokens[kind])
    unit = tokens / (tokens.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    for place, layer in get_routed(model).items():
        router = layer.routed_router["default"]
        wanted = TEMPERATURE * torch.stack([said[kind][place] for kind in (TEXT, IMAGE)]).log() - router.bias
        router.weight.copy_(wanted.T @ torch.linalg.pinv(unit).T)
        assert (said[TEXT][place] - said[IMAGE][place]).abs().max() > 0.01, "or the modalities are the same"
    assert measure_error(run(model, batch), torch.cat([answers[kind] for kind in KINDS])) <= TOLERANCE


@torch.no_grad()
def test_lavins_routing_depends_on_layer_and_modality_alone() -> None:
    """Whatever the text: the token sees nothing but itself. So a table says all of it."""
    model = adapted("block")
    token, said = get_tokens(model)[IMAGE], []
    for row, seed in ((0, 0), (0, 1), (1, 2)):
        said.append(torch.stack(list(decode_behind_token(model, embed(tiny_batch(seed))[row], token)[1].values())))
    assert measure_error(said[0], said[1]) < 1e-12
    assert measure_error(said[0], said[2]) < 1e-12
    assert (said[0][0] - said[0][2]).abs().max() > 0.01, "and layers differ"


def test_departure_lavins_deeper_routers_read_the_state_of_the_token() -> None:
    """With the same parameters, LaVIN and ours differ in the weights of the second layer, and so in their logits; and
    LaVIN's first layer also gets a gradient through the routing of the second."""
    model, batch = adapted("attn"), tiny_batch()
    rows = list(zip(embed(batch), KINDS, strict=True))
    behind = [decode_behind_token(model, h, get_tokens(model)[kind]) for h, kind in rows]
    for (_, said), (_, kind) in zip(behind, rows, strict=True):
        distances = [
            float((said[place] - layer.compute_routing_table("default")[kind]).detach().abs().max())
            for place, layer in get_routed(model).items()
        ]
        assert distances[0] < 1e-6
        assert distances[1] == pytest.approx({IMAGE: 0.0285, TEXT: 0.0447}[kind], rel=0.02)
    logits = torch.cat([answer for answer, _ in behind])
    assert measure_error(run(model, batch), logits) == pytest.approx(0.068, rel=0.02)
    down = {"down": get_routed(model)["0.input_layernorm"].routed_down["default"].weight}
    detached = torch.cat([decode_behind_token(model, h, get_tokens(model)[k], detach=True)[0] for h, k in rows])
    through = measure_error(get_gradients(detached, down)["down"], get_gradients(logits, down)["down"])
    assert through == pytest.approx(0.028, rel=0.02)


@pytest.mark.parametrize("drops", ["hidden", "input"])
def test_dropout_falls_on_hidden_units_as_in_lavin(drops: str) -> None:
    """Each hidden unit of each token is drawn once and kept for both experts; with ``drops: input``, each entry of the
    norm's output."""
    model = adapted("attn", dropout=0.5, drops=drops).train()
    layer, token = get_routed(model)["0.input_layernorm"], get_tokens(model)[TEXT]
    model(**widen(tiny_batch()))  # row 1 is text
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(11)
    ours = layer(x)[1]
    torch.manual_seed(11)
    keep = F.dropout(torch.ones(2, 5, 8 if drops == "hidden" else 48, dtype=x.dtype), 0.5)[1]
    unit = token / (token.square().mean() + 1e-6).sqrt()
    expected = apply_adapter(rms_norm(x[1], layer), layer, ask_router(layer, unit), **{f"keep_{drops}": keep})
    assert measure_error(ours, expected) <= TOLERANCE
    assert measure_error(ours, layer.eval()(x)[1]) > 0.1


# --- generation -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_departure_lavins_generation_sets_each_written_token_one_position_back() -> None:
    """The prompt stands behind the modality token, at positions 1 to n; LaVIN gives the first written token n again, as
    the cache does not hold the modality token. With n + 1, as in training, it is ours."""
    model = adapted("attn", layers=[0])
    batch = {name: value[1:] for name, value in tiny_batch().items() if name != "pixel_values"}
    (h,), token = embed(batch), get_tokens(model)[TEXT]
    written = tiny_model().double().get_input_embeddings().weight[77]
    answers = []
    for last in (len(h) + 1, len(h)):
        positions = torch.tensor([*range(len(h) + 1), last])
        answers.append(decode_behind_token(model, torch.cat([h, written[None]]), token, positions=positions)[0][-1])
    ids = torch.cat([batch["input_ids"], torch.tensor([[77]])], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.tensor([[1]])], dim=1)
    prefill = model(**batch, use_cache=True)
    cached = model(ids[:, -1:], attention_mask=mask, past_key_values=prefill.past_key_values).logits[0, -1]
    assert measure_error(cached, answers[0]) <= TOLERANCE
    assert measure_error(cached, answers[1]) == pytest.approx(0.248, rel=0.02)


# --- the tower --------------------------------------------------------------------------------------------------------


def two_pictures() -> dict[str, Tensor]:
    ids = torch.tensor([[1, 3, 3, 3, 3, 20, 21], [1, 3, 3, 3, 3, 30, 31]])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def look_with(layers: list[nn.Module], x: Tensor, weigh: Callable[[RoutedLayer, Tensor], Tensor]) -> Tensor:
    """``forward_clip`` of all layers: the adapter stands behind the norm before attention."""
    for layer in layers:
        routed = layer.layer_norm1
        x = look(layer, x, TOWERS["llava"], adapt=lambda _, n, at=routed: apply_adapter(n, at, weigh(at, n)))
    return x


def test_the_tower_computes_lavins_adapters() -> None:
    model = adapted("attn", part="vision")
    layers, entered, ours = run_tower(model, two_pictures())
    token = get_tokens(model)[0]
    unit = token / (token.square().mean() + 1e-6).sqrt()
    theirs = look_with(layers, entered, lambda layer, n: ask_router(layer, unit))
    assert_same_function(ours, theirs, get_trained(model))
    assert measure_error(ours, run_tower(adapted("attn", part="vision", scale=0), two_pictures())[2]) > 0.1


@torch.no_grad()
def test_departure_in_lavins_tower_the_first_picture_gates_all_pictures() -> None:
    """LaVIN's tower has tokens first and pictures second, so ``x[:, 0]`` is every token of the first picture, and not
    the first token of every picture. Each token then gets the weights of the token in its place in the first picture.
    Ours weighs by one embedding, and no picture sees another."""
    model, batch = adapted("attn", part="vision"), two_pictures()
    other = {**batch, "pixel_values": torch.cat([batch["pixel_values"][:1].flip(-1), batch["pixel_values"][1:]])}
    ours, theirs = [], []
    for one in (batch, other):
        layers, entered, out = run_tower(model, one)
        ours.append(out[1])
        theirs.append(look_with(layers, entered, lambda layer, n: ask_router(layer, n[0]))[1])
    assert torch.equal(ours[0], ours[1])
    assert measure_error(theirs[0], theirs[1]) == pytest.approx(0.912, rel=0.02)


# --- one weight -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TEXT, IMAGE])
@torch.no_grad()
def test_for_one_modality_the_adapter_folds_into_q_k_and_v(kind: int) -> None:
    """W' = W (I + B_m A) and b' = W (B_m a + b_m), where B_m = s Σ w_e B_e: what makes a merge exact."""
    model = adapted("attn")
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for place, layer in get_routed(model).items():
        weights = layer.compute_routing_table("default")[kind]
        down, up = layer.routed_down["default"], layer.routed_up["default"]
        mixed, bias = torch.zeros(48, 8, dtype=x.dtype), SCALE * weights @ up.bias
        for weight, block in zip(weights, up.weight, strict=True):  # upper outputs read units 0 to 3, lower 4 to 7
            mixed += SCALE * weight * torch.block_diag(block[:24], block[24:])
        plain = rms_norm(x, layer)
        attention = model.get_base_model().model.language_model.layers[int(place[0])].self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            unit = torch.eye(48, dtype=x.dtype)
            folded = F.linear(
                plain, projection.weight @ (unit + mixed @ down.weight), projection.weight @ (mixed @ down.bias + bias)
            )
            expected = apply_linear(projection, apply_adapter(plain, layer, weights))
            assert measure_error(folded, expected) <= TOLERANCE
            assert measure_error(apply_linear(projection, plain), expected) > 0.01
