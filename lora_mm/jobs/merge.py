"""One merge, from adapter folders to a verified folder. Knows the order of things; each thing is done elsewhere."""

import gc
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.warning import PeftWarning
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from lora_mm.adapters.layers import RoutedLayer
from lora_mm.artifact.card import render_metadata, to_one_line
from lora_mm.artifact.files import CARD, PREPROCESSING, RECIPE, check_adapter_folder, read_json_object
from lora_mm.artifact.folder import load_adapter, load_peft_config
from lora_mm.atomic import atomic_folder
from lora_mm.errors import InputError, LoraMMError
from lora_mm.jobs.merge_probes import Probes, make_probes
from lora_mm.jobs.session import load_recipe_base, make_base_collator
from lora_mm.merging.changes import check_mergeable, collect_changes, routes_by_modality
from lora_mm.merging.drift import Drift, compute_probe_logits, format_drift, measure_drift
from lora_mm.merging.writers import write_model, write_stock_lora
from lora_mm.models.anatomy import list_modalities
from lora_mm.models.loading import Base, get_default_device
from lora_mm.models.precision import Dtype
from lora_mm.ops.kernel_choice import Kernels
from lora_mm.recipe.sections import Recipe

MergeFormat = Literal["model", "lora"]

_SPARE = 500_000_000
"""Bytes that verification may take beyond what the adapted base took."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge left behind.

    Attributes:
        dtype: of the weights in the files.
        drifts: modality → how far merged and unmerged logits are apart.
        lines: the same in words.
    """

    output: Path
    dtype: Dtype
    drifts: dict[str, Drift]
    lines: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        drifts = {modality: asdict(one) for modality, one in self.drifts.items()}
        return {"output": str(self.output), "dtype": self.dtype, "drift": drifts}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is kept of the adapted base once it is gone.

    Attributes:
        adapted, bare: modality → logits on its probes, with the adapters and without.
        size: bytes that it took.
    """

    probes: Probes
    adapted: dict[str, list[Tensor]]
    bare: dict[str, list[Tensor]]
    size: int


def merge(
    adapters: Sequence[Path],
    recipes: Sequence[Recipe],
    output: Path,
    *,
    form: MergeFormat = "model",
    modality: str | None = None,
    dtype: Dtype | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> MergeResult:
    """Merge adapters into their base, or out to a stock LoRA, and verify what was written before it gets its name.

    Args:
        adapters: folders; what several make together is what they make when all are active, in this order.
        recipes: of each adapter, with any overrides; the first one's base and data are used.
        output: folder to make.
        form: ``model``, a plain transformers checkpoint; ``lora``, a stock PEFT LoRA.
        modality: what adapters that go by modality are merged for.
        dtype: of the files; by default the base's for a model, float32 for a LoRA.
        say: told what happens.

    Raises:
        InputError: for adapters that cannot be merged, or not together; for an ``output`` that exists.
        LoraMMError: when merged and unmerged logits are too far apart, or the folder cannot be written.
            Nothing is left behind then.
    """
    recipe = recipes[0]
    _check(adapters, recipes, modality)
    chosen: Dtype = dtype or (recipe.base.dtype if form == "model" else "float32")
    with atomic_folder(output) as folder:
        asked = _write(adapters, recipe, folder, form, modality, chosen, say)
        gc.collect()  # the adapted base, before the merged one is loaded
        after = _reloaded_logits(folder, recipe, form, chosen, asked)
        found = {name: measure_drift(asked.adapted[name], after[name], asked.bare[name]) for name in after}
        exact = recipe.base.quantization != "int8" and {recipe.base.dtype, chosen} == {"float32"}
        lines = list(format_drift(found, exact=exact))
        say(f"Compared on {asked.probes.about}.")
        for line in lines:
            say(line)
        beyond = [name for name, one in found.items() if not one.within(exact=exact)]
        if beyond:
            raise LoraMMError(_too_far(beyond, chosen, exact=exact))
        card = _card(adapters, recipe, output, form, modality, chosen, asked.probes, lines)
        (folder / CARD).write_text(card, encoding="utf-8")
    return MergeResult(output, chosen, found, lines)


def _check(adapters: Sequence[Path], recipes: Sequence[Recipe], modality: str | None) -> None:
    """Everything that can be told without loading a model."""
    for folder in adapters:
        check_adapter_folder(folder)
    twice = [
        str(folder) for n, folder in enumerate(adapters) if folder.resolve() in {f.resolve() for f in adapters[:n]}
    ]
    if twice:
        raise InputError(f"{', '.join(twice)}: given twice; an adapter merges once.")
    bases = {str(folder): read_json_object(folder / PREPROCESSING).get("base", {}) for folder in adapters}
    if len({base.get("fingerprint") for base in bases.values()}) > 1:
        told = "; ".join(f"{name} stands on '{base.get('name')}'" for name, base in bases.items())
        raise InputError(f"Adapters of different bases do not merge into one: {told}. Merge each on its own.")
    kinds = {str(folder): recipe.base.quantization for folder, recipe in zip(adapters, recipes, strict=True)}
    if len(set(kinds.values())) > 1:
        told = "; ".join(f"{name} was trained on {kind}" for name, kind in kinds.items())
        raise InputError(f"base.quantization differs: {told}. Say which to merge on: --set base.quantization=KIND.")
    check_mergeable({str(folder): load_peft_config(folder) for folder in adapters}, modality)


def _write(
    adapters: Sequence[Path],
    recipe: Recipe,
    folder: Path,
    form: MergeFormat,
    modality: str | None,
    dtype: Dtype,
    say: Callable[[str], None],
) -> _Asked:
    """Write the merged weights, and ask the adapted and the bare base the probes."""
    base = load_recipe_base(recipe)
    collator = make_base_collator(recipe, base)
    model = load_adapters(base, adapters, recipe.base.kernels)
    changed = collect_changes(model, modality)
    routed = routes_by_modality([load_peft_config(adapter) for adapter in adapters])
    probes = make_probes(recipe, collator, [modality] if routed and modality else list_modalities(model)[:2])
    adapted = _logits(model, probes, routed=modality if routed else None)
    with disable_adapters(model):
        bare = _logits(model, probes)
    if form == "model":
        say(f"Writing {len(changed)} merged linear layers, and the rest of the base as it is.")
        write_model(model, changed, folder, base=base, dtype=getattr(torch, dtype))
    else:
        say(f"Writing {len(changed)} linear layers' updates as a stock LoRA.")
        write_stock_lora(model, changed, folder, base=base, dtype=getattr(torch, dtype))
        (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        shutil.copyfile(adapters[0] / PREPROCESSING, folder / PREPROCESSING)
    return _Asked(probes, adapted, bare, base.model.get_memory_footprint())


def load_adapters(base: Base, folders: Sequence[Path], kernels: Kernels = "auto") -> nn.Module:
    """Load the adapters of all ``folders`` into ``base.model``, all active, in this order.

    Args:
        base: gets the adapters.
        folders: of the adapters.
        kernels: form of the adapters' operations.
    """
    names = [f"adapter{number}" for number in range(len(folders))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are adapters on the model already: so there are
        for name, folder in zip(names, folders, strict=True):
            load_adapter(base, folder, name, kernels=kernels)
    for module in base.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(names)
        elif isinstance(module, ModulesToSaveWrapper):
            module.set_adapter([name for name in names if name in module.modules_to_save])
    return base.model


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Every adapter on ``model`` is passed over."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _logits(model: nn.Module, probes: Probes, routed: str | None = None) -> dict[str, list[Tensor]]:
    """Modality → logits on its probes; where they are routed as ``routed``, so are all rows, whatever is in them."""
    stop = _route_all(model, routed) if routed else None
    found = {modality: compute_probe_logits(model, batches) for modality, batches in probes.batches.items()}
    if stop is not None:
        stop.remove()
    return found


def _route_all(model: nn.Module, modality: str) -> Any:
    """Have every row of the next forwards go by ``modality``: the probes of a video are pictures."""
    signals = {layer.signal for layer in model.modules() if isinstance(layer, RoutedLayer) and layer.signal}
    index = list_modalities(model).index(modality)

    def route(module: nn.Module, args: Any) -> None:
        for signal in signals:
            assert signal.modality is not None
            signal.modality = torch.full_like(signal.modality, index)

    return model.register_forward_pre_hook(route)


def _reloaded_logits(
    folder: Path, recipe: Recipe, form: MergeFormat, dtype: Dtype, asked: _Asked
) -> dict[str, list[Tensor]]:
    """What the written files say, loaded as anybody would: by plain transformers, or by plain PEFT on the base."""
    if form == "lora":
        base = load_recipe_base(recipe).model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PeftWarning)  # that what has biases here cannot be merged by PEFT
            model = peft.PeftModel.from_pretrained(base, str(folder))
        return _logits(model, asked.probes)
    with tempfile.TemporaryDirectory() as disk:
        merged = load_merged_model(
            folder, getattr(torch, dtype), recipe.base.attention, asked.size + _SPARE, Path(disk)
        )
        return _logits(merged, asked.probes)


def load_merged_model(folder: Path, dtype: torch.dtype, attention: str | None, room: int, disk: Path) -> nn.Module:
    """The checkpoint in ``folder``, by plain transformers, in no more memory than ``room`` bytes.

    Args:
        disk: where the layers wait that have no room: what was merged from 4 bits is several times its base.
    """
    options: dict[str, Any] = {"dtype": dtype}
    if attention:
        options["attn_implementation"] = attention
    device = get_default_device()
    fits = sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= room
    if not fits:
        place = 0 if device.type == "cuda" else device.type
        options |= {"device_map": "auto", "max_memory": {place: room}, "offload_folder": str(disk)}
    model: nn.Module = AutoModelForImageTextToText.from_pretrained(str(folder), **options)
    return model.to(device) if fits else model


def _too_far(beyond: list[str], dtype: Dtype, *, exact: bool) -> str:
    told = f"Merged and unmerged logits are too far apart on probes of {' and '.join(beyond)}; nothing was written."
    if exact:
        return f"{told} The base is built otherwise than its anatomy says (`lora-mm models show`); please report it."
    if dtype == "float32":
        return f"{told} The base computes in too few bits for what the adapter changes; keep it as an adapter."
    return f"{told} {dtype} is too coarse for what the adapter changes: try --dtype float32, or keep it as an adapter."


_CARD = """\
---
{metadata}---

# {name}

`{base}`{revision} with {adapters}{modality}, {what}, by [lora-mm](https://pypi.org/project/lora-mm/) {version}.
Neither needs lora-mm to be installed.

Logits with the adapter as it was, against these files, on {about}:

{lines}
"""


def _card(
    adapters: Sequence[Path],
    recipe: Recipe,
    output: Path,
    form: MergeFormat,
    modality: str | None,
    dtype: Dtype,
    probes: Probes,
    lines: Sequence[str],
) -> str:
    """The README of what was written."""
    library = "transformers" if form == "model" else "peft"
    what = f"merged into the weights, in {dtype}" if form == "model" else "as a stock PEFT LoRA"
    return _CARD.format(
        metadata=render_metadata(recipe.base.model, recipe.base.revision, recipe.license, library),
        base=to_one_line(recipe.base.model),
        name=to_one_line(output.name),
        revision=f" at revision `{recipe.base.revision}`" if recipe.base.revision else "",
        adapters=" and ".join(f"`{to_one_line(folder.name)}`" for folder in adapters),
        modality=f" for samples of {modality}" if modality else "",
        what=what,
        version=version("lora-mm"),
        about=probes.about,
        lines="\n".join(f"- {line}" for line in lines),
    )
