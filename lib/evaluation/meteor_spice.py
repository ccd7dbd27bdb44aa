"""METEOR and SPICE, the scores of coco-caption that need Java, by their authors' programs as coco-caption runs them.

METEOR (Denkowski and Lavie 2014) also matches stems and synonyms; its program comes with pycocoevalcap.
SPICE (Anderson et al. 2016) compares objects, attributes and relations. At first use, pycocoevalcap downloads its
parser, 385 MB, from nlp.stanford.edu.
"""

import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib import import_module

from lib.core.errors import UserError

_TIMEOUT = 30.0  # seconds without an answer from nlp.stanford.edu

Tokens = Sequence[str]


def meteor(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    """Return corpus METEOR, 0 to 1. Both arguments are keyed by image id, with tokens as in `lib.text.tokenizer`.

    Raises UserError without Java or pycocoevalcap.
    """
    return _score("Meteor", references, hypotheses)


def spice(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    """Return SPICE, the mean F-score over images, 0 to 1. Arguments as for `meteor`.

    Raises UserError without Java or pycocoevalcap, or if the parser cannot be downloaded or fails.
    """
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # pycocoevalcap sets none
    try:
        return _score("Spice", references, hypotheses)
    except subprocess.CalledProcessError as error:
        raise UserError(f"SPICE failed, see the output above: {error}; it was written for Java 8") from error
    except OSError as error:
        raise UserError(f"SPICE needs a parser that cannot be fetched from nlp.stanford.edu: {error}") from error
    finally:
        socket.setdefaulttimeout(default_timeout)


def _score(name: str, references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    if shutil.which("java") is None:
        raise UserError(f"{name.upper()} needs Java, but there is no java on the PATH: install a Java runtime")
    try:
        module = import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}")
    except ImportError as error:
        raise UserError(f"{name.upper()} needs pycocoevalcap: run make setup") from error
    texts = {image_id: [" ".join(tokens) for tokens in references[image_id]] for image_id in hypotheses}
    captions = {image_id: [" ".join(tokens)] for image_id, tokens in hypotheses.items()}
    corpus_score, _ = getattr(module, name)().compute_score(texts, captions)
    return float(corpus_score)
