"""Run shards as tasks on a Ray cluster whose nodes share a storage.

Ray's own variable RAY_ADDRESS selects the cluster; `auto` selects the cluster that this machine belongs to. The code of
lib/ is sent with the tasks. Ray retries a shard if its process or node dies.
"""

import contextlib
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.core.errors import UserError, one_line
from lib.vision.images import ImageRow

_RETRIES = 3  # per shard, if its process or node dies

Shards = Mapping[int, list[ImageRow]]  # shard number -> images
Progress = Generator[int, None, None]  # makes shards while iterated; yields the number of newly finished images
MakeShards = Callable[[Shards, Path, int], object]  # shards, folder, threads


@dataclass(frozen=True)
class RayCluster:
    """The connected cluster, and the resources of each task."""

    device_type: str  # cuda (one GPU per task) or cpu
    cpus: int

    def run(self, make_shards: MakeShards, shards: Shards, folder: Path, inputs: Sequence[Path]) -> Progress:
        """Run one task per shard, which writes the shard to `folder`. Paths must be absolute.

        Raises the error of `make_shards`. Raises UserError if a node does not see `folder` or one of the `inputs`, if a
        node has another version of torch, or if the processes of a shard die too often.
        """
        import ray

        # max_calls=0 keeps the process after a GPU task, because starting CUDA takes longer than some shards.
        resources = {"num_cpus": self.cpus, "num_gpus": int(self.device_type == "cuda"), "max_calls": 0}
        environment = {"env_vars": {"CAPTION_DEVICE": self.device_type}}
        task = ray.remote(**resources, max_retries=_RETRIES, runtime_env=environment)(_run_task)
        # The name of this folder is random, so no node has the same path on its own disk. A node that finds it shares
        # this storage.
        with tempfile.TemporaryDirectory(prefix="attempts-", dir=folder, ignore_cleanup_errors=True) as attempts:
            shared = ray.put(make_shards)
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
                    problem = f"the Ray cluster failed to make shard {number} in {1 + _RETRIES} attempts"
                    fix = "Check the memory and the logs of the nodes."
                    raise UserError(f"{problem} ({one_line(error)}). {fix}") from error
                yield len(shards[number])


@contextlib.contextmanager
def connect() -> Iterator[RayCluster]:
    """Connect to the cluster at RAY_ADDRESS. Raises UserError if it does not answer or Ray is not installed."""
    address = os.environ["RAY_ADDRESS"]
    try:
        import ray

        host, _, port = address.rpartition(":")
        if host:  # Ray itself would take minutes to report that nothing listens there
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, runtime_env={"py_modules": [str(Path(__file__).parents[1])]}, logging_level="warning")
    except ImportError as error:
        fix = "Run uv pip install --editable '.[ray]', or unset RAY_ADDRESS."
        raise UserError(f"RAY_ADDRESS={address}, but Ray is not installed. {fix}") from error
    except (OSError, ValueError, RuntimeError) as error:
        problem = f"no Ray cluster answers ({one_line(error)})"
        fix = "Set RAY_ADDRESS to HOST:PORT of the head node, or to auto."
        raise UserError(f"RAY_ADDRESS={address}: {problem}. {fix}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpu_nodes = [node for node in nodes if node.get("GPU") and os.environ.get("CAPTION_DEVICE") != "cpu"]
        # With GPUs, a task gets one GPU and an equal share of the node's CPUs. Without GPUs, it gets one CPU.
        share = min((int(node.get("CPU", 0) // node["GPU"]) for node in gpu_nodes), default=1)
        yield RayCluster("cuda" if gpu_nodes else "cpu", cpus=max(1, share))
    finally:
        ray.shutdown()


def _run_task(
    make_shards: MakeShards, shard: Shards, attempts: Path, inputs: Sequence[Path], threads: int, version: str
) -> None:
    """Make a shard on a node. Each attempt writes to a new folder, because an earlier attempt may still be running."""
    node = platform.node()
    for path in (attempts, *inputs):
        if not path.exists():
            raise UserError(f"node {node} cannot find {path}. Put it on storage that all nodes share.")
    if torch.__version__ != version:
        problem = f"has torch {torch.__version__}, not {version}, so its features may differ"
        raise UserError(f"node {node} {problem}. Install torch {version} on it.")
    with tempfile.TemporaryDirectory(dir=attempts) as own:
        make_shards(shard, Path(own), threads)
        for file in Path(own).iterdir():
            file.replace(attempts.parent / file.name)
