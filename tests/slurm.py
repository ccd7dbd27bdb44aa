"""A Slurm cluster on this machine, all of it in one folder. Needs Debian's slurm-wlm and munge."""

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
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])  # Debian installs the daemons in /usr/sbin
missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
needs_slurm = pytest.mark.skipif(bool(missing), reason=f"needs Slurm: {', '.join(missing)}")

KILL_WAIT = 60  # seconds from SIGTERM to SIGKILL

# A job in `urgent` preempts a job in `spot`, which returns to the queue. The cluster needs no cgroups and one user.
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
    """Start the cluster; yield its configuration file, for SLURM_CONF. Stop it at the end."""
    host, config, key = socket.gethostname().partition(".")[0], folder / "slurm.conf", folder / "munge.key"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = [free_port(), free_port()]
    user = getpass.getuser()
    config.write_text(CONFIG.format(host=host, user=user, ports=ports, folder=folder, kill_wait=KILL_WAIT))
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    daemons = [
        # Without --force, munged requires that all users can open every folder above its socket.
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
         *(f"--{name}-file={folder}/munge.{name}" for name in ("seed", "pid", "log"))],
        ["slurmctld", "-D", "-i", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]  # fmt: skip

    def ask(*words: str) -> str:
        return attempt(folder, "env", f"SLURM_CONF={config}", *words).stdout

    started = []
    try:
        for words in daemons:
            with (folder / f"{words[0]}.output").open("w") as file:
                started.append(subprocess.Popen(words, env={**os.environ, "PATH": PATH}, stdout=file, stderr=file))
        until(lambda: "idle" in ask("sinfo", "-h", "-o", "%T"), seconds=60)
        yield config
    finally:
        if len(started) == len(daemons):
            ask("scancel", "--signal=KILL", "--full", "--user", user)
            ask("scancel", "--user", user)
            until(lambda: not ask("squeue", "-h"), seconds=60)
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait()
