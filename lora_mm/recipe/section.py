"""The base class of all recipe sections. Knows no keys."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Part of a recipe. Unknown keys are faults, and defaults are validated like values.

    A section's docstring describes its keys under ``Attributes:``; the JSON schema takes the descriptions from there.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)
