"""Fixtures that several test modules share."""

from collections.abc import Callable

import pytest

from tests.lib.tiny import write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return the model folder for each kind of attention. Tests must not write to these folders."""
    folder = tmp_path_factory.mktemp("models")
    return {attention: write_model(folder / attention, attention) for attention in ("additive", "none")}


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Return a function that runs a command's main: (exit code or error message, stdout, stderr)."""

    def run_main(main: Callable[[], int], *words: object) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr("sys.argv", list(map(str, words)))
        try:
            code: int | str | None = main()
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return run_main
