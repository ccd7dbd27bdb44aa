"""What the captions of a picture say, as numbers that a CNN can be taught: which words and pairs of words they hold."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lib.errors import UserError


def phrase_shares(captions: Sequence[Sequence[Sequence[str]]], min_count: int) -> Tensor:
    """The share of each image's captions that hold a phrase, (I, W); captions[i] are the token lists of image i.

    The phrases are the words, and the pairs of words side by side, of at least `min_count` captions. Raises UserError
    where there is none.
    """
    held = [[{*tokens, *pairwise(tokens)} for tokens in image] for image in captions]
    counts = Counter(phrase for image in held for phrases in image for phrase in phrases)
    kept = sorted((phrase for phrase, n in counts.items() if n >= min_count), key=str)
    if not kept:
        raise UserError(
            f"no word is in as many captions of the train split as min_count asks for, {min_count}: lower it"
        )
    columns = {phrase: column for column, phrase in enumerate(kept)}
    shares = torch.zeros(len(captions), len(columns))
    for row, image in zip(shares, held, strict=True):
        for phrase in (phrase for phrases in image for phrase in phrases if phrase in columns):
            row[columns[phrase]] += 1 / len(image)
    return shares
