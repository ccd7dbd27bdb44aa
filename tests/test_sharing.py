"""Results, experiments and the model go from clone to clone through a remote, and nothing runs again."""

import logging
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import attempt, command, commit, outputs, stages_run

pytestmark = pytest.mark.slow


@pytest.fixture
def local_remote(tmp_path):
    return {"url": str(tmp_path / "remote")}


@pytest.fixture
def s3_remote(monkeypatch):
    """Yield the settings of a remote on a local S3 server (moto)."""
    for name in ("dvc_s3", "flask_cors"):
        pytest.importorskip(name)
    boto3, servers = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    access = "AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1 NO_PROXY=127.0.0.1"
    for variable in access.split():
        monkeypatch.setenv(*variable.split("="))
    server = servers.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # otherwise it prints every request
    url = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="captions")
    yield {"url": "s3://captions/pipeline", "endpointurl": url}
    server.stop()


def share(clone: Path, folder: Path, remote: dict[str, str]) -> Path:
    """Push a copy of the finished project to a remote and to hub.git in `folder`; return the copy."""
    author = shutil.copytree(clone, folder / "author")
    command(author, "dvc", "remote", "add", "--default", "shared", remote["url"])
    for name, value in remote.items():
        command(author, "dvc", "remote", "modify", "shared", name, value)
    commit(author, "remote")
    command(author, "dvc", "push")
    command(folder, "git", "clone", "-q", "--bare", str(author), "hub.git")
    command(author, "git", "remote", "set-url", "origin", str(folder / "hub.git"))
    return author


@pytest.mark.parametrize("remote", ["local_remote", "s3_remote"])
def test_results_and_experiments_go_from_clone_to_clone_and_nothing_runs_again(clone, tmp_path, remote, request):
    author = share(clone, tmp_path, request.getfixturevalue(remote))
    command(tmp_path, "git", "clone", "-q", "hub.git", "reader")
    reader = tmp_path / "reader"

    command(reader, "dvc", "pull", "data/model")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (48, 48), "red").save(picture)
    assert command(reader, "python", "-m", "lib.app.caption", str(picture)).startswith(f"{picture}: ")
    command(reader, "dvc", "pull")
    assert stages_run(command(reader, "dvc", "repro")) == []
    assert outputs(reader) == outputs(author)

    ran = command(reader, "dvc", "exp", "run", "--name", "longer", "-S", "generate.min_length=3")
    assert stages_run(ran) == ["generate", "evaluate", "report"]
    command(reader, "dvc", "exp", "push", "origin", "longer")
    command(author, "dvc", "exp", "pull", "origin", "longer")
    command(author, "dvc", "exp", "apply", "longer")
    assert stages_run(command(author, "dvc", "repro")) == []
    assert outputs(author) == outputs(reader)


def test_the_model_can_be_downloaded_by_its_name(clone, tmp_path, local_remote):
    author = share(clone, tmp_path, local_remote)
    command(author, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "captioner@v1.0.0", "-m", "1")
    command(author, "git", "push", "-q", "origin", "captioner@v1.0.0")
    command(tmp_path, "dvc", "artifacts", "get", "hub.git", "captioner", "--out", "model")
    command(tmp_path, "dvc", "get", "hub.git", "data/model", "--out", "by_path")
    for folder in ("model", "by_path"):
        command(tmp_path, "diff", "-r", folder, str(author / "data/model"))


def test_check_lock_needs_no_data(clone, tmp_path, local_remote):
    author = share(clone, tmp_path, local_remote)
    assert "No changes" in command(author, "dvc", "data", "status", "--not-in-remote")
    command(tmp_path, "git", "clone", "-q", "hub.git", "checker")
    checker = tmp_path / "checker"

    def check() -> str:
        done = attempt(checker, "make", "-o", ".venv/.ready", "check-lock")
        assert (done.returncode == 0) == (done.stdout == "dvc.lock is up to date\n")
        assert done.returncode == 0 or "error: dvc.lock is out of date" in done.stderr
        return done.stdout

    assert check() == "dvc.lock is up to date\n"
    for name, change, stage in [
        ("params.yaml", ("min_length: 0", "min_length: 3"), "generate"),
        ("dvc.lock", ("md5: ", "md5: 0"), "download"),
        ("dvc.yaml", ("stages.train\n", "stages.train x\n"), "train"),
        ("stages/download.py", ("import", "\nimport"), "download"),
        ("lib/gradients/gradient_flow.py", ("import", "\nimport"), "gradients"),
        ("metrics/scores.json", ("{", "{ "), "evaluate"),
    ]:
        text = (checker / name).read_text()
        (checker / name).write_text(text.replace(*change, 1))
        assert re.findall(r"(?:Running stage|failed to reproduce) '(\w+)'", check()) == [stage], name
        (checker / name).write_text(text)
    (checker / "dvc.lock").write_text("stages: [")
    assert "'./dvc.lock' is invalid" in check()
    command(checker, "git", "checkout", "dvc.lock")
    assert check() == "dvc.lock is up to date\n"
