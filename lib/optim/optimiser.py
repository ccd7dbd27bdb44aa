"""The optimiser and its schedule, shared by all training here."""

import copy
import math
from collections.abc import Iterable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from lib.runtime.device import device
from lib.runtime.distributed import all_reduce_gradients


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) with a linear warm-up, a decay along a cosine, and gradient clipping."""

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
        """`learning_rate` is the highest, see `schedule`; `steps` are all that will be made.

        A gradient whose norm, over all parameters, is above `max_grad_norm` is scaled down to it; 0 clips nothing.
        """
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._rates = [learning_rate * schedule(step, steps, warmup_fraction, decay=decay) for step in range(steps)]
        self._max_grad_norm = max_grad_norm
        self._done = 0

    @cached_property
    def _adamw(self) -> torch.optim.AdamW:
        # Made when it is needed: torch then imports its compiler, which takes 3 s, and there may be no step at all.
        return torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=self._weight_decay, fused=True)

    def step(self, loss: Tensor) -> None:
        """One update against the gradient of `loss`, or, where processes share a loss, of the sum of their shares."""
        self._adamw.zero_grad()
        loss.backward()
        all_reduce_gradients(self._parameters)
        if self._max_grad_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._adamw.param_groups[0]["lr"] = self._rates[self._done]
        self._adamw.step()
        self._done += 1

    def state(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, but for the parameters themselves."""
        moments = self._adamw.state_dict()["state"] if self._done else {}
        named = {f"{index}.{name}": tensor for index, state in moments.items() for name, tensor in state.items()}
        return {"done": torch.tensor(self._done), **named}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        self._done = int(state["done"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            if key != "done":
                index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = _laid_out_as(self._parameters[int(index)], tensor)
        if moments:
            self._adamw.load_state_dict({**self._adamw.state_dict(), "state": moments})


def _laid_out_as(parameter: Tensor, moment: Tensor) -> Tensor:
    """The fused AdamW walks through a weight and its moments in memory, which is not always row by row."""
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(moment) if moment.dim() else moment


def schedule(step: int, steps: int, warmup_fraction: float = 0.05, *, decay: bool = True) -> float:
    """The share of the highest learning rate at `step` of `steps`.

    It rises over the first `warmup_fraction` (a share of all steps), then falls along a cosine to zero, or stays.
    """
    rising = max(1, int(steps * warmup_fraction))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) if decay else 1.0


class EMA(nn.Module):
    """A module's running mean (Polyak & Juditsky 1992), which at first follows faster; its buffers are the last ones.

    torch's AveragedModel would have its count read from a GPU, and so wait for that, after every step.
    """

    count: Tensor

    def __init__(self, module: nn.Module, decay: float):
        """Of no weights so far; `decay` is the share of the old mean in the new one, later on."""
        super().__init__()
        self.module = copy.deepcopy(module)
        self.register_buffer("count", torch.tensor(0))
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Draws the means towards the module's weights."""
        means: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(module.parameters())
        count = int(self.count)
        if count:
            torch._foreach_lerp_(means, weights, 1 - min(self._decay, (1 + count) / (10 + count)))
        else:
            torch._foreach_copy_(means, weights)
        for own, given in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(given)
        self.count += 1


def seed_dropout(seed: int) -> None:
    """Seeds the numbers that torch draws on the device.

    torch.manual_seed does so for all kinds of devices; of those that are not there it notes the call stack each time.
    """
    by_kind = {"cpu": torch.default_generator.manual_seed, "cuda": torch.cuda.manual_seed_all}
    by_kind.get(device().type, torch.manual_seed)(seed)


def make_deterministic(seed: int) -> None:
    """Seeds torch, and has it run what gives the same from run to run, and warn of an operation that cannot."""
    torch.manual_seed(seed)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would first import torch's compiler: 3 s
    # The mode also fills new memory, against programs that read it before they write: it costs time, and none here do.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
