"""The `backbone` section: which CNN, with which weights, on which pixels."""

from typing import Annotated, Literal

from pydantic import Field

from stages.params import Section

_Size = Annotated[int, Field(ge=16, le=8192)]  # pixels a side; see lib/vision/backbones.py
_Positive = Annotated[float, Field(gt=0)]


class Fit(Section):
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: _Positive
    min_count: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


class Tune(Section):
    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]  # of one there is no spread to standardise by
    size: _Size | None
    learning_rate: _Positive
    min_count: Annotated[int, Field(ge=1)]
    precision: Literal["float32", "bfloat16"]
    seed: Annotated[int, Field(ge=0)]


class Params(Section):
    name: str
    weights: str
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] | None
    std: Annotated[list[_Positive], Field(min_length=3, max_length=3)] | None
    size: _Size | None
    fit: Fit
    tune: Tune
