"""Shards on a Ray cluster: one task a shard, whose files go to storage that all nodes share.

RAY_ADDRESS, Ray's own variable, asks for it: `auto` is the cluster that this machine is a node of. This library's code
travels with the tasks. A shard whose process or node dies is begun again; an error of its own is raised here, once.
"""

import contextlib
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from lib.core.errors import UserError, one_line

_RETRIES = 3  # times that a shard's process or node may die
_ATTEMPTS = "attempts-"  # what the folder of unfinished shards begins with

Rows = TypeVar("Rows")
Work = Callable[[Mapping[int, Rows], Path, int], object]  # makes shards, given their rows by number: where; threads


def asked() -> bool:
    """If the environment asks for a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


@dataclass(frozen=True)
class Cluster:
    """The cluster that this process is connected to: what a task gets there."""

    device_type: str  # to compute on: cuda, or cpu
    gpus: int
    cpus: int

    def run(self, work: Work[Rows], shards: Mapping[int, Rows], folder: Path, inputs: Sequence[Path]) -> Iterator[int]:
        """The number of each shard, as soon as the files that `work` makes of it are in `folder`; in any order.

        Paths must be absolute. Raises what `work` raises, and UserError where a node does not see `folder` or one of
        the `inputs`, or has another torch, and where a shard's processes have died too often.
        """
        import ray

        # Ray ends a GPU's process with its task unless told otherwise, and starting CUDA costs more than some shards.
        resources = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_calls": 0}
        environment = {"env_vars": {"CAPTION_DEVICE": self.device_type}}
        task = ray.remote(**resources, max_retries=_RETRIES, runtime_env=environment)(_attempt)
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_ATTEMPTS}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        # The name is new: a node that sees it sees this very storage, and not its own folder of the same path.
        with tempfile.TemporaryDirectory(prefix=_ATTEMPTS, dir=folder, ignore_cleanup_errors=True) as attempts:
            shared = ray.put(work)
            pending = {
                task.remote(shared, {number: rows}, Path(attempts), inputs, self.cpus, torch.__version__): number
                for number, rows in shards.items()
            }
            while pending:
                (finished,), _ = ray.wait(list(pending), num_returns=1)
                number = pending.pop(finished)
                try:
                    ray.get(finished)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"the Ray cluster gave up shard {number}, after {_RETRIES} retries at most: {one_line(error)}"
                    ) from error
                yield number


@contextlib.contextmanager
def connected() -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, until it is left. Raises UserError where none answers, or Ray is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "RAY_ADDRESS is set, but Ray is not installed: add the extra ray (uv pip install --editable '.[ray]'), "
            "or unset RAY_ADDRESS"
        ) from error
    address = os.environ["RAY_ADDRESS"]
    code = Path(__file__).parents[1]
    try:
        _knock(address)
        ray.init(address, runtime_env={"py_modules": [str(code)]}, logging_level="warning")
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address}: {one_line(error)}") from error
    try:
        yield _share([node["Resources"] for node in ray.nodes() if node["Alive"]])
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens; Ray itself would need minutes to say so."""
    if address.startswith("ray://"):
        raise UserError(f"RAY_ADDRESS is {address}, which asks for Ray's client: give HOST:PORT of the head, or auto")
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _share(nodes: Sequence[Mapping[str, float]]) -> Cluster:
    """What a task gets of such nodes: a CPU; or where there are GPUs one of them, with its share of its node's CPUs."""
    with_gpus = [node for node in nodes if node.get("GPU")]
    if not with_gpus or os.environ.get("CAPTION_DEVICE") == "cpu":
        return Cluster("cpu", 0, 1)
    return Cluster("cuda", 1, max(1, min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpus)))


def _attempt(
    work: Work[Rows], shard: Mapping[int, Rows], attempts: Path, inputs: Sequence[Path], threads: int, version: str
) -> None:
    """Makes a shard on a node, in a folder of its own: an earlier attempt, taken for dead, may still be writing."""
    node = platform.node()
    for path in (attempts, *inputs):
        if not path.exists():
            raise UserError(f"node {node} does not see {path}: it must be on storage that all nodes share")
    if torch.__version__ != version:
        raise UserError(f"node {node} has torch {torch.__version__}, not {version} as here: its bytes may differ")
    with tempfile.TemporaryDirectory(dir=attempts) as own:
        work(shard, Path(own), threads)
        for file in Path(own).iterdir():
            file.replace(attempts.parent / file.name)
