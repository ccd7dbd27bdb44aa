"""The folder of DVC's cache."""

import subprocess
import sys
from pathlib import Path


def dvc_cache() -> Path | None:
    """Return the folder of DVC's cache, or None outside a DVC project."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None
