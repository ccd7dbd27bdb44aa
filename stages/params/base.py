"""The base class of a section of params.yaml, and the ranges that several sections use."""

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """A section of params.yaml: frozen, without defaults. Unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, str_min_length=1)

    @field_validator("*")
    @classmethod
    def _fits_seed_or_path(cls, value: Any) -> Any:
        """Reject values that YAML can express but that no seed or path can have."""
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("should be a whole number of 64 bits")
        if isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value):
            raise ValueError("should have no control characters")
        return value
