"""One method at one place, as data. Knows no modules and no torch, so recipes are read without either.

A :class:`Placement` is what a recipe says, where most fields may be left out; a :class:`ResolvedPlacement` has a number
in every field, and is what the layers compute by.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from lora_mm.adapters.methods import METHODS, Method
from lora_mm.errors import InputError, suggest_name
from lora_mm.validation import explain_validation_error

Part = Literal["language", "vision"]

_DEFAULTED = (
    "part", "at", "experts", "groups", "temperature", "dropout", "bias", "learned_scale", "top_k", "combine", "balance",
)  # fmt: skip
_TOKEN_ROUTER_FIELDS = ("top_k", "combine", "balance")

T = TypeVar("T")


class _Place:
    """What both forms of a placement say of the method and where it is placed."""

    method: str
    part: Part
    at: str

    @property
    def row(self) -> Method:
        """The method's row in :data:`~.methods.METHODS`."""
        return METHODS[self.method]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are adapted in every layer."""
        return self.row.sites[self.at]

    def __str__(self) -> str:
        return f"{self.method} on {self.part} at {self.at}"


@plain_dataclass(frozen=True)
class ResolvedPlacement(_Place):
    """A placement with every number there; see :class:`Placement` for the fields.

    Attributes:
        factor: s, by which the update is multiplied.
    """

    method: str
    part: Part
    at: str
    rank: int
    experts: int
    groups: int
    temperature: float
    factor: float
    dropout: float
    bias: bool
    layers: tuple[int, ...] | None
    learned_scale: bool
    top_k: int
    combine: Literal["output", "weight"]
    balance: float

    @property
    def side_by_side(self) -> bool:
        """Whether each of a token's experts gives its own result, which the feed-forward's last layer mixes."""
        return self.row.router == "token" and self.combine == "output"


@dataclass(config=ConfigDict(extra="forbid"))
class Placement(_Place):
    """One method at one place, as a recipe or ``adapter_config.json`` says it.

    A field that is left out, or None, takes the method's default when the placement is made, so that saved recipes and
    adapters hold every number.

    Attributes:
        method: a row of :data:`~.methods.METHODS`.
        part: ``language`` or ``vision``; by default the method's first part.
        at: one of the method's sites, such as ``attn`` or ``block``; by default the method's first site.
        rank: r, the width of the bottleneck.
        experts: E, the number of experts.
        groups: blocks that the up-projection is cut into; must divide the rank and the layer's width.
        temperature: t of the router's softmax.
        alpha: sets the update's scale to alpha / rank; None for a scale of 1.
        scale: the update's scale, s, set directly; takes precedence over ``alpha``.
        dropout: dropout probability of the hidden units.
        bias: whether the projections have biases. Without them, an adapter merges into layers that have none.
        layers: indices of the layers to adapt; None for all.
        learned_scale: whether each expert's update has a trained factor, starting at 1, on top of ``scale``.
        top_k: number of experts that each token is sent to (moe_lora).
        combine: what is mixed of a token's experts: the feed-forward's ``output`` (k passes, the mixture of the papers)
            or its ``weight`` (one pass through the mixed updates; a feed-forward is not linear, so this is another
            function).
        balance: weight of the loss that keeps the experts evenly used (moe_lora).
    """

    method: str
    part: Part = ""  # type: ignore[assignment]  # the validator below sets the method's default
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
    def _fill_in(self) -> Self:
        """Check the placement, and set what was left out to the method's defaults."""
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'; known are: {', '.join(METHODS)}."
                             f"{suggest_name(self.method, list(METHODS))}")  # fmt: skip
        resolved = self.resolve()
        faults = list(_find_faults(resolved))
        if faults:
            raise ValueError("\n".join(faults))
        for name in _DEFAULTED:
            object.__setattr__(self, name, getattr(resolved, name))
        if self.alpha is None:
            object.__setattr__(self, "alpha", self.row.alpha)
        return self

    def resolve(self) -> ResolvedPlacement:
        """This placement with the method's defaults in every field that was left out."""
        row = self.row
        alpha = _given_or(row.alpha, self.alpha)
        factor = 1.0 if alpha is None else alpha / self.rank
        return ResolvedPlacement(
            method=self.method,
            part=self.part or row.parts[0],
            at=self.at or next(iter(row.sites)),
            rank=self.rank,
            experts=_given_or(row.experts, self.experts),
            groups=_given_or(row.groups, self.groups),
            temperature=_given_or(row.temperature, self.temperature),
            factor=factor if self.scale is None else self.scale,
            dropout=_given_or(row.dropout, self.dropout),
            bias=_given_or(row.bias, self.bias),
            layers=None if self.layers is None else tuple(self.layers),
            learned_scale=_given_or(row.learned_scale, self.learned_scale),
            top_k=_given_or(row.top_k, self.top_k),
            combine=_given_or(row.combine, self.combine),
            balance=_given_or(row.balance, self.balance),
        )


def _given_or(default: T, given: T | None) -> T:
    """What was given; the default where nothing was."""
    return default if given is None else given


def _find_faults(item: ResolvedPlacement) -> Iterator[str]:
    """Every value or combination of values that the method does not allow."""
    row, method = item.row, item.method
    if item.part not in row.parts:
        yield f"{method} has no part '{item.part}'; it has: {', '.join(row.parts)}.{suggest_name(item.part, row.parts)}"
    if item.at not in row.sites:
        sites = list(row.sites)
        yield f"{method} has no site '{item.at}'; it has: {', '.join(sites)}.{suggest_name(item.at, sites)}"
    if item.experts > 1 and row.router in (None, "visual"):
        yield f"{item.experts} experts, but {method} has only one; use 1."
    if row.router == "token" and item.top_k > item.experts:
        yield f"top_k {item.top_k} is more than the number of experts, {item.experts}."
    if row.router != "token":
        unused = [name for name in _TOKEN_ROUTER_FIELDS if getattr(item, name) != getattr(row, name)]
        if unused:
            yield f"{', '.join(unused)}: only methods that route each token use this; {method} does not."
    if item.rank % item.groups:
        yield f"groups {item.groups} must divide the rank, {item.rank}."


def parse_placement(fields: str | Mapping[str, Any] | Placement) -> Placement:
    """Make a :class:`Placement` from a method's name or from its fields.

    Args:
        fields: a method's name, a mapping of ``Placement`` fields, or a placement, which is returned as it is.

    Raises:
        InputError: naming every fault of the fields.
    """
    if isinstance(fields, Placement):
        return fields
    data = {"method": fields} if isinstance(fields, str) else dict(fields)
    try:
        return TypeAdapter(Placement).validate_python(data)
    except ValidationError as error:
        raise InputError(*explain_validation_error(error, Placement)) from None
