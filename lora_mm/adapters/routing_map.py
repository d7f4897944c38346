"""Where an adapter's routers send what, by layer and modality, as numbers to draw. Knows no drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_mm.adapters.layers import RoutedLayer
from lora_mm.adapters.targets import Target
from lora_mm.models.anatomy import find_layers, list_modalities
from lora_mm.models.forward import move_batch

Batches = Mapping[str, Sequence[dict[str, Tensor]]]
"""Modality → model inputs of samples of it."""


@dataclass(frozen=True, slots=True)
class RoutingMap:
    """One placement at one site.

    Attributes:
        title: what is routed.
        modalities: of samples.
        layers: indices in their part.
        weights: ``[layers][modalities][experts]``, each sum 1: the experts' weights, or shares of the tokens.
        meaning: which of the two.
    """

    title: str
    modalities: tuple[str, ...]
    layers: tuple[int, ...]
    weights: tuple[tuple[tuple[float, ...], ...], ...]
    meaning: str


def measure_routing(model: Any, asked: Batches) -> list[RoutingMap]:
    """The maps of an adapted model: by modality read off its routers, by token counted on the batches ``asked``.

    Args:
        model: as :func:`~.tuner.attach` or :func:`~.folder.load_adapter` returned it.
    """
    base = model.get_base_model()
    spots: dict[str, Target] = getattr(model.peft_config["default"], "resolved", {})
    layers = {path: layer for path in spots if isinstance(layer := base.get_submodule(path), RoutedLayer)}
    by_modality = {path: layer for path, layer in layers.items() if spots[path].placement.row.router == "modality"}
    by_token = {
        path: layer
        for path, layer in layers.items()
        if spots[path].placement.row.router == "token" and "default" in layer.routed_router
    }
    maps = []
    for title, paths in _grouped(by_modality, spots).items():
        tables = [by_modality[path].compute_routing_table("default").detach().float().tolist() for path in paths]
        known = list_modalities(base) if len(tables[0]) > 1 else ("image",)
        maps.append(_map(base, spots, title, paths, known, tables, "weight of each expert"))
    if by_token:
        shares = {name: _token_shares(model, batches, by_token) for name, batches in asked.items()}
        for title, paths in _grouped(by_token, spots).items():
            tables = [[shares[name][path] for name in shares] for path in paths]
            maps.append(_map(base, spots, title, paths, tuple(shares), tables, "share of tokens sent to each expert"))
    return maps


def _grouped(layers: dict[str, RoutedLayer], spots: dict[str, Target]) -> dict[str, list[str]]:
    """Title → the paths that belong together, in order of the layers."""
    groups: dict[str, list[str]] = {}
    for path in layers:
        item, role = spots[path].placement, spots[path].role
        where = "" if item.row.router == "token" or len(item.roles) == 1 else f", {role.replace('_', ' ')}"
        groups.setdefault(f"{item}{where}", []).append(path)
    return groups


def _map(
    base: Any,
    spots: dict[str, Target],
    title: str,
    paths: list[str],
    kinds: tuple[str, ...],
    tables: Sequence[Sequence[Sequence[float]]],
    meaning: str,
) -> RoutingMap:
    order = find_layers(base, spots[paths[0]].placement.part)
    weights = tuple(tuple(tuple(row) for row in table) for table in tables)
    return RoutingMap(title, kinds, tuple(order.index(spots[path].layer) for path in paths), weights, meaning)


@torch.inference_mode()
def _token_shares(
    model: Any, batches: Sequence[dict[str, Tensor]], layers: dict[str, RoutedLayer]
) -> dict[str, list[float]]:
    """Path → the share of all choices of experts that went to each, padding left out."""
    model.eval()
    mixtures = {path: layer.token_routers["default"] for path, layer in layers.items()}
    before = {path: mixture.take_usage() for path, mixture in mixtures.items()}
    for batch in batches:
        model(**move_batch(model, batch), logits_to_keep=1, use_cache=False)
    found = {}
    for path, mixture in mixtures.items():
        use = mixture.take_usage().double()
        found[path] = (use / use.sum()).tolist()
        mixture.usage = before[path].to(mixture.usage.device)  # as if nobody had looked
    return found
