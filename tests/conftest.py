"""Run the pipeline once on a tiny data set, for all tests that use DVC."""

import os
import signal
import subprocess

import pytest
from hypothesis import settings

from tests.commands import command, commit
from tests.stages.imports import ROOT
from tests.stages.tiny import write_params

# Unset variables that the user may have set for other runs.
for name in ("CAPTION_SCRATCH", "CAPTION_PROCESSES", "RAY_ADDRESS"):
    os.environ.pop(name, None)

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts background processes with SIGINT ignored. The processes that tests start would inherit this setting.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    """Return a clone with the working tree's files and tiny params, committed after one run of the whole DAG."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a Git clone of the project")
    folder = tmp_path_factory.mktemp("finished") / "project"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
        elif name:
            (folder / name).unlink(missing_ok=True)
    write_params(folder)
    commit(folder, "tiny")
    command(folder, "dvc", "repro")
    commit(folder, "run")
    return folder


@pytest.fixture(scope="module")
def clone(_finished, tmp_path_factory):
    """Return a copy of the finished project with its hard links. The tests of one module may change it."""
    folder = tmp_path_factory.mktemp("clone")
    command(folder, "cp", "-a", str(_finished), ".")
    return folder / "project"
