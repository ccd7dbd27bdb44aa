"""The `generate` section: how captions are written."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.params import Section

_Length = Annotated[int, Field(ge=1)]
_Count = Annotated[int, Field(ge=0)]


class Sample(Section):
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    top_k: _Count
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: _Count


class Consensus(Section):
    neighbours: _Count
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Params(Section):
    ensemble: str
    method: Literal["beam", "sample"]
    beam_size: _Length
    max_length: _Length
    length_penalty: Annotated[float, Field(ge=0, le=10)]
    min_length: _Count
    no_repeat: _Count
    consensus: Consensus
    sample: Sample

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError("min_length must not be above max_length")
        return self
