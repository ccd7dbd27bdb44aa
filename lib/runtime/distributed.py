"""This process among several that share the work, as torchrun starts them: each has a rank, the first rank 0.

A process by itself is rank 0 of 1: nothing is set up or sent, and what is to be shared or summed stays as it is.
What sends must be called by all processes, in the same order.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol, Self, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.runtime.device import device

_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
_TIMEOUT = timedelta(hours=1)  # of a message: the others wait while the first reads COCO's features from a slow disk
_BARRIER_TIMEOUT = timedelta(
    days=7
)  # with the first process, which may be waiting for another run of the same training
_barrier_group: dist.ProcessGroup | None = None  # of all processes, and so patient


class PeerLost(UserError):
    """Another of the processes has ended, or cannot be reached."""


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torchrun's environment tells of: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT.

    Each takes the GPU of its number on the machine. Raises UserError, in all of a machine's, where it has too few.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    asked = device()
    if asked.type not in _BACKENDS:
        raise UserError(f"several processes cannot share work on {asked}: set CAPTION_DEVICE=cpu, or start one process")
    if asked.type == "cuda":
        number, processes = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        if asked.index is not None:
            raise UserError(
                f"{processes} processes cannot share {asked}: set CAPTION_DEVICE=cuda, so that each has its own"
            )
        if processes > (count := torch.cuda.device_count()):
            raise UserError(
                f"{processes} processes want a GPU each, and torch finds {count}: start as many as there are"
            )
        torch.cuda.set_device(number)
    global _patient
    dist.init_process_group(_BACKENDS[asked.type], timeout=_TIMEOUT)
    _barrier_group = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=_BARRIER_TIMEOUT))
    try:
        yield
    finally:
        dist.destroy_process_group()
        _barrier_group = None


def rank() -> int:
    """The number of this process, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """If this is the process that prints and writes."""
    return rank() == 0


def print_once(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_main_process():
        print(line, flush=True)


class _Slices(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Self: ...


Items = TypeVar("Items", bound=_Slices)


def shard(items: Items) -> Items:
    """This process's slice of `items`, the same in all: empty for some where there are fewer items than processes.

    The slices of all processes, by rank, are the whole.
    """
    first, end = (len(items) * number // world_size() for number in (rank(), rank() + 1))
    return items[first:end]


def all_reduce_sum(own: Tensor) -> Tensor:
    """The sum of the processes' tensors, which are of one shape: the same bits in each of them."""
    return own if world_size() == 1 else _all_reduce(own.detach().clone())


def all_gather(own: Tensor) -> Tensor:
    """The (n,) of all processes, by rank, as one (N,); n may differ, or be 0, but the type may not."""
    if world_size() == 1:
        return own
    sizes = torch.zeros(world_size(), dtype=torch.long)
    sizes[rank()] = len(own)
    parts = [own.new_zeros(size) for size in _all_reduce(sizes).tolist()]
    parts[rank()] = own.detach()
    return _all_reduce(
        torch.cat(parts)
    )  # each adds zeros to what others have: exact, and one message whatever the sizes


def broadcast_bytes(content: bytes) -> bytes:
    """The first process's `content`."""
    if world_size() == 1:
        return content
    own = np.frombuffer(content if is_main_process() else b"", np.uint8)
    return all_gather(torch.from_numpy(own.copy())).numpy().tobytes()


def barrier() -> None:
    """Waits until the first process comes here too, for longer than a message may take."""
    if world_size() > 1:
        with _peer_errors():
            dist.barrier(_barrier_group)


def broadcast_module(module: nn.Module) -> None:
    """Gives `module` the parameters and buffers that it has in the first process."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            with _peer_errors():
                dist.broadcast(tensor, src=0)


def all_reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces each gradient by its sum over the processes; where a process has none, it counts as zero."""
    if world_size() == 1:
        return
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    summed = _all_reduce(torch.cat([gradient.flatten() for gradient in own]))  # in one message
    for parameter, gradient, part in zip(parameters, own, summed.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.copy_(part.view_as(gradient))  # laid out in memory as it was


def _all_reduce(tensor: Tensor) -> Tensor:
    """The sum over the processes. `tensor` is written over where it is on the device, through which it goes."""
    there = tensor.to(device())
    with _peer_errors():
        dist.all_reduce(there)
    return there.to(tensor.device)


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's; NCCL ends the process
        raise PeerLost("another of the processes that share the work has ended") from error
