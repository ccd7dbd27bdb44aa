"""Print the number of examples of each parser at the end of the run."""

from tests.fuzz.strategies import NUM_EXAMPLES


def pytest_terminal_summary(terminalreporter):
    for parser, count in sorted(NUM_EXAMPLES.items()):
        terminalreporter.write_line(f"{count:>9,} examples: {parser}")
    if NUM_EXAMPLES:
        terminalreporter.write_line(f"{NUM_EXAMPLES.total():>9,} in total")
