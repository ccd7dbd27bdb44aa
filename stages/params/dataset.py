"""The `dataset` section: which images and captions."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.params.base import NotNegative, NotNegativeFloat, Positive, Section

_Share = Annotated[float, Field(gt=0, lt=0.5)]


class Mix(Section):
    one: NotNegativeFloat
    alike: NotNegativeFloat
    pair: NotNegativeFloat
    trio: NotNegativeFloat

    @model_validator(mode="after")
    def _some_above_zero(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("at least one weight must be above 0")
        return self


class Scenes(Section):
    seed: NotNegative
    train: Positive
    val: Positive
    test: Positive
    size: Annotated[int, Field(ge=32, le=1024)]
    mix: Mix


class Local(Section):
    images: str
    annotations: str
    val_share: _Share
    test_share: _Share
    split_seed: int


class DatasetParams(Section):
    name: Literal["scenes", "coco2014", "coco2017", "flickr8k", "local"]
    limit: Positive | None
    mirror: Annotated[str, Field(pattern=r"^https?://")] | None
    checksums: str | None
    scenes: Scenes
    local: Local
