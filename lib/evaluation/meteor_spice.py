"""The two of coco-caption's scores that need Java, by their authors' own programs, as coco-caption runs them.

METEOR (Denkowski and Lavie 2014) counts stems and synonyms as matches; its program comes with pycocoevalcap.
SPICE (Anderson et al. 2016) compares what the captions say: objects, their attributes and relations. The parser that
finds them, 385 MB, is fetched from nlp.stanford.edu by pycocoevalcap at the first use.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lib.core.errors import UserError

_PATIENCE = 30.0  # seconds, with a server that does not answer

Tokens = Sequence[str]


def meteor(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    """METEOR of all captions together, 0 to 1.

    Both arguments are keyed by the same image ids; tokens as `lib.text.tokenizer` gives them.
    Raises UserError without Java or without pycocoevalcap.
    """
    return _score(_program("Meteor"), references, hypotheses)


def spice(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    """SPICE, the mean over images of the F-scores, 0 to 1; arguments as those of `meteor`.

    Raises UserError without Java, without pycocoevalcap, or where the parser cannot be fetched or does not run.
    """
    try:
        with _impatient():
            program = _program("Spice")
        return _score(program, references, hypotheses)
    except subprocess.CalledProcessError as error:
        raise UserError(f"SPICE's program failed, see above; it was written for Java 8: {error}") from error
    except OSError as error:
        raise UserError(f"SPICE needs a parser that cannot be fetched from nlp.stanford.edu: {error}") from error


def _program(name: str) -> Any:
    if shutil.which("java") is None:
        raise UserError(f"{name.upper()} needs Java, and there is no java to run: install a Java runtime")
    try:
        module = import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}")
    except ImportError as error:
        raise UserError(f"{name.upper()} needs pycocoevalcap, which make setup installs") from error
    return getattr(module, name)()


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _score(program: Any, references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    texts = {image_id: [" ".join(tokens) for tokens in references[image_id]] for image_id in hypotheses}
    together, _ = program.compute_score(texts, {i: [" ".join(tokens)] for i, tokens in hypotheses.items()})
    return float(together)
