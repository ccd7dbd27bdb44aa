"""The `generate` section: how captions are written."""

from typing import Annotated

from pydantic import Field

from stages.params import Section


class Params(Section):
    beam_size: Annotated[int, Field(ge=1)]
    max_length: Annotated[int, Field(ge=1)]
    length_penalty: Annotated[float, Field(ge=0)]
