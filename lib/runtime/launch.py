"""How a stage is started that several processes can share: train, finetune and generate.

`cmd` in dvc.yaml knows nothing of it. CAPTION_PROCESSES says how many this machine shall have, each with a GPU where
there are GPUs; on several machines, torchrun starts the stage on each: `torchrun --nnodes ... -m stages.train`.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from lib.core.errors import UserError
from lib.core.workers import worker_count
from lib.runtime.distributed import PeerLost, process_group

_RESTARTS = 3
_SECONDS_TO_BE_ENDED = 5.0  # by the agent, which looks ten times a second


def launch(stage: Callable[[], None]) -> None:
    """Run a stage in this process, in as many processes as CAPTION_PROCESSES asks for, or as one of those."""
    if "RANK" in os.environ:
        _join(stage)
    elif (processes := _asked_for()) > 1:
        _start(processes)
    else:
        stage()


def _asked_for() -> int:
    """CAPTION_PROCESSES where set, else 1."""
    asked = os.environ.get("CAPTION_PROCESSES") or "1"
    if not asked.isdecimal() or int(asked) == 0:
        raise UserError(f"CAPTION_PROCESSES: got {asked!r}, should be a number from 1 on")
    return int(asked)


def _start(processes: int) -> None:
    """Runs this very command in so many processes; when one of them is killed, all again."""
    logging.disable()  # torch's agent tells at length what the processes tell in one line
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, worker_count() // processes)))
    for _ in range(_RESTARTS + 1):
        code = _exit_code(processes)
        if code >= 0:  # all is done, or one said what is wrong, and would say it again
            sys.exit(code)
        killed = f"a process was ended by {signal.Signals(-code).name}"
        print(f"{killed}: all start again, from the last checkpoint if there is one", file=sys.stderr, flush=True)
    raise UserError(f"{killed} {_RESTARTS + 1} times: is the memory too small? Set a lower CAPTION_PROCESSES")


def _exit_code(processes: int) -> int:
    """Runs this very command once in so many processes: 0, or the first failure's, negative for a signal."""
    # Here, because they are slow to import.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory() as notes:
        # As `torchrun --standalone` has it. The agent itself would start again whatever had failed, a slip in
        # params.yaml too.
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, max_restarts=0, run_id="stage",
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
            logs_specs=DefaultLogsSpecs(notes),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as failed:
            return failed.get_first_failure()[1].exitcode
        except SignalException as caught:  # by which the agent has ended the processes
            if caught.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + caught.sigval)
    return 0


def _join(stage: Callable[[], None]) -> None:
    """Runs a stage as one of several processes, which say once what goes wrong."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the agent tells of Ctrl-C
    if dist.is_torchelastic_launched():
        threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    try:
        with process_group():
            stage()
    except Exception as error:
        # The agent ends all processes when one has ended. What all meet, the first tells; and who misses another
        # process leaves it to that one.
        if os.environ["RANK"] != "0" or isinstance(error, PeerLost):
            time.sleep(_SECONDS_TO_BE_ENDED)
        raise


def _end_with(agent: int) -> None:
    """Ends this process when its agent is gone, be it killed: else the next run would work beside it."""
    while os.getppid() == agent:
        time.sleep(0.2)
    os._exit(1)
