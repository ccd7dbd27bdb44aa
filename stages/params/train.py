"""The `train` section: how the decoder is taught."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.params import Section

_Positive = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Rate = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Seed = Annotated[int, Field(ge=0)]
_WarmUp = Annotated[float, Field(ge=0, le=1)]
_Decay = Literal["cosine", "none"]


class SelfCritical(Section):
    epochs: Annotated[int, Field(ge=0)]
    batch_size: _Positive
    samples: _Positive
    baseline: Literal["greedy", "mean"]
    learning_rate: _Rate
    warm_up: _WarmUp
    decay: _Decay
    weight_decay: _NotNegative
    clip: _NotNegative
    averaging: _Share
    best_by: Literal["val_bleu_4", "val_cider_d"]
    patience: _Positive | None
    seed: _Seed

    @model_validator(mode="after")
    def _others(self) -> Self:
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("baseline mean is that of the other samples: samples must be 2 or more")
        return self


class Params(Section):
    epochs: _Positive
    batch_size: _Positive
    learning_rate: _Rate
    warm_up: _WarmUp
    decay: _Decay
    weight_decay: _NotNegative
    clip: _NotNegative
    label_smoothing: _Share
    averaging: _Share
    bucketing: bool
    by_image: bool
    precision: Literal["float32", "bfloat16"]
    best_by: Literal["val_loss", "val_bleu_4", "val_cider_d"]
    patience: _Positive | None
    seed: _Seed
    scst: SelfCritical
