"""Measures how an adapter's routers weigh its experts, by layer and modality. Draws nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.targets import Target
from lora_mm.models.anatomy import find_layers, list_modalities
from lora_mm.models.forward import move_batch

Batches = Mapping[str, Sequence[dict[str, Tensor]]]
"""Modality → batches of model inputs of that modality."""

_NAME = "default"
"""PEFT's name for the adapter that is measured."""


@dataclass(frozen=True, slots=True)
class RoutingMap:
    """The routing of one placement at one role.

    Attributes:
        title: the placement, and the role if it has several.
        modalities: modalities of the samples.
        layers: indices of the layers in their part.
        weights: ``[layers][modalities][experts]``, where the experts sum to 1.
        meaning: what a weight means: an expert's weight, or its share of the tokens.
    """

    title: str
    modalities: tuple[str, ...]
    layers: tuple[int, ...]
    weights: tuple[tuple[tuple[float, ...], ...], ...]
    meaning: str


def measure_routing(model: Any, batches: Batches) -> list[RoutingMap]:
    """Measure the routing maps of an adapted model.

    Args:
        model: as :func:`~.attach.attach` or :func:`~lora_mm.artifact.load.load` returns it.
        batches: samples to count the choices of token routers on; routers by modality need none.

    Returns:
        One map for each placement and role that is routed by modality or by token.
    """
    base: nn.Module = model.get_base_model()
    targets: dict[str, Target] = getattr(model.peft_config[_NAME], "targets", {})
    layers = {path: layer for path in targets if isinstance(layer := base.get_submodule(path), RoutedLayer)}
    maps = []
    by_modality = _select(layers, targets, "modality")
    for title, paths in _group_by_title(by_modality, targets).items():
        tables = [by_modality[path].compute_routing_table(_NAME).detach().float().tolist() for path in paths]
        modalities = list_modalities(base) if len(tables[0]) > 1 else ("image",)
        maps.append(_make_map(base, targets, title, paths, modalities, tables, "weight of each expert"))
    by_token = _select_router_owners(_select(layers, targets, "token"))
    if by_token:
        shares = {modality: _measure_token_shares(model, items, by_token) for modality, items in batches.items()}
        for title, paths in _group_by_title(by_token, targets).items():
            tables = [[shares[modality][path] for modality in shares] for path in paths]
            meaning = "share of tokens sent to each expert"
            maps.append(_make_map(base, targets, title, paths, tuple(shares), tables, meaning))
    return maps


def _select(layers: Mapping[str, RoutedLayer], targets: Mapping[str, Target], router: str) -> dict[str, RoutedLayer]:
    return {path: layer for path, layer in layers.items() if targets[path].placement.row.router == router}


def _select_router_owners(layers: Mapping[str, RoutedLayer]) -> dict[str, RoutedLayer]:
    """The layers that own a token router; the other layers of a feed-forward share it."""
    return {path: layer for path, layer in layers.items() if _NAME in layer.routed_router}


def _group_by_title(paths: Mapping[str, RoutedLayer], targets: Mapping[str, Target]) -> dict[str, list[str]]:
    """Title of a map → the paths of its layers, in order."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        item, role = targets[path].placement, targets[path].role
        suffix = "" if item.row.router == "token" or len(item.roles) == 1 else f", {role.replace('_', ' ')}"
        groups.setdefault(f"{item}{suffix}", []).append(path)
    return groups


def _make_map(
    base: nn.Module,
    targets: Mapping[str, Target],
    title: str,
    paths: Sequence[str],
    modalities: tuple[str, ...],
    tables: Sequence[Sequence[Sequence[float]]],
    meaning: str,
) -> RoutingMap:
    order = find_layers(base, targets[paths[0]].placement.part)
    weights = tuple(tuple(tuple(row) for row in table) for table in tables)
    return RoutingMap(title, modalities, tuple(order.index(targets[path].layer) for path in paths), weights, meaning)


@torch.inference_mode()
def _measure_token_shares(
    model: Any, batches: Sequence[dict[str, Tensor]], layers: Mapping[str, RoutedLayer]
) -> dict[str, list[float]]:
    """Path → share of all choices of experts that went to each expert; padding is not counted."""
    model.eval()
    routers = {path: layer.token_routers[_NAME] for path, layer in layers.items()}
    before = {path: router.take_usage() for path, router in routers.items()}
    for batch in batches:
        model(**move_batch(model, batch), logits_to_keep=1, use_cache=False)
    shares = {}
    for path, router in routers.items():
        usage = router.take_usage().double()
        shares[path] = (usage / usage.sum()).tolist()
        router.usage = before[path].to(router.usage.device)  # restored, because training reads it too
    return shares
