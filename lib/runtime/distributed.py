"""Share work among several processes: their ranks, which torchrun sets, and the messages between them.

A single process is rank 0 of 1 and sends nothing. All processes must call the functions that send messages, in the same
order.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.runtime.device import device

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_TIMEOUT = timedelta(hours=1)  # per message: the others wait while the main process reads features from a slow disk
_BARRIER_TIMEOUT = timedelta(days=7)  # the main process may wait for another run of the same training to finish
_barrier_group: dist.ProcessGroup | None = None  # all processes, with the long timeout


class PeerLost(UserError):
    """Another process has ended or cannot be reached."""


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun's environment variables describe. Each uses the GPU of its local rank.

    Raises UserError if the processes cannot use the device, or if there are fewer GPUs than processes.
    """
    global _barrier_group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    chosen = device()
    if chosen.type not in _BACKENDS:
        raise UserError(f"CAPTION_DEVICE={chosen}: several processes cannot share it. Use cpu, or start one process.")
    if chosen.type == "cuda":
        count, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if chosen.index is not None or count > gpus:
            raise UserError(
                f"CAPTION_DEVICE={chosen}: {count} processes need a GPU each, but torch finds {gpus}. "
                f"Set CAPTION_DEVICE=cuda and start at most {gpus} processes."
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(_BACKENDS[chosen.type], timeout=_TIMEOUT)
    _barrier_group = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_BARRIER_TIMEOUT))
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Return whether this is the process that prints and writes."""
    return rank() == 0


def print_once(line: str) -> None:
    """Print a line in the main process only."""
    if is_main_process():
        print(line, flush=True)


Items = TypeVar("Items", range, list[Any], np.ndarray)


def shard(items: Items) -> Items:
    """Return this process's contiguous slice of `items`. If there are fewer items than processes, some are empty."""
    start, end = (len(items) * number // world_size() for number in (rank(), rank() + 1))
    return items[start:end]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, which must have the same shape. All processes get the same bits."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    _send(dist.all_reduce, total)
    return total


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors (n,) of all processes, by rank, to (N,). Lengths may differ, but not dtypes."""
    if world_size() == 1:
        return tensor
    sizes = torch.zeros(world_size(), dtype=torch.long)
    sizes[rank()] = len(tensor)
    parts = [tensor.new_zeros(size) for size in all_reduce_sum(sizes).tolist()]
    parts[rank()] = tensor.detach()
    return all_reduce_sum(torch.cat(parts))  # exact, because the other processes add zeros


def broadcast_bytes(content: bytes) -> bytes:
    """Return the `content` of the main process, in all processes."""
    if world_size() == 1:
        return content
    own = np.frombuffer(content if is_main_process() else b"", np.uint8)
    return all_gather(torch.from_numpy(own.copy())).numpy().tobytes()


def barrier() -> None:
    """Wait until all processes call this function, for up to _BARRIER_TIMEOUT."""
    if world_size() > 1:
        _send(dist.barrier, _barrier_group)


def broadcast_module(module: nn.Module) -> None:
    """Copy the main process's parameters and buffers into `module`."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            _send(dist.broadcast, tensor, 0)


def all_reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes. A missing gradient counts as zero."""
    if world_size() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    total = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))  # one message for all gradients
    parts = total.split([gradient.numel() for gradient in gradients])
    for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
        parameter.grad = gradient.copy_(part.view_as(gradient))  # copy_ keeps the memory layout


def _send(operation: Callable[..., object], *arguments: object) -> None:
    try:
        operation(*arguments)
    except RuntimeError as error:  # from gloo; NCCL ends the process instead
        raise PeerLost("another process that shares the work has ended") from error
