"""Whether the features come from `features.source` or from a CNN."""

from pathlib import Path

from lib.core.errors import UserError
from stages.common.paths import READY_FEATURES
from stages.params import FeaturesParams


def ready_source(params: FeaturesParams) -> Path | None:
    """Return the file or folder of ready features, or None if a CNN makes them, because the default folder is empty.

    Raises UserError if it does not exist. The default is an empty folder and not null, because DVC needs a path that
    exists for what a stage depends on.
    """
    source = Path(params.source)
    if source == READY_FEATURES and all(file.name == ".gitignore" for file in source.glob("*")):
        return None
    if not source.exists():
        raise UserError(f"features.source={source} does not exist; use a path relative to the project, or a full one")
    return source
