"""Commands as a user types them, in a folder."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's, with the virtual environment first on the path."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def attempt(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command."""
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def command(folder: Path, *words: str) -> str:
    """Runs a command that must succeed; returns what it printed."""
    done = attempt(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def commit(folder: Path, message: str) -> None:
    """Commits all that Git does not ignore."""
    command(folder, "git", "add", "-A")
    command(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it runs, in order."""
    return re.findall(r"Running stage '(\w+)'", output)


def outputs(folder: Path) -> dict[str, bytes]:
    """What DVC keeps of a project, by path: the outputs of all stages but those that Git keeps."""
    names = command(folder, "dvc", "list", "--recursive", "--dvc-only", ".").split()
    return {name: (folder / name).read_bytes() for name in names}
