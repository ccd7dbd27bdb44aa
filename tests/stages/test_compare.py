"""What `make compare` refuses; that it compares, tests/test_dvc.py shows."""

import subprocess

import pytest

from lib.core.errors import UserError
from stages.common.entrypoint import run
from stages.tools import compare


def test_an_unknown_comparison_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare", "cells"])
    with pytest.raises(SystemExit, match=r"^error: WHAT=cells: should be cell, implementation or features$"):
        run(compare.main)


@pytest.fixture
def commit(tmp_path, monkeypatch):
    """Commits files to a repository in the current folder; returns the commit."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)

    def write_and_commit(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        subprocess.run(["git", "add", "-A"], check=True)
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "t"], check=True)
        return compare._git("rev-parse", "HEAD")

    return write_and_commit


def test_runs_that_differ_in_what_is_compared_and_in_results_alone_are_comparable(commit):
    first = commit(params_yaml="model: {cell: rnn, hidden: 8}", metrics__scores_json="1", lib__cell_py="1")
    second = commit(params_yaml="model: {cell: lstm, hidden: 8}", metrics__scores_json="2", dvc_lock="2")
    compare._check_all_else_is_equal([first, second], {"model.cell"})


def test_a_change_of_code_or_params_between_the_runs_is_told(commit):
    first = commit(params_yaml="model: {cell: rnn, hidden: 8}", lib__cell_py="1")
    second = commit(params_yaml="model: {cell: lstm, hidden: 9}", lib__cell_py="2")
    with pytest.raises(UserError, match=r"^lib/cell\.py, model\.hidden changed between the two runs"):
        compare._check_all_else_is_equal([first, second], {"model.cell"})


def test_outside_a_git_repository_git_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", "cell"])
    with pytest.raises(SystemExit, match=r"^error: git ls-files: fatal: not a git repository"):
        run(compare.main)
