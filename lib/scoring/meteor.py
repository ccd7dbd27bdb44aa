"""METEOR (Denkowski and Lavie 2014) by its authors' program, as coco-caption runs it: the one score that needs Java.

SPICE, coco-caption's other Java score, is not here: its parser's models must be downloaded at its first use.
"""

import shutil
from collections.abc import Mapping, Sequence

from lib.errors import UserError

Tokens = Sequence[str]


def meteor(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> float:
    """METEOR of all captions together, 0 to 1.

    Both arguments are keyed by the same image ids; tokens as `lib.text.tokenizer` gives them.
    Raises UserError without Java or without pycocoevalcap, which brings the program.
    """
    if shutil.which("java") is None:
        raise UserError("METEOR needs Java, and there is no java to run: install a Java runtime, version 8 or newer")
    try:
        from pycocoevalcap.meteor.meteor import Meteor
    except ImportError as error:
        raise UserError("METEOR needs pycocoevalcap, which make setup installs") from error
    texts = {image_id: [" ".join(tokens) for tokens in references[image_id]] for image_id in hypotheses}
    together, _ = Meteor().compute_score(texts, {i: [" ".join(tokens)] for i, tokens in hypotheses.items()})
    return together
