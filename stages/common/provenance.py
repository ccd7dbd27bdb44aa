"""Record when, where and with which versions the model in the workspace was trained. No stage reads the record."""

import json
import os
import platform
import subprocess
import time
from importlib.metadata import distributions
from pathlib import Path

import torch

from lib.core.workdir import fingerprint
from lib.model.saved import weights_path
from lib.runtime.device import device
from stages.common.paths import PROVENANCE

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "dvc")


def note_run(model: Path) -> None:
    """Write the record of the model in the folder `model`.

    The record is not in this folder, because the same params must give the same bytes in the folder.
    """
    command = ["git", "describe", "--always", "--dirty"]
    # Check for .git here, because a project from a zip has none, and Git would find the repository of a parent folder.
    done = subprocess.run(command, capture_output=True, text=True, check=False) if Path(".git").exists() else None
    kind, versions = device(), {package.name.lower(): package.version for package in distributions()}
    note = {
        "model": fingerprint(weights_path(model)),  # identifies the model, because DVC may check out another one later
        "commit": (done and done.stdout.strip()) or None,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "packages": {name: versions.get(name) for name in _PACKAGES},  # None: not installed
        "machine": f"{platform.platform()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type,
    }
    PROVENANCE.parent.mkdir(parents=True, exist_ok=True)
    PROVENANCE.write_text(json.dumps(note, indent=2) + "\n")
