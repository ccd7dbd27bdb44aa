"""Print how a model was trained, with params, inputs, commit, versions, machine and time: `make provenance`."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from lib.core.errors import readable_errors
from lib.core.workdir import fingerprint
from lib.model.saved import provenance_path, weights_path
from stages.common.entrypoint import run
from stages.common.paths import MODEL, PROVENANCE, user_path


def main() -> None:
    folder = user_path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    provenance, note = _read(provenance_path(folder)), _read(PROVENANCE) if PROVENANCE.exists() else {}
    weights, lock = weights_path(folder), Path("dvc.lock")
    if weights.exists() and note.pop("model", None) == fingerprint(weights):
        stages = yaml.safe_load(lock.read_text("utf-8"))["stages"] if lock.exists() else {}
        deps = stages.get("finetune", {}).get("deps", [])
        provenance["inputs"] = {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith("data/")}
        provenance["made"] = note
    else:
        provenance["made"] = "unknown, because the model was trained elsewhere or a later training replaced the record"
    print(yaml.safe_dump(provenance, sort_keys=False, allow_unicode=True), end="")


def _read(path: Path) -> dict[str, Any]:
    with readable_errors(path):
        return dict(json.loads(path.read_text("utf-8")))


if __name__ == "__main__":
    run(main)
