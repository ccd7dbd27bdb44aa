"""RNN and LSTM from scratch: single steps and whole sequences, forward and backward.

`rnn` and `lstm` are the readable reference: functions with the interface of Stanford's CS231n assignment 3.
`modules` implements the same equations, optimised, as drop-in replacements for `torch.nn.RNN` and `torch.nn.LSTM`.
"""

from collections.abc import Callable

from torch import nn

from lib.cells.lstm import lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from lib.cells.modules import ScratchLSTM, ScratchRNN
from lib.cells.rnn import rnn_backward, rnn_forward, rnn_step_backward, rnn_step_forward

# (model.cell, model.implementation) -> the module
CELLS: dict[tuple[str, str], Callable[..., nn.Module]] = {
    ("rnn", "scratch"): ScratchRNN,
    ("lstm", "scratch"): ScratchLSTM,
    ("rnn", "torch"): nn.RNN,
    ("lstm", "torch"): nn.LSTM,
}

__all__ = [
    "CELLS", "ScratchLSTM", "ScratchRNN",
    "lstm_backward", "lstm_forward", "lstm_step_backward", "lstm_step_forward",
    "rnn_backward", "rnn_forward", "rnn_step_backward", "rnn_step_forward",
]  # fmt: skip
