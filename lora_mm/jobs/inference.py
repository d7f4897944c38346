"""Several adapters on one loaded base, of which one, or none, is active: answers to conversations.

Knows recipes, adapters and models; knows no terminal and no data set.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, TextStreamer

from lora_mm.artifact.files import CONFIG, read_json_object
from lora_mm.artifact.folder import load_adapter
from lora_mm.artifact.hub import LocatedAdapter, locate_adapter
from lora_mm.artifact.preprocessing import Mismatch
from lora_mm.data.collate import Collator
from lora_mm.data.example import Turn
from lora_mm.errors import InputError, suggest_name
from lora_mm.jobs.session import find_adapter_recipe, load_recipe_base, make_base_collator
from lora_mm.models.forward import move_batch
from lora_mm.models.loading import Base
from lora_mm.out_of_memory import explain_out_of_memory
from lora_mm.recipe.load import load_recipe
from lora_mm.recipe.sections import Recipe

_ALIKE = ("dtype", "quantization", "full_precision", "attention")
"""Keys of ``base`` in which adapters on one loaded base must agree, or one would answer otherwise than alone."""


class AdaptedModel:
    """A base with adapters on it.

    Attributes:
        names: of the adapters, in the order given.
        active: the one that answers; None for the frozen base.
    """

    def __init__(self, base: Base, model: nn.Module, adapters: dict[str, tuple[str, Collator]], bare: Collator) -> None:
        """``adapters``: name → PEFT's name for it, and what makes its inputs; ``bare`` makes the base's own."""
        self.base, self.model = base, model
        self.names = list(adapters)
        self._adapters, self._bare = adapters, bare
        self.active: str | None = None
        self.use(self.names[0] if self.names else None)

    def use(self, name: str | None) -> None:
        """Have ``name`` answer from now on, or the frozen base; raises InputError for a name that is not there."""
        if name is not None:
            _check_known(name, self.names)
            assert isinstance(self.model, peft.PeftModel)
            self.model.set_adapter(self._adapters[name][0])
        self.active = name

    def reply(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        write: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """What the active adapter writes next, greedily, without special tokens.

        Args:
            turns: the conversation so far; the last one is the user's.
            max_new_tokens: of the answer.
            write: told the answer piece by piece, as it comes.
            stop: asked after every token whether the answer is to end here.

        Raises:
            InputError: for a conversation that the base cannot read, or that is longer than it reads.
        """
        collator = self._bare if self.active is None else self._adapters[self.active][1]
        batch = move_batch(self.model, collator.conversation(turns))
        length = batch["input_ids"].shape[1]
        self._check_length(length, max_new_tokens)
        with torch.inference_mode(), self._switched(), explain_out_of_memory():
            written: Tensor = self.model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=collator.tokenizer.pad_token_id,
                streamer=_Pieces(collator.tokenizer, write),
                stopping_criteria=[_Stop(stop)],
            )
        answer: str = collator.tokenizer.decode(written[0, length:], skip_special_tokens=True)
        return answer.strip()

    @contextmanager
    def _switched(self) -> Iterator[None]:
        if self.active is None and isinstance(self.model, peft.PeftModel):
            with self.model.disable_adapter():
                yield
        else:
            yield

    def _check_length(self, length: int, new: int) -> None:
        limit = getattr(self.base.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and length + new > limit:
            raise InputError(
                f"The conversation has {length:,} tokens, and {new:,} more may come; the base reads {limit:,}. "
                "Begin anew, or lower --max-new-tokens."
            )


def load_adapted(
    adapters: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    accept: Collection[Mismatch] = (),
    only: Collection[str] = (),
    base_only: bool = False,
) -> AdaptedModel:
    """Load the base of ``adapters`` once, with all of them on it; the first is active.

    Args:
        adapters: as for :func:`~lora_mm.artifact.hub.locate_adapter`; of one base and one PEFT type.
        overrides: ``key=value`` for their recipes.
        accept: mismatches that are warned of, not refused.
        only: names of those to load; all by default.
        base_only: load the base of the first, and no adapter.

    Raises:
        InputError: when one does not load, or they do not stand on one base alike.
    """
    folders = _named([locate_adapter(text) for text in adapters])
    for name in only:
        _check_known(name, list(folders))
    folders = {name: folder for name, folder in folders.items() if name in (only or folders)}
    recipes = {name: load_recipe(find_adapter_recipe(folder), overrides) for name, folder in folders.items()}
    first = next(iter(recipes.values()))
    if not base_only:
        _check_alike(folders, recipes)
    base = load_recipe_base(first)
    bare = make_base_collator(first, base)
    if base_only:
        return AdaptedModel(base, base.model.eval(), {}, bare)
    model: peft.PeftModel | None = None
    loaded: dict[str, tuple[str, Collator]] = {}
    for number, (name, folder) in enumerate(folders.items()):
        inner = f"adapter{number:03}"  # PEFT takes no dot in a name, and no name that another begins with
        model = load_adapter(base, folder, inner, onto=model, accept=accept, kernels=first.base.kernels)
        loaded[name] = inner, make_base_collator(recipes[name], base)
    assert model is not None
    return AdaptedModel(base, model, loaded, bare)


def _named(found: Sequence[LocatedAdapter]) -> dict[str, Path]:
    """The folders by what each is called: its own name, and a number where that is taken."""
    named: dict[str, Path] = {}
    for item in found:
        name, count = item.name, 1
        while name in named:
            count += 1
            name = f"{item.name}-{count}"
        named[name] = item.folder
    return named


def _check_known(name: str, names: list[str]) -> None:
    if name not in names:
        raise InputError(
            f"No adapter '{name}' here; there are: {', '.join(names) or 'none'}.{suggest_name(name, names)}"
        )


def _check_alike(folders: dict[str, Path], recipes: dict[str, Recipe]) -> None:
    """Raise InputError, before anything large is loaded, for adapters that cannot stand on one loaded base."""
    kinds = {name: read_json_object(folder / CONFIG).get("peft_type") for name, folder in folders.items()}
    if len(set(kinds.values())) > 1:
        told = "; ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise InputError(
            f"One loaded base takes adapters of one PEFT type, and these have several: {told}. "
            "Load them apart (plain LoRA is LORA, all other methods are ROUTED)."
        )
    faults = []
    for key in _ALIKE:
        values = {name: getattr(recipe.base, key) for name, recipe in recipes.items()}
        if len({str(value) for value in values.values()}) > 1:
            told = "; ".join(f"{name} has {value}" for name, value in values.items())
            faults.append(f"base.{key} differs: {told}. Say which to run all on: --set base.{key}=VALUE.")
    if faults:
        raise InputError(*faults)


class _Pieces(TextStreamer):
    """Hands on the answer as it comes, whole words at a time."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with each piece; the last may be empty."""
        if text:
            self._write(text)


class _Stop(StoppingCriteria):
    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._stop(), dtype=torch.bool, device=input_ids.device)
