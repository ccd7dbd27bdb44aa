"""Run a stage in several processes: CAPTION_PROCESSES of them, or those that torchrun starts on each machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from lib.core.errors import UserError
from lib.core.workers import exit_with_parent, positive_env, worker_count
from lib.runtime.distributed import PeerLost, process_group

_MAX_RESTARTS = 3
_LAUNCHER = "CAPTION_LAUNCHER"  # an environment variable: the id of the process that has started this one
_POLL = 0.1  # seconds
_KILL_DELAY = 5.0  # seconds: longer than the launcher or torchrun needs to notice that a process has ended


def launch(stage: Callable[[], None]) -> None:
    """Run `stage` here, or in CAPTION_PROCESSES processes, or as the process that RANK in the environment names."""
    if "RANK" in os.environ:
        _run_rank(stage)
    elif (count := positive_env("CAPTION_PROCESSES", 1)) > 1:
        _launch_processes(count)
    else:
        stage()


def _launch_processes(count: int) -> None:
    """Run this command in `count` processes. If one is killed, start all again; if one fails, exit with its code."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, worker_count() // count)))
    for _ in range(_MAX_RESTARTS + 1):
        code = _run_processes(count)
        if code >= 0:
            sys.exit(code)
        name = signal.Signals(-code).name
        print(f"a process was ended by {name}: all restart from the last checkpoint", file=sys.stderr, flush=True)
    raise UserError(
        f"CAPTION_PROCESSES={count}: a process was ended by {name} {_MAX_RESTARTS + 1} times. "
        "Is the memory too small? Set a lower CAPTION_PROCESSES."
    )


def _run_processes(count: int) -> int:
    """Run this command in `count` processes until all succeed or one fails. Return its code: negative for a signal."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    environment = {
        **os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        # As with torchrun, the processes meet at the launcher's own store: its port is free for sure.
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        _LAUNCHER: str(os.getpid()),
    }  # fmt: skip
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            ranks = {"RANK": str(number), "LOCAL_RANK": str(number)}
            command = [sys.executable, *sys.orig_argv[1:]]
            # In their own session, so that Ctrl-C reaches only the launcher.
            processes.append(subprocess.Popen(command, env={**environment, **ranks}, start_new_session=True))
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(_POLL)
        return next(filter(None, codes), 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run_rank(stage: Callable[[], None]) -> None:
    """Run `stage` as one of several processes, of which only one prints an error that all raise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # torchrun and the launcher report Ctrl-C
    exit_with_parent(int(os.environ.get(_LAUNCHER) or os.getppid()))
    try:
        with process_group():
            stage()
    except Exception as error:
        # The launcher kills all processes when one ends. So the main process reports an error that all have, and
        # a process that has lost another leaves the report to that one.
        if os.environ["RANK"] != "0" or isinstance(error, PeerLost):
            time.sleep(_KILL_DELAY)
        raise
