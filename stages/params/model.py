"""The `model` section: the shape of the decoder."""

from typing import Literal

from stages.params.base import FractionBelowOne, Positive, Section


class ModelParams(Section):
    cell: Literal["lstm", "rnn"]
    implementation: Literal["scratch", "torch"]
    attention: Literal["none", "additive"]
    embedding: Positive
    hidden: Positive
    dropout: FractionBelowOne
