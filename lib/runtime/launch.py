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
_LAUNCHER = "CAPTION_LAUNCHER"  # environment variable: the process id of the launcher
_POLL = 0.1  # seconds
_KILL_DELAY = 5.0  # seconds: longer than the launcher or torchrun needs to notice that a process has ended


def launch(stage: Callable[[], None]) -> None:
    """Run `stage` here, or in CAPTION_PROCESSES new processes. If RANK is set, run it here as that rank."""
    if "RANK" in os.environ:
        _run_rank(stage)
    elif (count := positive_env("CAPTION_PROCESSES", 1)) > 1:
        _launch_processes(count)
    else:
        stage()


def _launch_processes(count: int) -> None:
    """Run this command in `count` processes. If one is killed, restart all. If one fails, exit with its code."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, worker_count() // count)))
    for restarts in range(_MAX_RESTARTS + 1):
        code = _run_processes(count)
        if code >= 0:
            sys.exit(code)
        name = signal.Signals(-code).name
        if restarts < _MAX_RESTARTS:
            line = f"a process was killed by {name}: all processes restart from the last checkpoint"
            print(line, file=sys.stderr, flush=True)
    raise UserError(
        f"CAPTION_PROCESSES={count}: processes were killed {_MAX_RESTARTS + 1} times, last by {name}. "
        "If the memory was full, set a lower CAPTION_PROCESSES."
    )


def _run_processes(count: int) -> int:
    """Run this command in `count` processes. Return 0, or the code of the first to fail: negative for a signal."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    environment = {
        **os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        # As with torchrun, the processes connect to the launcher's store, so no other program can take the port.
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        _LAUNCHER: str(os.getpid()),
    }  # fmt: skip
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            ranks = {"RANK": str(number), "LOCAL_RANK": str(number)}
            command = [sys.executable, *sys.orig_argv[1:]]
            # Each process gets its own session, so that Ctrl-C reaches only the launcher.
            processes.append(subprocess.Popen(command, env={**environment, **ranks}, start_new_session=True))
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(_POLL)
        return next(filter(None, codes), 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run_rank(stage: Callable[[], None]) -> None:
    """Run `stage` as one of several processes. If all of them raise an error, only one prints it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # torchrun or the launcher reports Ctrl-C
    exit_with_parent(int(os.environ.get(_LAUNCHER) or os.getppid()))
    try:
        with process_group():
            stage()
    except Exception as error:
        # The launcher kills all processes when one ends, so a process that waits here prints nothing. If all processes
        # raise the same error, only the main process prints it. If one process has ended, the others wait here.
        if os.environ["RANK"] != "0" or isinstance(error, PeerLost):
            time.sleep(_KILL_DELAY)
        raise
