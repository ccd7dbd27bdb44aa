"""The optimiser and its schedule, shared by all training here."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MAX_GRADIENT_NORM = 5.0


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) with a linear warm-up, a cosine decay to zero, and gradient clipping."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, steps: int, weight_decay: float):
        """`learning_rate` is the highest, see `schedule`; `steps` are all that will be made."""
        self._parameters = list(parameters)
        self._adamw = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adamw, lambda step: schedule(step, steps))

    def step(self, loss: Tensor) -> None:
        """One update against the gradient of `loss`."""
        self._adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, _MAX_GRADIENT_NORM)
        self._adamw.step()
        self._schedule.step()


def schedule(step: int, steps: int) -> float:
    """The share of the highest learning rate at `step` of `steps`: up over the first twentieth, then down a cosine."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def make_deterministic(seed: int) -> None:
    """Seeds torch, and lets it run no operation whose result changes from run to run."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # The mode also fills new memory, against programs that read it before they write: it costs time, and none here do.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
