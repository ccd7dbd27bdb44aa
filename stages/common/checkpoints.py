"""Scratch folders for interrupted work. The name of a folder is a fingerprint of everything that the work depends on.

The fingerprint includes the code: the files and folders that dvc.yaml lists as deps of the stage. So DVC and the
checkpoints agree on whether the code has changed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import yaml

from lib.core.workdir import fingerprint, locked
from lib.runtime.device import device
from lib.runtime.distributed import barrier, is_main_process
from stages.common.paths import SCRATCH

_PROJECT = Path(__file__).resolve().parents[2]


def stage_code(stage: str) -> list[Path]:
    """Return the code files that `stage` depends on according to dvc.yaml, sorted."""
    deps = yaml.safe_load((_PROJECT / "dvc.yaml").read_text("utf-8"))["stages"][stage]["deps"]
    paths = [_PROJECT / dep for dep in deps if dep.startswith(("lib/", "stages/"))]
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))


@contextmanager
def work_folder(stage: str, *inputs: object) -> Iterator[Path]:
    """Yield the scratch folder of a stage for these `inputs`, which are arguments of `lib.core.workdir.fingerprint`.

    The number of threads and processes is not an input, so a run may resume with more or fewer of them. If a second
    process starts the same work, it waits until the first process leaves the folder. Then it finds the finished work.
    """
    machine = [device().type, torch.__version__]
    folder = SCRATCH / stage / fingerprint(*inputs, machine, *stage_code(stage))
    with locked(folder) if is_main_process() else nullcontext():  # only the main process writes
        barrier()
        yield folder
