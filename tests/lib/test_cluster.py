"""Extraction on Ray: two real nodes on this machine; a process and a node are killed during the work."""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from lib.core.errors import UserError
from lib.extraction import extract as extraction
from lib.extraction.extract import ExtractionConfig, extract
from lib.extraction.ray_cluster import RayCluster, connect
from lib.vision.backbones import Backbone, random_init
from tests.commands import attempt, command, free_port
from tests.pictures import saved
from tests.stages.imports import ROOT

IMAGES, UNREADABLE, SHARDS = 64, 5, 8
DOOMED = 3  # the shard in which a process is killed


def on_ray(test):
    has_ray = importlib.util.find_spec("ray") is not None
    return pytest.mark.slow(pytest.mark.skipif(not has_ray, reason="Ray is not installed")(test))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project before its `features` stage: photographs, some of them unreadable, and a backbone."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("data/raw", "data/captions"):
        (folder / name).mkdir(parents=True)
    members, splits = [f"{i}.png" for i in range(IMAGES)], ["train"] * (IMAGES - 2) + ["val", "test"]
    with zipfile.ZipFile(folder / "data/raw/photos.zip", "w") as archive:
        for i, name in enumerate(members):
            archive.writestr(
                name, saved(Image.effect_noise((70, 60), 20 + i).convert("RGB")) if i >= UNREADABLE else b""
            )
    table = {"image_id": range(IMAGES), "archive": "photos.zip", "member": members, "split": splits}
    pd.DataFrame(table).to_parquet(folder / "data/captions/images.parquet")
    torch.manual_seed(0)
    random_init("small_net").save(folder / "data/backbone")
    return folder


def extracted(project: Path, scratch: Path, **changes) -> dict[str, bytes]:
    """Extract features; return the files."""
    images = pd.read_parquet(project / "data/captions/images.parquet")
    settings = {"backbone": Backbone.load(project / "data/backbone"), "kind": "grid", "precision": "float32"} | changes
    made = extract(images, ExtractionConfig(project / "data/raw", batch_size=2, **settings), scratch, 1)
    return {path.name: path.read_bytes() for path in sorted(made.folder.iterdir())}


@pytest.fixture
def serial(project, tmp_path, monkeypatch):
    """Return the files that one machine writes without Ray, in eight shards."""
    monkeypatch.setattr(extraction, "SHARD_SIZE", IMAGES // SHARDS)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return extracted(project, tmp_path / "serial")


def start_node(*options: str, isolation: tuple[str, ...] = ()) -> int:
    """Run `ray start`; return the session id of the node's processes."""
    ray = Path(sys.executable).with_name("ray")
    words = [*isolation, ray, "start", "--num-cpus=1", *options]
    for _ in range(5):  # Ray gives a node 30 s to start, and a busy machine may need more
        with tempfile.TemporaryFile("w+") as output:  # not a pipe, because the node would keep it open
            start = subprocess.Popen(words, start_new_session=True, stdout=output, stderr=output)
            if start.wait() == 0:
                return start.pid
            kill_node(start.pid)
            output.seek(0)
            text = output.read()
    raise AssertionError(text)


def kill_node(session: int) -> None:
    """Kill all processes of a node. If this process is one of them, kill it last."""
    processes = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
    for process in (*(processes - {os.getpid()}), os.getpid()):
        try:
            if os.getsid(process) == session:
                os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.fixture(scope="module")
def head():
    """Yield the address of a cluster of one node."""
    address = f"127.0.0.1:{free_port()}"
    folder = tempfile.mkdtemp(prefix="ray-")  # the paths of Ray's sockets must be short
    options = ["--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # without a token, a cluster runs code from anyone
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        session = start_node(*options, "--include-dashboard=false", "--disable-usage-stats")
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes do not have this module
        yield address
        kill_node(session)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_head(head, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", head)


@pytest.fixture
def second(head):
    """Yield the session id of the cluster's second node."""
    session = start_node(f"--address={head}")
    yield session
    kill_node(session)


@pytest.fixture
def watch(monkeypatch, tmp_path):
    """Make each task log its shard and node, and call `fault` during it; return the log."""
    log, run = tmp_path / "log", RayCluster.run

    def start(fault=lambda number, log: None):
        def watched_run(self, work, *others):
            return run(self, partial(watched_work, work, log, fault), *others)

        monkeypatch.setattr(RayCluster, "run", watched_run)
        return log

    return start


def watched_work(work, log, fault, shards, folder, threads):
    (number,) = shards
    with log.open("a") as file:
        print(number, os.getsid(0), file=file)
    (config,) = work.args
    for _ in extraction._extract_threads(config, shards, folder, threads):
        fault(number, log)


def attempts(log: Path, session: int | None = None) -> list[int]:
    """Return the shard of each attempt, in order; if a node's session is given, of each attempt on that node."""
    entries = [line.split() for line in log.read_text().splitlines()]
    return [int(shard) for shard, node in entries if session in (None, int(node))]


@on_ray
def test_only_the_shard_of_a_killed_process_is_retried(project, serial, on_head, second, watch, tmp_path):
    def fault(number, log):
        if number == DOOMED and attempts(log).count(DOOMED) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    log = watch(fault)
    assert extracted(project, tmp_path / "ray") == serial
    assert sorted(attempts(log)) == sorted([*range(SHARDS), DOOMED])


@on_ray
def test_only_the_shard_of_a_killed_node_is_retried(project, serial, on_head, second, watch, tmp_path):
    def fault(number, log):
        while len(attempts(log, second)) < 2:  # the head waits until the second node has its second shard
            if os.getsid(0) == second:
                return
            time.sleep(0.1)
        if os.getsid(0) == second:
            kill_node(second)

    log = watch(fault)
    assert extracted(project, tmp_path / "ray") == serial
    finished, lost = attempts(log, second)
    assert finished != lost
    assert sorted(attempts(log)) == sorted([*range(SHARDS), lost])


@on_ray
def test_a_shard_that_always_kills_its_process_is_an_error(project, serial, on_head, watch, tmp_path):
    def fault(number, log):
        if number == DOOMED:
            os.kill(os.getpid(), signal.SIGKILL)

    log = watch(fault)
    with pytest.raises(UserError, match=f"shard {DOOMED} in 4 attempts") as error:
        extracted(project, tmp_path / "ray")
    assert "\n" not in str(error.value)
    assert attempts(log).count(DOOMED) == 4


@on_ray
def test_a_shards_own_error_is_raised_and_not_retried(project, serial, on_head, watch, tmp_path):
    log = watch()
    broken = Backbone.load(project / "data/backbone")
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"^small_net .*not finite") as error:
        extracted(project, tmp_path / "ray", backbone=broken)
    assert "\n" not in str(error.value)
    assert len(attempts(log)) == len(set(attempts(log)))


@on_ray
def test_the_features_stage_runs_on_a_cluster(project, on_head):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["features"] |= {"pca_components": None, "max_skipped": 0.5}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    command(project, "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "stages.features")
    assert (project / "data/features/features-00000.npy").exists()


@on_ray
def test_a_node_that_does_not_see_the_storage_is_an_error(project, serial, on_head, head, tmp_path):
    own = ("unshare", "--map-root-user", "--mount", "--uts", "sh", "-c")
    if attempt(tmp_path, *own, "true").returncode != 0:
        pytest.skip("this system allows no namespaces")
    blind = 'echo blind > /proc/sys/kernel/hostname && mount -t tmpfs none "$0" && exec "$@"'
    session = start_node(f"--address={head}", isolation=(*own, blind, str(tmp_path)))
    try:
        with pytest.raises(UserError, match=rf"^node blind .* {tmp_path}/ray/\w+/attempts-\w+\."):
            extracted(project, tmp_path / "ray")
    finally:
        kill_node(session)


@pytest.mark.parametrize(
    ("address", "ray", "message"),
    [
        ("auto", None, r", but Ray is not installed.*\[ray\]"),
        (f"127.0.0.1:{free_port()}", SimpleNamespace(), ": no Ray cluster answers"),
        ("ray://head:10001", SimpleNamespace(), ": .*HOST:PORT"),
    ],
    ids=["Ray is not installed", "nobody listens", "Ray's client"],
)
def test_an_unusable_address_is_an_error(project, tmp_path, monkeypatch, address, ray, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS={address}{message}"):
        extracted(project, tmp_path)


@pytest.mark.parametrize(
    ("wanted", "nodes", "share"),
    [
        ("", [{"CPU": 8}, {"CPU": 2}], RayCluster("cpu", cpus=1)),
        ("", [{"CPU": 64}, {"CPU": 32, "GPU": 4}, {"CPU": 24, "GPU": 2}], RayCluster("cuda", cpus=8)),
        ("cpu", [{"CPU": 32, "GPU": 4}], RayCluster("cpu", cpus=1)),
    ],
)
def test_a_task_gets_a_gpu_if_a_node_has_one(monkeypatch, wanted, nodes, share):
    dead = {"Alive": False, "Resources": {"CPU": 1, "GPU": 1}}
    found = [dead, *({"Alive": True, "Resources": resources} for resources in nodes)]
    fake_ray = SimpleNamespace(init=lambda *args, **options: None, shutdown=lambda: None, nodes=lambda: found)
    monkeypatch.setitem(sys.modules, "ray", fake_ray)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("CAPTION_DEVICE", wanted)
    with connect() as cluster:
        assert cluster == share
