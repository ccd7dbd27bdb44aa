"""The `features` section: how the CNN is run over the images."""

from typing import Annotated, Literal

from pydantic import Field

from stages.params import Section


class Params(Section):
    kind: Literal["pooled", "grid"]
    precision: Literal["float32", "bfloat16"]
    components: Annotated[int, Field(ge=1)] | None
    batch_size: Annotated[int, Field(ge=1)]
    max_skipped: Annotated[float, Field(ge=0, le=1)]
