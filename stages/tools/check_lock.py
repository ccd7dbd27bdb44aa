"""check_lock: is dvc.lock that of today's code and params? Told without the data, for CI: `make check-lock`.

Not a stage of the DAG. `dvc repro --dry --allow-missing` finds it out, but does not say it plainly: where a stage would
run it exits with 0 all the same, or, without that stage's data, with an error about these.
"""

import re
import subprocess
import sys

from lib.core.errors import UserError
from stages.common.entrypoint import run

_UP_TO_DATE = "Data and pipelines are up to date."
# Stages that would run, with their data there or without. At what comes after the latter DVC does not look.
_WOULD_RUN = re.compile(r"^Running stage '(\w+)'", re.MULTILINE)
_FAILED = re.compile(r"^ERROR: failed to reproduce\b.*", re.MULTILINE)


def main() -> None:
    words = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--keep-going"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0 and _UP_TO_DATE in done.stdout.splitlines():
        print("dvc.lock is up to date")
        return
    stages = outdated(done.stdout)
    if not stages:  # no dvc.lock that can be read, for example
        raise UserError(f"dvc repro --dry ended with {done.returncode} and said:\n{done.stdout.strip()}")
    raise UserError(f"dvc.lock is out of date at {', '.join(stages)}: run dvc repro and commit what it changes")


def outdated(said: str) -> list[str]:
    """The stages that `dvc repro --dry --allow-missing --keep-going` names as those that would run."""
    failed = [name for line in _FAILED.findall(said) for name in re.findall(r"'(\w+)'", line)]
    return [*_WOULD_RUN.findall(said), *failed]


if __name__ == "__main__":
    run(main)
