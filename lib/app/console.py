"""End a console command quietly if the reader of its output has closed the pipe."""

import os
import sys
from collections.abc import Callable


def print_safely(run: Callable[[], int]) -> int:
    """Return the exit status of `run`, or 1 if the reader of its output has closed the pipe."""
    try:
        return run()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        # Without this line, Python would raise the error again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
