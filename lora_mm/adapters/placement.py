"""One method at one place, as data, checked. Knows no modules and no torch, so recipes are read without either."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from lora_mm.adapters.methods import METHODS, Method
from lora_mm.errors import InputError, suggest_name

_DEFAULTED = (
    "experts", "groups", "temperature", "dropout", "bias", "alpha", "learned_scale", "top_k", "combine", "balance",
)  # fmt: skip
_OF_TOKEN_ROUTERS = ("top_k", "combine", "balance")


@dataclass(config=ConfigDict(extra="forbid"))
class Placement:
    """One method at one place. A field left at None takes the method's usual value.

    Attributes:
        method: a row of :data:`~.methods.METHODS`.
        part: ``language`` or ``vision``; the method's first part by default.
        at: one of the method's sites, such as ``attn`` or ``block``; the method's first site by default.
        rank: r, the width of the bottleneck.
        experts: E.
        groups: parts that the up-projection is cut into; divides the rank and the layer's width.
        temperature: t of the router's softmax.
        alpha: the update's scale is alpha / rank; without it, 1.
        scale: the update's scale, s, said directly.
        dropout: probability, on the hidden units.
        bias: whether the projections have biases (without, an adapter merges into layers that have none).
        layers: indices of the layers to adapt; None for all.
        learned_scale: whether each expert's update has a factor of its own, trained from 1 (beside ``scale``).
        top_k: experts that a token goes to (moe_lora).
        combine: of a token's experts, mix the feed-forward's ``output`` (k passes, the papers' mixture) or its
            ``weight`` (one pass through the mixed updates; a feed-forward is not linear: this is another function).
        balance: weight of the loss that keeps the experts evenly used (moe_lora).
    """

    method: str
    part: Literal["language", "vision"] = ""  # type: ignore[assignment]  # filled in below, by method
    at: str = ""
    rank: int = Field(default=8, ge=1)
    experts: int | None = Field(default=None, ge=1)
    groups: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, gt=0)
    alpha: float | None = Field(default=None, gt=0)
    scale: float | None = None
    dropout: float | None = Field(default=None, ge=0, lt=1)
    bias: bool | None = None
    layers: list[int] | None = None
    learned_scale: bool | None = None
    top_k: int | None = Field(default=None, ge=1)
    combine: Literal["output", "weight"] | None = None
    balance: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'; known are: {', '.join(METHODS)}."
                             f"{suggest_name(self.method, list(METHODS))}")  # fmt: skip
        for name in _DEFAULTED:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.row, name))
        object.__setattr__(self, "part", self.part or self.row.parts[0])
        object.__setattr__(self, "at", self.at or next(iter(self.row.sites)))
        faults = list(self._faults())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        """Everything about the fields that cannot be."""
        row, method = self.row, self.method
        assert self.experts is not None
        assert self.groups is not None
        assert self.top_k is not None
        if self.part not in row.parts:
            close = suggest_name(self.part, row.parts)
            yield f"{method} has no part '{self.part}'; it has: {', '.join(row.parts)}.{close}"
        if self.at not in row.sites:
            sites = list(row.sites)
            yield f"{method} has no site '{self.at}'; it has: {', '.join(sites)}.{suggest_name(self.at, sites)}"
        if self.experts > 1 and row.router in (None, "visual"):
            yield f"{self.experts} experts, but {method} has but one; use 1."
        if row.router == "token" and not self.top_k <= self.experts:
            yield f"top_k {self.top_k} is more than the experts, {self.experts}."
        if row.router != "token":
            idle = [name for name in _OF_TOKEN_ROUTERS if getattr(self, name) != getattr(row, name)]
            if idle:
                yield f"{', '.join(idle)}: only methods that route each token have them; {method} does not."
        if self.rank % self.groups:
            yield f"groups {self.groups} must divide the rank, {self.rank}."

    @property
    def row(self) -> Method:
        """The method's row."""
        return METHODS[self.method]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are adapted in every layer."""
        return self.row.sites[self.at]

    @property
    def factor(self) -> float:
        """s, by which the update is multiplied."""
        if self.scale is not None:
            return self.scale
        return self.alpha / self.rank if self.alpha else 1.0

    @property
    def side_by_side(self) -> bool:
        """Whether a token's experts give a result each, which the last layer of their feed-forward mixes."""
        return self.row.router == "token" and self.combine == "output"

    def __str__(self) -> str:
        return f"{self.method} on {self.part} at {self.at}"


def parse_placement(fields: "str | Mapping[str, Any] | Placement") -> Placement:
    """A :class:`Placement` from a method's name or its fields; raises InputError naming every fault."""
    if isinstance(fields, Placement):
        return fields
    data = {"method": fields} if isinstance(fields, str) else dict(fields)
    try:
        return TypeAdapter(Placement).validate_python(data)
    except ValidationError as error:
        raise InputError(*explain_validation_error(error, Placement)) from None


def explain_validation_error(error: ValidationError, model: Any) -> list[str]:
    """A validation error as one line a fault: the key, what is wrong with it, the nearest known key.

    Args:
        error: pydantic's.
        model: the pydantic model or dataclass that was validated, for the names it knows.
    """
    lines = []
    for item in error.errors():
        place = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            *path, key = item["loc"]
            lines.append(f"{place}: unknown key.{suggest_name(str(key), _keys(model, path))}")
        elif item["type"] == "missing":
            lines.append(f"{place}: is missing.")
        elif item["type"] == "value_error":
            lines += [f"{place}: {line}" if place else line for line in message.splitlines()]
        else:
            known = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else []
            close = suggest_name(str(item["input"]), known)
            lines.append(f"{place}: {message[0].lower()}{message[1:]}, not {item['input']!r}.{close}")
    return lines


def _keys(model: Any, path: list[int | str]) -> list[str]:
    """Names of the fields of the section at ``path`` inside ``model``."""
    for step in path:
        if isinstance(step, int):
            continue  # a list: its items' type was taken with the step before
        model = _fields(model)[step].annotation
        model = getattr(model, "__args__", (model,))[0]
    return list(_fields(model))


def _fields(model: Any) -> dict[str, Any]:
    found = getattr(model, "model_fields", None) or getattr(model, "__pydantic_fields__", {})
    return dict(found)
