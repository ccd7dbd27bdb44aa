"""`make verify`: damage of every kind is named, and told and tried is the way back to the very same bytes."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from stages.common.entrypoint import run
from stages.tools import verify_cache as verify
from tests.commands import command, outputs, stages_run
from tests.stages.imports import ROOT

DAG = """
stages:
  draw:
    cmd: python draw.py
    deps:
      - draw.py
    outs:
      - data/drawn
  write:
    cmd: mkdir -p metrics && cat data/drawn/*.bin > metrics/written.bin && wc -c metrics/written.bin > metrics/size.txt
    deps:
      - data/drawn
    outs:
      - metrics/written.bin
    metrics:
      - metrics/size.txt:
          cache: false
"""
# A stage that goes on from what it finds in the scratch folder, as those of this project do.
DRAW = """
from pathlib import Path
from lib.core.files import publish
scratch = Path(".scratch/draw")
scratch.mkdir(parents=True, exist_ok=True)
for name in ("a.bin", "b.bin"):
    if not (scratch / name).exists():
        (scratch / name).write_bytes(name.encode() * 1000)
publish(scratch.iterdir(), Path("data/drawn"))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project of two stages, run, its outputs hard links to the cache; and all pushed to a remote."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        for words in (
            "git init -q",
            "dvc init -q",
            "dvc config cache.type hardlink,copy",
            "dvc remote add -d near ../near",
        ):
            command(folder, *words.split())
        (folder / "dvc.yaml").write_text(DAG)
        (folder / "draw.py").write_text(DRAW)
        (folder / ".dvcignore").write_text(".scratch/\n")
        assert stages_run(command(folder, "dvc", "repro")) == ["draw", "write"]
        command(folder, "dvc", "push")
    return folder.parent


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    """A copy to damage, which is the current folder, with the hard links of the original."""
    command(tmp_path, "cp", "-a", *map(str, finished.iterdir()), ".")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command(Path(), "dvc", "status")  # DVC has now seen the files, and does not read them again
    return Path()


def cached(path: Path) -> Path:
    """What the cache has for an output, by dvc.lock; for a folder, its manifest."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
    return entry(next(out["md5"] for stage in stages for out in stage["outs"] if out["path"] == str(path)))


def entry(md5: str) -> Path:
    return Path(".dvc/cache/files/md5", md5[:2], md5[2:])


def content() -> dict[Path, bytes]:
    """All that DVC keeps: outputs, lock file and cache."""
    folders = (Path("data"), Path("metrics"), Path(".dvc/cache"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*files, Path("dvc.lock")]}


def verified(monkeypatch, capsys, *words: str) -> tuple[str, dict[str, str]]:
    """How `make verify` ends, in a line; and what it says of which file."""
    monkeypatch.setattr("sys.argv", ["verify", *words])
    capsys.readouterr()
    try:
        run(verify.main)
        *lines, end = capsys.readouterr().out.splitlines()
    except SystemExit as failed:
        lines, end = capsys.readouterr().out.splitlines(), str(failed)
    return end, dict(line.split(": ", 1) for line in lines)


def flip(path: Path) -> None:
    """One bit, as a failing disk does: neither size nor time tells."""
    status, data = path.stat(), path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])  # in place
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)


DRAWN, A, B = Path("data/drawn"), Path("data/drawn/a.bin"), Path("data/drawn/b.bin")
WRITTEN, SIZE = Path("metrics/written.bin"), Path("metrics/size.txt")


def test_what_is_sound_is_left_alone(project, monkeypatch, capsys):
    before = content()
    for words in ([], ["mend"]):
        assert verified(monkeypatch, capsys, *words) == ("9 files, all as they were", {})
    assert content() == before


# Each damages something, and returns what is to be said of it, and the stages that then must run again.


def a_bit_flips():
    listed = json.loads(cached(DRAWN).read_text())
    kept = entry(next(file["md5"] for file in listed if file["relpath"] == A.name))
    flip(A)
    return {A: "altered", kept: "damaged"}, ["draw"]


def an_output_is_cut_off():
    kept = cached(WRITTEN)
    kept.chmod(0o644)
    os.truncate(WRITTEN, 10)
    return {WRITTEN: "altered", kept: "damaged"}, ["write"]


def an_output_is_written_anew():
    WRITTEN.unlink()
    WRITTEN.write_text("anew")
    SIZE.write_text("0")
    return {WRITTEN: "altered", SIZE: "altered"}, []


def outputs_are_deleted():
    WRITTEN.unlink()
    SIZE.unlink()
    shutil.rmtree(DRAWN)
    return dict.fromkeys((A, B, WRITTEN, SIZE), "missing"), []


def a_stray_file_lies_in_a_folder():
    (DRAWN / "stray").touch()
    return {DRAWN / "stray": "not of this output"}, []


def the_cache_loses_a_file():
    cached(WRITTEN).unlink()
    return {cached(WRITTEN): f"missing, it holds {WRITTEN}"}, ["write"]


def a_bit_flips_in_a_manifest():
    flip(cached(DRAWN))
    manifest = cached(DRAWN)
    return {manifest: "damaged", DRAWN: f"cannot be checked, its manifest {manifest} is damaged"}, ["draw"]


def the_cache_is_lost():
    kept = [path for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]
    manifest = cached(DRAWN)
    told = {manifest: "missing", DRAWN: f"cannot be checked, its manifest {manifest} is missing"}
    told[cached(WRITTEN)] = f"missing, it holds {WRITTEN}"
    for path in kept:
        path.unlink()
    return told, ["draw", "write"]


DAMAGES = [
    a_bit_flips, an_output_is_cut_off, an_output_is_written_anew, outputs_are_deleted, a_stray_file_lies_in_a_folder,
    the_cache_loses_a_file, a_bit_flips_in_a_manifest, the_cache_is_lost,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_remedy_brings_back_the_very_same_bytes(project, monkeypatch, capsys, damage):
    before = content()
    told, stages = damage()
    damaged = content()
    end, faults = verified(monkeypatch, capsys)
    assert faults == {str(path): fault for path, fault in told.items()}
    assert end.startswith(f"error: faults: {len(told)}; make verify MEND=1 removes what is damaged; then dvc repro")
    assert content() == damaged

    end, again = verified(monkeypatch, capsys, "mend")
    assert again == faults
    assert end.startswith("what was damaged is removed: dvc repro")
    assert stages_run(command(project, "dvc", "repro")) == stages
    assert content() == before
    assert verified(monkeypatch, capsys) == ("9 files, all as they were", {})


def test_what_the_disk_cannot_read_is_named_and_all_else_is_read_nevertheless(project, monkeypatch, capsys):
    before = content()
    damaged = {WRITTEN, cached(WRITTEN), cached(DRAWN)}
    flip(A)
    kept = next(path for path in before if path != A and path.samefile(A))
    inodes, open_file = {path.stat().st_ino for path in damaged}, Path.open

    def fail(path: Path, *how, **more):
        if path.stat().st_ino in inodes:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return open_file(path, *how, **more)

    monkeypatch.setattr(Path, "open", fail)
    end, faults = verified(monkeypatch, capsys, "mend")
    monkeypatch.setattr(Path, "open", open_file)
    told = dict.fromkeys(map(str, damaged), "unreadable (Input/output error)")
    told[str(DRAWN)] = f"cannot be checked, its manifest {cached(DRAWN)} is unreadable (Input/output error)"
    assert faults == {**told, str(kept): "damaged"}
    assert end.startswith("what was damaged is removed: dvc repro")
    assert stages_run(command(project, "dvc", "repro")) == ["draw", "write"]
    assert content() == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", [a_bit_flips, a_bit_flips_in_a_manifest])
def test_where_there_is_a_remote_nothing_is_run_again(project, monkeypatch, capsys, damage):
    before = content()
    damage()
    verified(monkeypatch, capsys, "mend")
    command(project, "dvc", "pull")
    assert stages_run(command(project, "dvc", "repro")) == []
    assert content() == before


@pytest.mark.slow
def test_no_stage_goes_on_from_damaged_bytes(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    before = outputs(clone)
    shard = Path("data/features/features-00000.npy")
    (unfinished,) = Path(".scratch/features").rglob(shard.name)
    assert unfinished.samefile(shard)
    flip(shard)
    verified(monkeypatch, capsys, "mend")
    assert stages_run(command(clone, "dvc", "repro")) == ["features"]
    assert outputs(clone) == before


def test_dvc_itself_misses_a_flipped_bit(project):
    flip(A)
    assert "up to date" in command(project, "dvc", "status")
    assert stages_run(command(project, "dvc", "repro")) == []


def test_a_damaged_file_of_an_earlier_run_is_found_too(project, monkeypatch, capsys):
    before = content()
    earlier = entry("0123456789abcdef0123456789abcdef")
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_text("something else")
    assert verified(monkeypatch, capsys)[1] == {str(earlier): "damaged"}
    verified(monkeypatch, capsys, "mend")
    assert content() == before


def test_before_anything_was_run_there_is_nothing_to_find(project, monkeypatch, capsys):
    for name in ("dvc.lock", "data", "metrics", ".dvc/cache"):
        command(project, "rm", "-r", name)
    assert verified(monkeypatch, capsys) == ("0 files, all as they were", {})


def test_what_dvc_cannot_read_is_told_in_one_line(project, monkeypatch, capsys):
    Path("dvc.yaml").write_text("stages: [")
    end, _ = verified(monkeypatch, capsys)
    assert end.startswith("error: ")
    assert "dvc.yaml" in end
