"""Slurm's own daemons as a cluster of this one machine, in a folder of their own; Debian's slurm-wlm and munge."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import attempt, free_port
from tests.waiting import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# Debian has the daemons in sbin, which is not on every user's path.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
needs_slurm = pytest.mark.skipif(bool(missing), reason=f"needs Slurm, and there is no {', '.join(missing)}")

KILL_WAIT = 60  # seconds from SIGTERM to SIGKILL: who ends before has heard the first

# A job in `urgent` preempts one in `spot`, which is put back into the queue. There may be no cgroups to be had, nor
# another user to run as.
CONFIG = """
ClusterName=captions
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
KillWait={kill_wait}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1
PartitionName=spot Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=2
"""


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Starts the cluster; gives its configuration, for SLURM_CONF. In the end nothing of it runs any more."""
    host, config, key = socket.gethostname().partition(".")[0], folder / "slurm.conf", folder / "munge.key"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = [free_port(), free_port()]
    config.write_text(
        CONFIG.format(host=host, user=getpass.getuser(), ports=ports, folder=folder, kill_wait=KILL_WAIT)
    )  # fmt: skip
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    daemons = [
        # By force, or every folder down to its socket would have to be open to all.
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
         *(f"--{name}-file={folder}/munge.{name}" for name in ("seed", "pid", "log"))],
        ["slurmctld", "-D", "-i", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]  # fmt: skip

    def says(*words: str) -> str:
        return attempt(folder, "env", f"SLURM_CONF={config}", *words).stdout

    started = []
    try:
        for words in daemons:
            with (folder / f"{words[0]}.said").open("w") as said:
                environment = {**os.environ, "PATH": PATH}
                started.append(subprocess.Popen(words, env=environment, stdout=said, stderr=said))
        until(lambda: "idle" in says("sinfo", "-h", "-o", "%T"), seconds=60)
        yield config
    finally:
        if len(started) == len(daemons):
            says("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
            says("scancel", "--user", getpass.getuser())
            until(lambda: not says("squeue", "-h"), seconds=60)
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait()
