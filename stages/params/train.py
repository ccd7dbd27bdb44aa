"""The `train` section: how the decoder is taught."""

from typing import Annotated, Literal

from pydantic import Field

from stages.params import Section


class Params(Section):
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    warm_up: Annotated[float, Field(ge=0, le=1)]
    decay: Literal["cosine", "none"]
    weight_decay: Annotated[float, Field(ge=0)]
    clip: Annotated[float, Field(ge=0)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    averaging: Annotated[float, Field(ge=0, lt=1)]
    bucketing: bool
    by_image: bool
    precision: Literal["float32", "bfloat16"]
    best_by: Literal["val_loss", "val_bleu_4", "val_cider_d"]
    patience: Annotated[int, Field(ge=1)] | None
    seed: Annotated[int, Field(ge=0)]
