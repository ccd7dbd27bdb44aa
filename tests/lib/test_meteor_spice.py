"""METEOR and SPICE, if Java is installed, and the errors if something is missing."""

import shutil
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pycocoevalcap
import pytest

from lib.core.errors import UserError
from lib.evaluation.meteor_spice import meteor, spice

PARSER = Path(pycocoevalcap.__path__[0]) / "spice/lib/stanford-corenlp-3.6.0-models.jar"
REFERENCES = {7: [["a", "dog", "runs", "on", "the", "grass"]], 3: [["a", "cat"], ["a", "big", "cat", "sleeps"]]}

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")


@needs_java
def test_meteor_scores_each_caption_against_its_own_image():
    perfect = meteor(REFERENCES, {3: REFERENCES[3][1], 7: REFERENCES[7][0]})
    assert perfect == pytest.approx(1)
    # METEOR compares stems, so "running" matches "runs".
    assert meteor(REFERENCES, {3: ["a", "cat"], 7: ["a", "dog", "running", "on", "the", "grass"]}) > 0.5
    assert meteor(REFERENCES, {3: [], 7: ["big", "cat"]}) == 0


@needs_java
@pytest.mark.skipif(not PARSER.exists(), reason="run `python -m stages.tools.meteor_spice` to fetch SPICE's parser")
def test_spice_scores_what_the_captions_say():
    assert spice(REFERENCES, {3: REFERENCES[3][1], 7: REFERENCES[7][0]}) == pytest.approx(1)
    assert spice(REFERENCES, {3: ["a", "tree"], 7: ["the", "red", "car"]}) == 0


@pytest.mark.parametrize("score", [meteor, spice])
def test_without_java_the_error_says_so(score, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="Java"):
        score(REFERENCES, {})


def test_without_its_parser_spice_names_the_host(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "java")
    unreachable = Mock(side_effect=URLError("no such host"))
    monkeypatch.setattr("pycocoevalcap.spice.spice.get_stanford_models", unreachable)
    with pytest.raises(UserError, match=r"no such host.*nlp\.stanford\.edu"):
        spice(REFERENCES, {})
