"""METEOR, where there is Java to run it, and what is said where there is none."""

import shutil

import pytest

from lib.errors import UserError
from lib.scoring.meteor import meteor

REFERENCES = {7: [["a", "dog", "runs", "on", "the", "grass"]], 3: [["a", "cat"], ["a", "big", "cat", "sleeps"]]}


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_each_caption_is_scored_against_its_own_image():
    perfect = meteor(REFERENCES, {3: REFERENCES[3][1], 7: REFERENCES[7][0]})
    assert perfect == pytest.approx(1)
    # "running" counts as "runs", which no other score here knows.
    assert meteor(REFERENCES, {3: ["a", "cat"], 7: ["a", "dog", "running", "on", "the", "grass"]}) > 0.5
    assert meteor(REFERENCES, {3: [], 7: ["big", "cat"]}) == 0


def test_without_java_it_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="METEOR needs Java"):
        meteor(REFERENCES, {})
