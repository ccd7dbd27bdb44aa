"""Whether the features come from `features.source` or from a CNN."""

from pathlib import Path

from stages.common.paths import READY_FEATURES
from stages.params import FeaturesParams


def ready_source(params: FeaturesParams) -> Path | None:
    """Return the file or folder of ready features, or None if a CNN makes them, because the default folder is empty.

    DVC needs a path that exists for what a stage depends on, so the default is an empty folder and not null.
    """
    source = Path(params.source)
    if source == READY_FEATURES and all(file.name == ".gitignore" for file in source.glob("*")):
        return None
    return source
