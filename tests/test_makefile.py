"""The Makefile: it passes arguments on, and sets up .venv first."""

import os
import re
import shutil
import sys

import pytest

from tests.commands import attempt, command
from tests.stages.imports import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make") or os.name != "posix", reason="needs make and a POSIX shell")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that is set up, whose commands print their arguments, one per line."""
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # set if `make test` runs these tests
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
def test_a_path_reaches_the_command_unchanged(project, path):
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


def test_caption_needs_an_image_and_provenance_needs_no_model(project):
    done = attempt(project, "make", "caption")
    assert done.returncode != 0
    assert "IMAGE=" in done.stderr
    assert command(project, "make", "provenance").splitlines() == ["-m", "stages.tools.provenance"]


def test_lock_sets_up_first(project):
    (project / ".venv/.ready").unlink()
    lines = command(project, "make", "-n", "lock").splitlines()
    (setup,) = (number for number, line in enumerate(lines) if "pip sync" in line)
    (lock,) = (number for number, line in enumerate(lines) if "pip compile" in line)
    assert setup < lock


def test_setup_rejects_an_old_python_in_one_line(project):
    (project / ".venv/.ready").unlink()
    old = project / "python3.10"
    fake = "import sys\nsys.version_info, sys.version = (3, 10, 0), '3.10.0 (old)'\nexec(sys.argv[2])\n"
    old.write_text(f"#!{sys.executable}\n{fake}")
    old.chmod(0o755)
    done = attempt(project, "make", "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert re.match(r"error: .*python3\.10 is Python 3\.10\.0, .*PYTHON=", done.stderr.splitlines()[0])


def test_every_target_is_described(project):
    for path in ("Makefile", "tests/developer.mk"):
        text = (project / path).read_text()
        comments = " ".join(line for line in text.splitlines() if line.startswith("# make"))
        for target in re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split():
            assert re.search(rf"\b{target}\b", comments), target
