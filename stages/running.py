"""How a stage is started: outputs made afresh, errors told in one line, an interrupted stage never taken for done."""

import sys
from collections.abc import Callable
from pathlib import Path

from lib.errors import UserError

RAW, CAPTIONS, BACKBONE, FEATURES = (Path("data") / name for name in ("raw", "captions", "backbone", "features"))
MODEL, METRICS = Path("data/model"), Path("metrics")


def run(stage: Callable[[], None]) -> None:
    """Runs a stage; on an error of the user's, or Ctrl-C, says so in one line and exits with 1 or 130."""
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # DVC takes a stage that exits 0 after Ctrl-C for finished
        print("interrupted", file=sys.stderr)
        sys.exit(130)
