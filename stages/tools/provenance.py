"""Print what made a model: its params and inputs, and when, where and with what: `make provenance`."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from lib.core.errors import UserError, readable_errors
from lib.core.workdir import fingerprint
from lib.model.saved import provenance_path, weights_path
from stages.common.entrypoint import run
from stages.common.paths import MODEL, PROVENANCE


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    if not provenance_path(folder).exists():
        raise UserError(f"{provenance_path(folder)} is missing: run make repro, or name the folder of another model")
    provenance = _read(provenance_path(folder))
    note = _read(PROVENANCE) if PROVENANCE.exists() else {}
    if weights_path(folder).exists() and note.pop("model", None) == fingerprint(weights_path(folder)):
        lock = yaml.safe_load(Path("dvc.lock").read_text("utf-8")) if Path("dvc.lock").exists() else {"stages": {}}
        deps = lock["stages"].get("finetune", {}).get("deps", [])
        inputs = {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith("data/")}
        provenance |= {"inputs": inputs, "made": note}
    else:
        provenance["made"] = "elsewhere or earlier: this project only has a note about the last model trained in it"
    print(yaml.safe_dump(provenance, sort_keys=False, allow_unicode=True), end="")


def _read(path: Path) -> dict[str, Any]:
    with readable_errors(path):
        return dict(json.loads(path.read_text("utf-8")))


if __name__ == "__main__":
    run(main)
