"""The `vocabulary` section: which words are kept."""

from typing import Annotated

from pydantic import Field

from stages.params import Section


class Params(Section):
    min_count: Annotated[int, Field(ge=1)]
    max_length: Annotated[int, Field(ge=1)]
