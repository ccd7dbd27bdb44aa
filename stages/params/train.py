"""The `train` section: how the decoder is trained by cross-entropy."""

from typing import Literal

from stages.params.base import (
    Fraction,
    FractionBelowOne,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Precision,
    Section,
)


class OptimiserParams(Section):
    """What `train` and `finetune` share."""

    batch_size: Positive
    learning_rate: PositiveFloat
    warmup_fraction: Fraction
    decay: Literal["cosine", "none"]
    weight_decay: NotNegativeFloat
    max_grad_norm: NotNegativeFloat
    ema_decay: FractionBelowOne
    patience: Positive | None
    seed: NotNegative


class TrainParams(OptimiserParams):
    epochs: Positive
    label_smoothing: FractionBelowOne
    bucket_by_length: bool
    by_image: bool
    precision: Precision
    monitor: Literal["val_loss", "val_bleu_4", "val_cider_d"]
