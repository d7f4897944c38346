"""The PEFT config that holds an adapter's placements. Knows no modules.

``adapter_config.json`` in an adapter folder is a :class:`RoutedConfig` in PEFT's own format.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from peft import PeftConfig
from peft.utils import PeftType

from lora_mm.adapters.placement import parse_placement
from lora_mm.models.description import parse_description

if TYPE_CHECKING:
    from lora_mm.adapters.targets import Target

PEFT_TYPE = "ROUTED"


def _add_peft_type(name: str) -> PeftType:
    """Add a member to PEFT's closed enumeration. A string would not do: transformers reads ``peft_type.value``."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


ROUTED = _add_peft_type(PEFT_TYPE)


@dataclass
class RoutedConfig(PeftConfig):
    """The PEFT config of routed low-rank adapters: a list of placements in one adapter.

    Attributes:
        placements: the adapter's :class:`~.placement.Placement` objects; names and dictionaries are parsed.
        anatomy: the user's description of the base, where lora-mm does not find its parts by itself.
        trained_parameters: paths of bare parameters of the base that are trained and saved with the adapter.
        modules_to_save: paths of the modules that are trained whole and saved with the adapter (such as the connector).
        exclude_modules, target_modules: fields that PEFT requires; the placements say what is targeted.
        targets: module path → target, set when the adapter is put on a model. Not saved: it follows from the model and
            the placements.
    """

    placements: list[Any] = field(default_factory=list)
    anatomy: Any = None
    trained_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    target_modules: Any = None
    exclude_modules: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = ROUTED
        self.anatomy = parse_description(self.anatomy)
        self.placements = [parse_placement(item) for item in self.placements]
        self.targets: dict[str, Target] = {}

    def to_dict(self) -> dict[str, Any]:
        """Convert to the fields that are saved, with placements and anatomy as plain dictionaries."""
        anatomy = self.anatomy.model_dump(exclude_none=True) if self.anatomy else None
        return super().to_dict() | {"placements": [asdict(item) for item in self.placements], "anatomy": anatomy}
