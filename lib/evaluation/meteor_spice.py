"""METEOR and SPICE, the scores of coco-caption that need Java, by their authors' programs as coco-caption runs them.

METEOR (Denkowski and Lavie 2014) also matches stems and synonyms; its program comes with pycocoevalcap.
SPICE (Anderson et al. 2016) compares objects, attributes and relations. At first use, pycocoevalcap downloads its
parser, 385 MB, from nlp.stanford.edu.
"""

import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module

from lib.core.errors import UserError

_TIMEOUT = 30.0  # seconds without an answer from nlp.stanford.edu

Tokens = Sequence[str]


def _score(name: str, references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    """Return the corpus score, 0 to 1. Both arguments are keyed by image id, with tokens as in `lib.text.tokenizer`.

    Raises UserError without Java or pycocoevalcap, or if SPICE's parser cannot be downloaded or fails.
    """
    if shutil.which("java") is None:
        raise UserError(f"{name.upper()} needs Java, but there is no java on the PATH: install a Java runtime")
    texts = {image_id: [" ".join(tokens) for tokens in references[image_id]] for image_id in hypotheses}
    captions = {image_id: [" ".join(tokens)] for image_id, tokens in hypotheses.items()}
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # pycocoevalcap sets none
    try:
        module = import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}")
        corpus_score, _ = getattr(module, name)().compute_score(texts, captions)
    except ImportError as error:
        raise UserError(f"{name.upper()} needs pycocoevalcap: run make setup") from error
    except (OSError, subprocess.CalledProcessError) as error:
        source = "SPICE needs Java 8, and a parser from nlp.stanford.edu"
        raise UserError(f"{name.upper()} failed, see also the output above: {error}. {source}") from error
    finally:
        socket.setdefaulttimeout(default_timeout)
    return float(corpus_score)


meteor, spice = partial(_score, "Meteor"), partial(_score, "Spice")
