"""What all training shares: the optimiser and its schedule, the moving average of weights, and determinism."""

import copy
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lib.runtime.device import device
from lib.runtime.distributed import all_reduce_gradients


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) with warm-up, cosine decay and gradient clipping."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        steps: int,
        weight_decay: float,
        *,
        warmup_fraction: float = 0.05,
        decay: bool = True,
        max_grad_norm: float = 5.0,
    ):
        """`learning_rate` is the peak (see `schedule`), `steps` the total number. `max_grad_norm=0`: no clipping."""
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._rates = [learning_rate * schedule(step, steps, warmup_fraction, decay=decay) for step in range(steps)]
        self._max_grad_norm = max_grad_norm
        self.steps_done = 0

    @cached_property
    def _adamw(self) -> torch.optim.AdamW:
        # Create AdamW at the first step only: it makes torch import its compiler (3 s), and some runs take no step.
        return torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=self._weight_decay, fused=True)

    def step(self, loss: Tensor) -> None:
        """Update the parameters once. With several processes, use the gradient of the sum of their losses."""
        self._adamw.zero_grad()
        loss.backward()
        all_reduce_gradients(self._parameters)
        if self._max_grad_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._adamw.param_groups[0]["lr"] = self._rates[self.steps_done]
        self._adamw.step()
        self.steps_done += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and AdamW's moments."""
        return {"steps_done": self.steps_done, "adamw": self._adamw.state_dict() if self.steps_done else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`. AdamW's moments keep their memory layout, which the fused kernel depends on."""
        self.steps_done = state["steps_done"]
        if self.steps_done:
            self._adamw.load_state_dict(state["adamw"])


def schedule(step: int, steps: int, warmup_fraction: float = 0.05, *, decay: bool = True) -> float:
    """Return the learning rate at `step` of `steps`, as a fraction of the peak.

    It rises over the first `warmup_fraction` of all steps. Then it falls along a cosine to zero; without `decay`, it
    stays at the peak.
    """
    warmup = max(1, int(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) if decay else 1.0


class EMA(nn.Module):
    """Exponential moving average of a module's weights (Polyak & Juditsky 1992); buffers are copied.

    Unlike torch's AveragedModel, this class keeps its count on the CPU, to avoid a synchronisation per step.
    """

    count: Tensor

    def __init__(self, module: nn.Module, decay: float):
        """Start empty. `decay` is the EMA coefficient; the first updates use a smaller coefficient."""
        super().__init__()
        self.module = copy.deepcopy(module)
        self.register_buffer("count", torch.tensor(0))
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the averages towards the module's weights."""
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(module.parameters())
        count = int(self.count)
        if count:
            torch._foreach_lerp_(averages, weights, 1 - min(self._decay, (1 + count) / (10 + count)))
        else:
            torch._foreach_copy_(averages, weights)
        for target, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            target.copy_(buffer)
        self.count += 1


def seed_dropout(seed: int) -> None:
    """Seed torch's random numbers on the device.

    torch.manual_seed is too slow to call at each step: it seeds every kind of device, and records the call stack for
    each kind that the machine lacks.
    """
    seeders = {"cpu": torch.default_generator.manual_seed, "cuda": torch.cuda.manual_seed_all}
    seeders.get(device().type, torch.manual_seed)(seed)


def make_deterministic(seed: int) -> None:
    """Seed torch and select deterministic algorithms. Torch warns if an operation has no deterministic algorithm."""
    torch.manual_seed(seed)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms also imports the compiler (3 s)
    # The mode also fills new tensors. That costs time and helps only programs that read memory before they write it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
