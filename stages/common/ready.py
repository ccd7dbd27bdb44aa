"""Find out whether the features come from `features.source` or from a CNN."""

from pathlib import Path

from lib.core.errors import UserError
from stages.common.paths import READY_FEATURES
from stages.params import FeaturesParams


def ready_source(params: FeaturesParams) -> Path | None:
    """Return the file or folder of ready features. Return None if a CNN makes the features.

    A CNN makes them if `features.source` is the default folder and this folder is empty. The default is not null,
    because DVC needs an existing path as the dependency of a stage. Raises UserError if the source does not exist.
    """
    source = Path(params.source)
    if source == READY_FEATURES and all(file.name == ".gitignore" for file in source.glob("*")):
        return None
    if not source.exists():
        raise UserError(f"features.source={source} does not exist. Use a path relative to the project, or a full path.")
    return source
