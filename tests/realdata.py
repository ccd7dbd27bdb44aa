"""Real photographs, captions and weights, if they are in a folder next to the project."""

from pathlib import Path

import pytest

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"
needs_realdata = pytest.mark.skipif(not REALDATA.exists(), reason=f"needs real data in {REALDATA}")
