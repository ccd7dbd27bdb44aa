"""The `dataset` section: which images and captions."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.params import Section

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(gt=0, lt=0.5)]
_Weight = Annotated[float, Field(ge=0)]


class Mix(Section):
    one: _Weight
    alike: _Weight
    pair: _Weight
    trio: _Weight

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("at least one weight must be above 0")
        return self


class Scenes(Section):
    seed: Annotated[int, Field(ge=0)]
    train: _Count
    val: _Count
    test: _Count
    size: Annotated[int, Field(ge=32, le=1024)]
    mix: Mix


class Local(Section):
    images: str
    annotations: str
    val_share: _Share
    test_share: _Share
    split_seed: int


class Params(Section):
    name: Literal["scenes", "coco2014", "coco2017", "flickr8k", "local"]
    limit: _Count | None
    mirror: Annotated[str, Field(pattern=r"^https?://")] | None
    checksums: str | None
    scenes: Scenes
    local: Local
