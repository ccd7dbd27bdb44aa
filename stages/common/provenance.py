"""A note of when, where and with what the model in the workspace was trained. No stage reads it."""

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

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "dvc")


def note_run(model: Path) -> None:
    """Write the note for the model in the folder `model`, but outside it: the same params give the same model bytes."""
    command = ["git", "describe", "--always", "--dirty"]
    # A downloaded zip has no .git, and may be unpacked inside another repository.
    done = subprocess.run(command, capture_output=True, text=True, check=False) if Path(".git").exists() else None
    kind, versions = device(), {package.name.lower(): package.version for package in distributions()}
    note = {
        "model": fingerprint(weights_path(model)),  # because DVC may later put another model in the same folder
        "commit": (done and done.stdout.strip()) or None,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "packages": {name: versions.get(name) for name in _PACKAGES},  # a stage also runs without dvc
        "machine": f"{platform.platform()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type,
    }
    PROVENANCE.parent.mkdir(parents=True, exist_ok=True)
    PROVENANCE.write_text(json.dumps(note, indent=2) + "\n")
