"""The `generate` section: how captions are decoded."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.params.base import NotNegative, NotNegativeFloat, Positive, PositiveFloat, Section


class Sample(Section):
    temperature: PositiveFloat
    top_k: NotNegative
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: NotNegative


class Consensus(Section):
    neighbours: NotNegative
    weight: NotNegativeFloat


class GenerateParams(Section):
    ensemble: str
    method: Literal["beam", "sample"]
    beam_size: Positive
    max_length: Positive
    length_penalty: Annotated[float, Field(ge=0, le=10)]
    min_length: NotNegative
    no_repeat_ngram_size: NotNegative
    consensus: Consensus
    sample: Sample

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError("min_length must not be above max_length")
        return self
