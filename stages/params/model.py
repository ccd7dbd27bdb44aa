"""The `model` section: the decoder's shape."""

from typing import Annotated, Literal

from pydantic import Field

from stages.params import Section

_Size = Annotated[int, Field(ge=1)]


class Params(Section):
    cell: Literal["lstm", "rnn"]
    implementation: Literal["scratch", "torch"]
    attention: Literal["none", "additive"]
    embedding: _Size
    hidden: _Size
    dropout: Annotated[float, Field(ge=0, lt=1)]
