"""The PEFT config that carries an adapter's placements. Knows no modules.

``adapter_config.json`` of an adapter folder is a :class:`RoutedConfig` in PEFT's own format.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from peft import PeftConfig
from peft.utils import PeftType

from lora_mm.adapters.placement import parse_placement

PEFT_TYPE = "ROUTED"


def _add_peft_type(name: str) -> PeftType:
    """A real member of PEFT's closed enumeration (it has no plug-in mechanism, and bare strings break transformers)."""
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
        placements: what to place where; dictionaries become :class:`Placement`.
        modules_to_save: module paths trained whole and saved with the adapter (the connector, say).
        exclude_modules, target_modules: PEFT's own fields, kept for its sake; placements say what is targeted.
    """

    placements: list[Any] = field(default_factory=list)
    modules_to_save: list[str] | None = None
    target_modules: Any = None
    exclude_modules: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = ROUTED
        self.placements = [parse_placement(item) for item in self.placements]

    def to_dict(self) -> dict[str, Any]:
        """As saved; placements become plain dictionaries."""
        return super().to_dict() | {"placements": [asdict(item) for item in self.placements]}
