"""The Makefile's own part: what it passes on, and what it sets up first."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.commands import attempt, command
from tests.stages.imports import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make") or os.name != "posix", reason="needs make and a POSIX shell")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that is set up, with commands that print their arguments, a line each."""
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # `make test` started these tests, and the make in them is none of its own
        monkeypatch.delenv(name, raising=False)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/developer.mk", tmp_path / "tests")
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("caption", "python"):
        (programs / name).write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
        (programs / name).chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock", ".venv/.ready"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("path", ["a photo.jpg", "Grandma's photo.jpg", 'the "best"; one.jpg', "a\\b `c`.jpg"])
def test_a_path_reaches_the_command_as_it_is(project, path):
    assert command(project, "make", "-s", "caption", f"IMAGE={path}", "SET=--top 2").splitlines() == [
        path,
        "--top",
        "2",
    ]
    assert command(project, "make", "provenance", f"MODEL={path}").splitlines() == [
        "-m",
        "stages.tools.provenance",
        path,
    ]


def test_without_a_picture_one_is_asked_for_and_without_a_model_none_is_named(project):
    done = attempt(project, "make", "caption")
    assert done.returncode != 0
    assert "which picture? make caption IMAGE=photo.jpg" in done.stderr
    assert command(project, "make", "provenance").splitlines() == ["-m", "stages.tools.provenance"]


def test_the_lock_is_renewed_by_what_is_set_up_first(project):
    Path(project, ".venv/.ready").unlink()
    said = command(project, "make", "-n", "lock").splitlines()
    (setting_up,) = (number for number, line in enumerate(said) if "pip sync" in line)
    (renewing,) = (number for number, line in enumerate(said) if "pip compile" in line)
    assert setting_up < renewing
