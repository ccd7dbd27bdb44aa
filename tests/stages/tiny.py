"""Run the stages on tiny data sets in this process, without DVC."""

import importlib
from pathlib import Path

import torch
import yaml

from lib.gradients import gradient_flow
from tests.stages.imports import ROOT

STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
TINY = {
    "dataset.scenes.train": 24, "dataset.scenes.val": 6, "dataset.scenes.test": 6, "dataset.scenes.size": 48,
    "vocabulary.min_count": 1, "backbone.fit.epochs": 1, "backbone.fit.batch_size": 8,
    "backbone.fit.min_count": 1, "train.epochs": 2, "train.batch_size": 16, "model.embedding": 16, "model.hidden": 16,
}  # fmt: skip


def write_params(folder: Path, **changes) -> None:
    """Write params.yaml with tiny values and `changes`. If a new value is `...`, remove the key."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in {**TINY, **changes}.items():
        section = content
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
        if value is ...:
            del section[last]
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def run(folder: Path, monkeypatch, stages=STAGES, **changes) -> Path:
    """Run stages in `folder` with the tiny params and `changes` to them."""
    (folder / "data/ensemble").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(gradient_flow, "_UPDATES", 1)
    write_params(folder, **changes)
    try:
        for stage in stages:
            importlib.import_module(f"stages.{stage}").main()
    finally:
        torch.use_deterministic_algorithms(False)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, except those of the scratch folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".scratch" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
