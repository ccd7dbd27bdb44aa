"""The optimiser and its schedule, shared by all training here."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MAX_GRADIENT_NORM = 5.0


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) with a linear warm-up, a cosine decay to zero, and gradient clipping."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, steps: int, weight_decay: float):
        """`learning_rate` is the highest; it is reached after a twentieth of `steps`."""
        self._parameters = list(parameters)
        self._adamw = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        warm_up = max(1, steps // 20)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adamw, factor)

    def step(self, loss: Tensor) -> None:
        """One update against the gradient of `loss`."""
        self._adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, _MAX_GRADIENT_NORM)
        self._adamw.step()
        self._schedule.step()


def make_deterministic(seed: int) -> None:
    """Seeds torch, and lets it run no operation whose result changes from run to run."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time, and nothing here reads such memory
