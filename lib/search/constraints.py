"""What may not be written, whatever the model thinks of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.text.vocabulary import END


@dataclass(frozen=True)
class DecodingConstraints:
    """The defaults forbid nothing."""

    min_length: int = 0  # words that must stand before <end>
    no_repeat_ngram_size: int = 0  # no so many words in a row come twice in a caption; 0: no such rule

    def apply(self, log_p: Tensor, written: Tensor) -> Tensor:
        """Sets what may not follow `written` (M, T), for lack of words or as a repetition, to -inf in log_p (M, V).

        Where that leaves no word at all, <end> may follow even so.
        """
        length = written.shape[1]
        if not (length < self.min_length or 0 < self.no_repeat_ngram_size <= length):
            return log_p
        end = log_p[:, END].clone()  # (M,)
        if length < self.min_length:
            log_p[:, END] = float("-inf")
        if 0 < self.no_repeat_ngram_size <= length:
            # The last n - 1 words, wherever they stood before, may not be followed by what followed them there.
            phrases = written.unfold(1, self.no_repeat_ngram_size, 1)  # (M, T - n + 1, n)
            last = written[:, length - self.no_repeat_ngram_size + 1 :]  # (M, n - 1)
            row, place = (phrases[:, :, :-1] == last[:, None]).all(dim=2).nonzero(as_tuple=True)
            log_p[row, phrases[row, place, -1]] = float("-inf")
        stuck = log_p.amax(dim=1) == float("-inf")  # (M,)
        log_p[stuck, END] = end[stuck].clamp_min(torch.finfo(log_p.dtype).min)
        return log_p


NO_CONSTRAINTS = DecodingConstraints()
