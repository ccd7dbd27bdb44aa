"""The fixture `show`, which prints the results of the benchmarks."""

import pytest


@pytest.fixture
def show(capsys):
    """Return a function that prints a line although pytest captures the output."""

    def show(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end="")

    return show
