"""A stage as DVC starts it: a process, its exit code, and what it says when something is wrong."""

import subprocess
import sys

import yaml

from tests.stages.imports import ROOT


def stage(folder, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"stages.{name}"]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_an_error_is_one_line_and_a_non_zero_exit(tmp_path):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["dataset"]["name"] = "coco"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    done = stage(tmp_path, "download")
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: dataset.name: got 'coco', should be 'scenes'")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
