"""The Makefile passes arguments unchanged, and sets up .venv first."""

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
    """Return a project after setup. Its commands print their arguments, one per line."""
    for name in ("MAKEFLAGS", "MAKELEVEL"):  # set if `make test` runs these tests
        monkeypatch.delenv(name, raising=False)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    for name in ("Makefile", "tests/developer.mk"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("caption", "dvc", "python"):
        (programs / name).write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
        (programs / name).chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock", ".venv/.ready"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("path", ["a photo.jpg", "Grandma's photo.jpg", 'the "best"; one.jpg', "a\\b `c`.jpg"])
def test_a_path_reaches_the_command_unchanged(project, path):
    assert command(project, "make", "-s", "caption", f"IMAGE={path}", "SET=--top 2") == f"{path}\n--top\n2\n"
    assert command(project, "make", "provenance", f"MODEL={path}") == f"-m\nstages.tools.provenance\n{path}\n"
    assert command(project, "make", "check-exercises", f"FILE={path}") == f"-m\ndocs.exercises.check\n{path}\n"


def test_set_keeps_quotes_and_expands_the_home_folder(project, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (project / ".git").mkdir()
    given = "-S dataset.checksums=~/md5.txt -S \"dataset.local.images='/my photos (1), [2]'\""
    expected = ["-S", "dataset.checksums=/home/me/md5.txt", "-S", "dataset.local.images='/my photos (1), [2]'"]
    assert command(project, "make", "-s", "local", f"SET={given}").splitlines()[-4:] == expected


@pytest.mark.parametrize("recipe", ["my recipes/it's.yaml", None])
def test_a_data_set_runs_with_the_recipe(project, recipe):
    (project / ".git").mkdir()
    given = [f"RECIPE={recipe}"] if recipe else []
    for name, usual in {"coco2014": "coco_fast", "coco2017": "coco_fast", "flickr8k": "few", "local": "few"}.items():
        expected = ["-m", "stages.tools.experiment", recipe or f"recipes/{usual}.yaml", "-S", f"dataset.name={name}"]
        assert command(project, "make", "-s", name, *given).splitlines()[-5:] == expected
    expected = ["-m", "stages.tools.compare", "cell", *(["--recipe", recipe] if recipe else []), "--temp"]
    assert command(project, "make", "-s", "compare", "SET=--temp", *given).splitlines()[-len(expected) :] == expected


def test_caption_needs_an_image_and_provenance_needs_no_model(project):
    done = attempt(project, "make", "caption")
    assert done.returncode != 0
    assert "IMAGE=" in done.stderr
    assert command(project, "make", "provenance") == "-m\nstages.tools.provenance\n"


def test_tour_needs_a_trained_model(project):
    done = attempt(project, "make", "tour")
    assert done.returncode != 0
    assert "make repro" in done.stderr.splitlines()[0]


def test_lock_sets_up_first(project):
    (project / ".venv/.ready").unlink()
    lines = command(project, "make", "-n", "lock").splitlines()
    steps = [step for line in lines for step in ("pip sync", "pip compile") if step in line]
    assert steps == ["pip sync", "pip compile"]


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
