"""provenance: what made a model: its params and inputs, and where, when and with what: `make provenance`."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from lib.core.errors import UserError, intact
from lib.core.workdir import fingerprint
from lib.model.card import provenance_path
from lib.model.saved import weights_path
from lib.runtime.device import device
from stages.common.entrypoint import MODEL, run

_LOCK = Path("dvc.lock")
# Beside the model and not in it: DVC hashes what is in it, and the same params would not give the same bytes.
_MADE = Path("data/made.json")
_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "dvc")


def md5s(paths: list[Path]) -> dict[str, str]:
    """The md5 of each of these outputs of earlier stages, as DVC noted it; of none where DVC does not run this."""
    stages = yaml.safe_load(_LOCK.read_text("utf-8"))["stages"] if _LOCK.exists() else {}
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    return {path.as_posix(): outs[path.as_posix()] for path in paths if path.as_posix() in outs}


def note_run() -> None:
    """Notes where, when and with what the model in the workspace was made. Nothing hashes or reads it but people.

    DVC may put another model in its place, from its cache or a remote: which one it was is noted too.
    """
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    kind, threads = device(), torch.get_num_threads()
    made = {
        "model": fingerprint(weights_path(MODEL)),
        "commit": git.stdout.strip() or None,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {threads} threads",
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type,
    }
    _MADE.write_text(json.dumps(made, indent=2) + "\n")


def _version(package: str) -> str | None:
    """None where it is not installed: a stage runs without dvc, too."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    if not provenance_path(folder).exists():
        raise UserError(f"{provenance_path(folder)}: not there: run make repro, or name another model's folder")
    told, made = _read(provenance_path(folder)), _read(_MADE) if _MADE.exists() else {}
    if weights_path(folder).exists() and made.pop("model", None) == fingerprint(weights_path(folder)):
        told["made"] = made
    else:
        told["made"] = "elsewhere, or earlier: what is known here is of the last model that was made here"
    print(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), end="")


def _read(path: Path) -> dict[str, Any]:
    with intact(path):
        return dict(json.loads(path.read_text("utf-8")))


if __name__ == "__main__":
    run(main)
