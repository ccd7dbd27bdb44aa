"""`make verify` names every damaged file, and the fix that it prints restores the same bytes."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from stages.common.entrypoint import run
from stages.tools import verify_cache
from tests.commands import command, outputs, stages_run
from tests.stages.imports import ROOT

DAG = """
stages:
  draw:
    cmd: python draw.py
    deps: [draw.py]
    outs: [data/drawn]
  write:
    cmd: mkdir -p metrics && cat data/drawn/*.bin > metrics/written.bin && wc -c metrics/written.bin > metrics/size.txt
    deps: [data/drawn]
    outs: [metrics/written.bin]
    metrics: [{metrics/size.txt: {cache: false}}]
"""
# A stage that resumes from the scratch folder, like the stages of this project.
DRAW = """
from pathlib import Path
from lib.core.files import link_into
scratch = Path(".scratch/draw")
scratch.mkdir(parents=True, exist_ok=True)
for name in ("a.bin", "b.bin"):
    if not (scratch / name).exists():
        (scratch / name).write_bytes(name.encode() * 1000)
link_into(scratch.iterdir(), Path("data/drawn"))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the parent of a project of two stages, after `dvc repro` and `dvc push`. Outputs are hard links."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        setup = "git init -q; dvc init -q; dvc config cache.type hardlink,copy; dvc remote add -d near ../near"
        command(folder, "sh", "-ec", setup)
        (folder / "dvc.yaml").write_text(DAG)
        (folder / "draw.py").write_text(DRAW)
        (folder / ".dvcignore").write_text(".scratch/\n")
        assert stages_run(command(folder, "dvc", "repro")) == ["draw", "write"]
        command(folder, "dvc", "push")
    return folder.parent


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """Copy the project, with its hard links, to damage it, and change the current folder to the copy."""
    command(tmp_path, "cp", "-a", *map(str, finished.iterdir()), ".")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command(Path(), "dvc", "status")  # DVC records the times of the files, so it does not read them again
    return Path()


@pytest.fixture
def verify(monkeypatch, capsys):
    """Run `make verify`; return the fault of each file, and the last line."""

    def verify(*arguments: str) -> tuple[dict[Path, str], str]:
        monkeypatch.setattr("sys.argv", ["verify", *arguments])
        capsys.readouterr()
        try:
            run(verify_cache.main)
            *lines, last = capsys.readouterr().out.splitlines()
        except SystemExit as error:
            lines, last = capsys.readouterr().out.splitlines(), str(error)
        return {Path(path): fault for path, fault in (line.split(": ", 1) for line in lines)}, last

    return verify


def entry(md5: str) -> Path:
    return Path(".dvc/cache/files/md5", md5[:2], md5[2:])


def cached(path: Path) -> Path:
    """Return the cache file of an output; for a folder, the cache file of its manifest."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    return entry(next(out["md5"] for stage in stages for out in stage["outs"] if out["path"] == str(path)))


def content() -> dict[Path, bytes]:
    """Return the content of the outputs, the lock file and the cache."""
    paths = [path for folder in ("data", "metrics", ".dvc/cache") for path in Path(folder).rglob("*")]
    return {path: path.read_bytes() for path in [*paths, Path("dvc.lock")] if path.is_file()}


def flip(path: Path) -> None:
    """Flip one bit as a failing disk does, without a change of size, time or mode."""
    status, data = path.stat(), path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])  # in place, so that hard links change too
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DRAWN, A, B = Path("data/drawn"), Path("data/drawn/a.bin"), Path("data/drawn/b.bin")
WRITTEN, SIZE = Path("metrics/written.bin"), Path("metrics/size.txt")


def test_an_undamaged_project_does_not_change(project, verify):
    before = content()
    for arguments in ([], ["mend"]):
        faults, last = verify(*arguments)
        assert (faults, last[:9]) == ({}, "checked 6")
    assert content() == before


# Each function damages files. It returns the files that `make verify` must name, and the stages that must run again.


def flip_output_and_cache():
    (md5,) = (file["md5"] for file in json.loads(cached(DRAWN).read_text()) if file["relpath"] == A.name)
    flip(A)
    return {A, entry(md5)}, ["draw"]


def flip_copied_output():
    shutil.copy2(WRITTEN, "copy")
    Path("copy").replace(WRITTEN)
    command(Path(), "dvc", "status")
    flip(WRITTEN)
    return {WRITTEN}, []


def delete_outputs():
    command(Path(), "rm", "-r", str(WRITTEN), str(SIZE), str(DRAWN))
    return {A, B, WRITTEN, SIZE}, []


def delete_cache_file():
    cached(WRITTEN).unlink()
    return {cached(WRITTEN)}, ["write"]


def flip_manifest():
    flip(cached(DRAWN))
    return {cached(DRAWN)}, ["draw"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [flip_output_and_cache, flip_copied_output, delete_outputs, delete_cache_file, flip_manifest]
)
def test_damage_is_named_and_repro_restores_the_same_bytes(project, verify, damage):
    before = content()
    damaged, stages = damage()
    after = content()
    faults, last = verify()
    assert faults.keys() == damaged
    assert last.startswith("error: ")
    assert f" {len(damaged)}. Run make verify MEND=1 " in last
    assert content() == after

    removed, last = verify("mend")
    assert removed == faults
    assert "dvc repro" in last
    assert stages_run(command(project, "dvc", "repro")) == stages
    assert content() == before
    assert not verify()[0]


def test_an_unreadable_file_is_named_and_the_others_are_still_read(project, verify, monkeypatch):
    before = content()
    unreadable = {WRITTEN, cached(WRITTEN), cached(DRAWN)}
    flip(A)
    links = {path for path in before if path.samefile(A)}
    inodes, open_file = {path.stat().st_ino for path in unreadable}, Path.open

    def fail(path: Path, *arguments, **options):
        if path.stat().st_ino in inodes:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    faults, _ = verify("mend")
    monkeypatch.setattr(Path, "open", open_file)
    assert {path for path, fault in faults.items() if fault == "Input/output error"} == unreadable
    # Only the manifest lists A, and it is unreadable.
    assert {path for path, fault in faults.items() if fault == "damaged"} == links - {A}
    assert not A.exists()
    assert stages_run(command(project, "dvc", "repro")) == ["draw", "write"]
    assert content() == before


@pytest.mark.slow
def test_with_a_remote_no_stage_runs_again(project, verify):
    before = content()
    flip(A)
    flip(cached(DRAWN))
    verify("mend")
    command(project, "dvc", "pull")
    assert stages_run(command(project, "dvc", "repro")) == []
    assert content() == before


@pytest.mark.slow
def test_no_stage_resumes_from_damaged_bytes(clone, verify, monkeypatch):
    monkeypatch.chdir(clone)
    before = outputs(clone)
    shard = Path("data/features/features-00000.npy")
    (link,) = Path(".scratch/features").rglob(shard.name)
    assert link.samefile(shard)
    flip(shard)
    verify("mend")
    assert not link.exists()
    assert stages_run(command(clone, "dvc", "repro")) == ["features"]
    assert outputs(clone) == before


def test_a_damaged_file_of_an_earlier_run_is_removed(project, verify):
    before, earlier = content(), entry("0123456789abcdef0123456789abcdef")
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_text("something else")
    assert verify("mend")[0] == {earlier: "damaged"}
    assert content() == before


def test_a_project_that_has_not_run_has_no_faults(project, verify):
    command(project, "rm", "-r", "dvc.lock", "data", "metrics", ".dvc/cache")
    faults, last = verify()
    assert (faults, last[:9]) == ({}, "checked 0")


def test_a_malformed_dvc_yaml_is_named(project, verify):
    Path("dvc.yaml").write_text("stages: [")
    assert "dvc.yaml" in verify()[1]
