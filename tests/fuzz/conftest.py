"""How many inputs each parser was tried on, at the end of the run."""

from tests.fuzz.wild import TRIED


def pytest_terminal_summary(terminalreporter):
    for parser, inputs in sorted(TRIED.items()):
        terminalreporter.write_line(f"{inputs:>9,} inputs tried: {parser}")
    if TRIED:
        terminalreporter.write_line(f"{TRIED.total():>9,} in all")
