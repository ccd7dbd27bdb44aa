"""The `features` section: how the CNN runs over the images."""

from typing import Literal

from stages.params.base import Fraction, Positive, Precision, Section


class FeaturesParams(Section):
    kind: Literal["pooled", "grid"]
    precision: Precision
    pca_components: Positive | None
    batch_size: Positive
    max_skipped: Fraction
