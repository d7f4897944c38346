"""The base class of the sections of recipes and descriptions. Knows no keys."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from lora_mm.validation import refuse_booleans


class Section(BaseModel):
    """Part of a recipe. Unknown keys are faults, and defaults are validated like values.

    Numbers are finite, within a lower and an upper bound, and never true or false.

    A section's docstring describes its keys under ``Attributes:``; the JSON schema takes the descriptions from there.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, info.field_name, value)
