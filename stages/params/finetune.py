"""The `finetune` section: self-critical training."""

from typing import Literal, Self

from pydantic import model_validator

from stages.params.base import NotNegative, Positive
from stages.params.train import OptimiserParams


class FinetuneParams(OptimiserParams):
    epochs: NotNegative
    samples: Positive
    baseline: Literal["greedy", "mean"]
    monitor: Literal["val_bleu_4", "val_cider_d"]

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("baseline mean compares a sample with the others: samples must be 2 or more")
        return self
