"""Compute METEOR and SPICE as coco-caption does, with their authors' Java programs.

METEOR (Denkowski and Lavie 2014) also matches stems and synonyms. Its program comes with pycocoevalcap.
SPICE (Anderson et al. 2016) compares objects, attributes and relations. At the first use, pycocoevalcap downloads the
parser that SPICE needs, 385 MB, from nlp.stanford.edu.
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
    """Return the corpus score, 0 to 1. The keys are image ids. The tokens are those of `lib.text.tokenizer`.

    Raises UserError if Java or pycocoevalcap is missing, or if the program fails.
    """
    if shutil.which("java") is None:
        raise UserError(f"{name.upper()} needs Java, but there is no `java` on the PATH. Install a Java runtime.")
    texts = {image_id: [" ".join(tokens) for tokens in references[image_id]] for image_id in hypotheses}
    captions = {image_id: [" ".join(tokens)] for image_id, tokens in hypotheses.items()}
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # pycocoevalcap does not set a timeout
    try:
        module = import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}")
        corpus_score, _ = getattr(module, name)().compute_score(texts, captions)
    except ImportError as error:
        raise UserError(f"{name.upper()} needs pycocoevalcap, which is not installed. Run make setup.") from error
    except (OSError, subprocess.CalledProcessError) as error:
        needs = " SPICE needs Java 8, and downloads a parser from nlp.stanford.edu." if name == "Spice" else ""
        raise UserError(f"{name.upper()} failed: {error}. See the output above.{needs}") from error
    finally:
        socket.setdefaulttimeout(default_timeout)
    return float(corpus_score)


meteor, spice = partial(_score, "Meteor"), partial(_score, "Spice")
