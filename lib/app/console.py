"""What the console commands share: how they print to a terminal or a pipe."""

import io
import os
import sys
from collections.abc import Callable


def print_safely(run: Callable[[], int]) -> int:
    """Return the exit status of `run`, or 1 if the reader of its output has closed the pipe."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # the encoding of stdout may lack characters of a file name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return run()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        # Without this line, Python would raise the error again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
