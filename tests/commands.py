"""Run commands in a folder, as a user does."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """Return the environment of this process, with the virtual environment first on the path."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def attempt(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def command(folder: Path, *words: str) -> str:
    """Run a command that must succeed; return what it printed."""
    done = attempt(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def commit(folder: Path, message: str) -> None:
    """Commit everything that Git does not ignore."""
    command(folder, "git", "add", "-A")
    command(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


def stages_run(output: str) -> list[str]:
    """Return the stages that DVC reports as run, in order."""
    return re.findall(r"Running stage '(\w+)'", output)


def outputs(folder: Path) -> dict[str, bytes]:
    """Return path -> content of all outputs that DVC, not Git, tracks."""
    names = command(folder, "dvc", "list", "--recursive", "--dvc-only", ".").split()
    return {name: (folder / name).read_bytes() for name in names}
