"""A method and where it is placed, as data. Knows no modules and no torch, so recipes are read without either.

A :class:`Placement` is written in a recipe, where most fields may be left out. A :class:`ResolvedPlacement` has a value
in every field, and layers compute by it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.dataclasses import dataclass

from lora_mm.adapters.methods import METHODS, Method, Router
from lora_mm.errors import InputError, suggest_name
from lora_mm.validation import explain_validation_error, refuse_booleans

AdaptedPart = Literal["language", "vision"]
"""A part of a model whose layers can be adapted."""

_DEFAULTED = (
    "part", "at", "experts", "groups", "temperature", "dropout", "drops", "bias", "learned_scale", "top_k", "combine",
    "balance", "tied_qkv", "marks",
)  # fmt: skip
_ROUTER_FIELDS: Mapping[Router, tuple[str, ...]] = {
    "token": ("top_k", "combine", "balance"), "crop": ("tied_qkv",), "visual": ("marks",),
}  # fmt: skip
"""Router → the fields that only its methods use."""

T = TypeVar("T")


class _MethodAndSite:
    """The method and where it is placed, which both kinds of placement have."""

    method: str
    part: AdaptedPart
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
class ResolvedPlacement(_MethodAndSite):
    """A placement with a value in every field; see :class:`Placement` for the fields.

    Attributes:
        factor: s, the scale of the update.
    """

    method: str
    part: AdaptedPart
    at: str
    rank: int
    experts: int
    groups: int
    temperature: float
    factor: float
    dropout: float
    drops: Literal["hidden", "input"]
    bias: bool
    layers: tuple[int, ...] | Literal["even"] | None
    learned_scale: bool
    top_k: int
    combine: Literal["output", "weight"]
    balance: float
    tied_qkv: bool
    marks: bool

    @property
    def side_by_side(self) -> bool:
        """Whether each of a token's experts gives its own result, which the feed-forward's last layer mixes."""
        return self.row.router == "token" and self.combine == "output"


@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Placement(_MethodAndSite):
    """A method and where it is placed, as in a recipe or ``adapter_config.json``.

    A field that is left out, or None, takes the method's default when the placement is made, so that saved recipes and
    adapters hold every value.

    Attributes:
        method: a row of :data:`~.methods.METHODS`.
        part: ``language`` or ``vision``; by default the method's first part.
        at: one of the method's sites, such as ``attn`` or ``block``; by default the method's first site.
        rank: r, the width of the bottleneck.
        experts: E, the number of experts.
        groups: number of blocks that the up-projection is cut into; must divide the rank and the layer's width.
        temperature: t, of the router's softmax.
        alpha: sets the update's scale to alpha / rank; None for a scale of 1.
        scale: the update's scale, s, set directly; takes precedence over ``alpha``.
        dropout: dropout probability in training.
        drops: what is dropped: the ``hidden`` units between the projections (r values a token), or the update's
            ``input`` (as in Monkey, and in PEFT's LoRA).
        bias: whether the projections have biases. Without them, an adapter merges into layers that have none.
        layers: indices of the layers to adapt; ``even`` for every second layer from the first on (MoE-LLaVA's
            sparse mode); None for all.
        learned_scale: whether each expert's update has a trained factor, starting at 1, on top of ``scale``.
        top_k: number of experts that each token is sent to (moe_lora).
        combine: what a token's experts mix: the feed-forward's ``output`` (k passes, the mixture of the papers)
            or its ``weight`` (one pass through the mixed updates; a feed-forward is not linear, so this is another
            function).
        balance: weight of the loss that keeps the experts evenly used (moe_lora).
        tied_qkv: whether separate q, k and v have one down-projection and one learned scale, as they have in Monkey,
            whose q, k and v are one layer (crop_lora).
        marks: whether the token before each run of placeholders counts as visual, as CogVLM's begin-of-image token
            does. In a family without such a token it is the last token before the picture (visual_expert).
    """

    method: str
    part: AdaptedPart = ""  # type: ignore[assignment]  # the validator below sets the method's default
    at: str = ""
    rank: int = Field(default=8, ge=1, le=65_536)
    experts: int | None = Field(default=None, ge=1, le=1024)
    groups: int | None = Field(default=None, ge=1, le=65_536)
    temperature: float | None = Field(default=None, gt=0, le=1e6)
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    scale: float | None = Field(default=None, ge=-1e6, le=1e6)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    drops: Literal["hidden", "input"] | None = None
    bias: bool | None = None
    layers: list[Annotated[int, Field(ge=0, le=10_000)]] | Literal["even"] | None = None
    learned_scale: bool | None = None
    top_k: int | None = Field(default=None, ge=1, le=1024)
    combine: Literal["output", "weight"] | None = None
    balance: float | None = Field(default=None, ge=0, le=1e6)
    tied_qkv: bool | None = None
    marks: bool | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, info.field_name, value)

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        """Check the placement, and set missing fields to the method's defaults."""
        if self.method not in METHODS:
            raise ValueError(f"unknown method '{self.method}'; known: {', '.join(METHODS)}."
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
        """Fill missing fields with the method's defaults."""
        row = self.row
        alpha = row.alpha if self.alpha is None else self.alpha
        factor = 1.0 if alpha is None else alpha / self.rank
        return ResolvedPlacement(
            method=self.method,
            part=self.part or row.parts[0],
            at=self.at or next(iter(row.sites)),
            rank=self.rank,
            experts=_or_default(self.experts, row.experts),
            groups=_or_default(self.groups, row.groups),
            temperature=_or_default(self.temperature, row.temperature),
            factor=factor if self.scale is None else self.scale,
            dropout=_or_default(self.dropout, row.dropout),
            drops=_or_default(self.drops, row.drops),
            bias=_or_default(self.bias, row.bias),
            layers=tuple(self.layers) if isinstance(self.layers, list) else self.layers,
            learned_scale=_or_default(self.learned_scale, row.learned_scale),
            top_k=_or_default(self.top_k, row.top_k),
            combine=_or_default(self.combine, row.combine),
            balance=_or_default(self.balance, row.balance),
            tied_qkv=_or_default(self.tied_qkv, row.tied_qkv),
            marks=_or_default(self.marks, row.marks),
        )


def _or_default(value: T | None, default: T) -> T:
    return default if value is None else value


def _find_faults(item: ResolvedPlacement) -> Iterator[str]:
    """Find every value or combination of values that the method does not allow."""
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
    for router, fields in _ROUTER_FIELDS.items():
        unused = [name for name in fields if getattr(item, name) != getattr(row, name)]
        if row.router != router and unused:
            users = [name for name, other in METHODS.items() if other.router == router]
            yield f"{', '.join(unused)}: {method} does not use this, only {', '.join(users)}; leave it out."
    if item.rank % item.groups:
        yield f"groups {item.groups} must divide the rank, {item.rank}."


def parse_placement(fields: str | Mapping[str, Any] | Placement) -> Placement:
    """Make a :class:`Placement` from a method's name or from its fields.

    Args:
        fields: a method's name, a mapping of ``Placement`` fields, or a placement, which is returned as it is.

    Raises:
        InputError: names every fault of the fields.
    """
    if isinstance(fields, Placement):
        return fields
    data = {"method": fields} if isinstance(fields, str) else dict(fields)
    try:
        return TypeAdapter(Placement).validate_python(data)
    except ValidationError as error:
        raise InputError(*explain_validation_error(error, Placement)) from None
