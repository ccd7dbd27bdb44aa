"""Constraints on decoded captions. They forbid tokens, however probable the model finds them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.text.vocabulary import END


@dataclass(frozen=True)
class DecodingConstraints:
    """A minimum length and no repeated n-grams. The defaults forbid nothing."""

    min_length: int = 0  # minimum number of words before <end>
    no_repeat_ngram_size: int = 0  # no n-gram of this size occurs twice in a caption; 0 allows all

    def apply(self, log_probs: Tensor, tokens: Tensor) -> Tensor:
        """Set `log_probs` (M, V) of forbidden next tokens to -inf, in place. `tokens` (M, T) are the tokens so far.

        If no token is allowed, allow <end>.
        """
        length, size = tokens.shape[1], self.no_repeat_ngram_size
        too_short, may_repeat = length < self.min_length, 0 < size <= length
        if not (too_short or may_repeat):
            return log_probs
        end = log_probs[:, END].clone()  # (M,)
        if too_short:
            log_probs[:, END] = float("-inf")
        if may_repeat:
            # If the last n - 1 tokens occurred before, forbid the token that followed them.
            ngrams = tokens.unfold(1, size, 1)  # (M, T - n + 1, n)
            last = tokens[:, length - size + 1 :]  # (M, n - 1)
            row, position = (ngrams[:, :, :-1] == last[:, None]).all(dim=2).nonzero(as_tuple=True)
            log_probs[row, ngrams[row, position, -1]] = float("-inf")
        stuck = log_probs.amax(dim=1) == float("-inf")  # (M,)
        log_probs[stuck, END] = end[stuck].clamp_min(torch.finfo(log_probs.dtype).min)
        return log_probs
