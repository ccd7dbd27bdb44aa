"""The `backbone` section: which CNN, with which weights, on which pixels."""

from typing import Annotated

from pydantic import Field

from stages.params.base import NotNegative, Positive, PositiveFloat, Precision, Section

_Size = Annotated[int, Field(ge=16, le=8192)]  # pixels per side; see lib/vision/backbones.py


class Fit(Section):
    epochs: Positive
    batch_size: Positive
    learning_rate: PositiveFloat
    min_count: Positive
    seed: NotNegative


class Tune(Section):
    epochs: NotNegative
    batch_size: Annotated[int, Field(ge=2)]  # the head standardises each batch, so one image is not enough
    size: _Size | None
    learning_rate: PositiveFloat
    min_count: Positive
    precision: Precision
    seed: NotNegative


class BackboneParams(Section):
    name: str
    weights: str
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] | None
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] | None
    size: _Size | None
    fit: Fit
    tune: Tune
