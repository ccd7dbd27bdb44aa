"""How a stage is started: errors told in one line, an interrupted stage never taken for done; and where things are."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from lib.core.errors import UserError

RAW, CAPTIONS, BACKBONE, FEATURES = (Path("data") / name for name in ("raw", "captions", "backbone", "features"))
DECODER, MODEL, METRICS = Path("data/decoder"), Path("data/model"), Path("metrics")
# What an interrupted stage goes on from. DVC removes a stage's outputs before it runs it, and leaves this alone.
SCRATCH = Path(os.environ.get("CAPTION_SCRATCH") or ".scratch")
DOWNLOADS = SCRATCH / "downloads"


def dvc_cache() -> Path | None:
    """The folder of DVC's cache; None outside a DVC project."""
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False
    )  # fmt: skip
    return Path(asked.stdout.strip()) if asked.returncode == 0 else None


def run(stage: Callable[[], None]) -> None:
    """Runs a stage; on an error of the user's or the disk's, or Ctrl-C, says so in one line and exits with 1 or 130."""
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except (OSError, SafetensorError) as error:  # a full disk, a file that may not be read
        sys.exit(f"error: {_disk_error(error)}")
    except KeyboardInterrupt:  # DVC takes a stage that exits 0 after Ctrl-C for finished
        print("interrupted", file=sys.stderr)
        sys.exit(130)


# A full disk, as Python and pyarrow, safetensors and NumPy each tell of it: not all of them give an errno.
_FULL = re.compile(rf"(?i)\b(errno|os error) ({errno.ENOSPC}|{errno.EDQUOT})\b|requested and \d+ written")


def _disk_error(error: OSError | SafetensorError) -> str:
    if _FULL.search(str(error)):
        folders = [folder.resolve() for folder in (Path(), SCRATCH) if folder.exists()]
        fullest = min(folders, key=lambda folder: shutil.disk_usage(folder).free)
        return f"the disk of {fullest} is full: make room and run again: what is done is kept"
    return f"{getattr(error, 'filename', None) or 'input or output'}: {getattr(error, 'strerror', None) or error}"
