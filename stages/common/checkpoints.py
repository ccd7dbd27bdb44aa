"""Scratch folders of interrupted work. The name of each is a fingerprint of all that the work depends on.

The code counts too. dvc.yaml lists the rooms of lib/ that a stage depends on; the fingerprint covers the same files, so
DVC and the checkpoints agree on whether the code has changed.
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
    """Return the code files that `stage` depends on by dvc.yaml, sorted."""
    deps = yaml.safe_load((_PROJECT / "dvc.yaml").read_text("utf-8"))["stages"][stage]["deps"]
    paths = [_PROJECT / dep for dep in deps if dep.startswith(("lib/", "stages/"))]
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))


@contextmanager
def work_folder(stage: str, *inputs: object) -> Iterator[Path]:
    """Yield the scratch folder of a stage for these `inputs`; see `lib.core.workdir.fingerprint` for what they may be.

    The number of threads and processes does not count: a run may resume with more or fewer. A second run of the same
    work waits until the first one leaves the folder, and then finds it finished.
    """
    machine = [device().type, torch.__version__]
    folder = SCRATCH / stage / fingerprint(*inputs, machine, *stage_code(stage))
    with locked(folder) if is_main_process() else nullcontext():  # of several processes the main one writes
        barrier()
        yield folder
