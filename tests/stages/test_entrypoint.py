"""A stage prints captions in any script, even if the terminal cannot show them."""

import io
import sys

from stages.common.entrypoint import run


def test_a_caption_that_stdout_cannot_encode_does_not_stop_the_stage(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", stdout)
    run(lambda: print("ein Hündchen"))
    stdout.flush()
    assert stdout.buffer.getvalue() == b"ein H\\xfcndchen\n"
