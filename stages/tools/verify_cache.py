"""verify: reads every byte of the outputs and of DVC's cache again, and names what is not as it was: `make verify`.

Not a stage of the DAG. DVC hands out what its cache holds unread, and knows a changed file by its time of change: what
a failing disk does it does not see. That a file is missing it sees, and can mend: so `make verify MEND=1` removes what
is damaged. Not to be run while DVC is at work.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dvc.exceptions import DvcException
from dvc.repo import Repo
from tqdm import tqdm

from lib.core.errors import UserError
from stages.common.entrypoint import run
from stages.common.paths import SCRATCH

_CHUNK = 2**20  # bytes read at once
_REMEDY = "dvc repro brings back what is missing (where there is a remote, dvc pull first spares it the work)"


class Output(NamedTuple):
    """A file or folder as dvc.lock knows it; the md5 of a folder, which ends in .dir, is that of its manifest."""

    path: Path
    md5: str
    cached: bool


class Cache(NamedTuple):
    """DVC's cache: each file is named by the md5 of its content. A manifest (.dir) lists a folder's files and md5s."""

    folder: Path

    def path(self, md5: str) -> Path:
        return self.folder / md5[:2] / md5[2:]

    def files(self) -> dict[Path, str]:
        """All of them, with the md5 that each should have."""
        paths = [path for path in self.folder.glob("??/*") if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", path.name)]
        return {path: path.parent.name + path.stem for path in paths}


def main() -> None:
    outputs, cache = _project()
    kept = cache.files()
    written = [file for output in outputs for file in _files(output.path)]
    found = _md5s([*kept, *written])
    faults = {path: _fault(path, found, "damaged") for path, md5 in kept.items() if found[path] != md5}
    for output in outputs:
        faults |= _faults(output, cache, found)
    for path, fault in sorted(faults.items()):
        print(f"{path}: {fault}")
    if not faults:
        print(f"{len(found)} files, all as they were")
    elif sys.argv[1:] == ["mend"]:
        _remove(faults)
        print(f"what was damaged is removed: {_REMEDY}")
    else:
        raise UserError(f"faults: {len(faults)}; make verify MEND=1 removes what is damaged; then {_REMEDY}")


def _project() -> tuple[list[Output], Cache]:
    """The outputs that have been made, and the cache."""
    try:
        with Repo() as project:
            outputs = [
                Output(_from_here(out.fs_path), out.hash_info.value, out.use_cache)
                for out in project.index.outs
                if out.hash_info
            ]
            return outputs, Cache(_from_here(project.cache.local.path))
    except DvcException as error:
        raise UserError(str(error)) from error


def _from_here(path: str) -> Path:
    return Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else Path(path)


def _files(path: Path) -> list[Path]:
    """The file itself, or all in a folder; none where there is nothing."""
    return [file for file in (path, *path.rglob("*")) if file.is_file()]


def _inode(path: Path) -> tuple[int, int]:
    """The same for all hard links to the same bytes."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _md5s(paths: Iterable[Path]) -> dict[Path, str | OSError]:
    """By path; of what cannot be read, the reason. What is linked, as outputs are to the cache, is read once."""
    links: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        links.setdefault(_inode(path), []).append(path)
    total = sum(path.stat().st_size for path, *_ in links.values())
    found: dict[Path, str | OSError] = {}
    with tqdm(desc="verifying", total=total, unit="B", unit_scale=True, disable=None) as progress:
        for same in links.values():
            digest = hashlib.md5(usedforsecurity=False)
            try:
                with same[0].open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
                        progress.update(len(chunk))
                found |= dict.fromkeys(same, digest.hexdigest())
            except OSError as error:  # a bad sector: there may be more in other files
                found |= dict.fromkeys(same, error)
    return found


def _fault(path: Path, found: dict[Path, str | OSError], otherwise: str) -> str:
    """What is wrong with a file that has not the md5 that it should have."""
    match found.get(path):
        case None:
            return "missing"
        case OSError() as error:
            return f"unreadable ({error.strerror})"
        case _:
            return otherwise


def _faults(output: Output, cache: Cache, found: dict[Path, str | OSError]) -> dict[Path, str]:
    """What is wrong with an output, and what of it the cache lacks; `found` has the md5 of each file that there is."""
    content = {output.path: output.md5}
    if output.md5.endswith(".dir"):
        manifest = cache.path(output.md5)
        if found.get(manifest) != output.md5.removesuffix(".dir"):
            state = _fault(manifest, found, "damaged")
            return {manifest: state, output.path: f"cannot be checked, its manifest {manifest} is {state}"}
        listed = json.loads(manifest.read_text())
        content = {output.path / file["relpath"]: file["md5"] for file in listed}
    faults = {}
    for path, md5 in content.items():
        if found.get(path) != md5:
            faults[path] = _fault(path, found, "altered")
        if output.cached and cache.path(md5) not in found:
            faults[cache.path(md5)] = f"missing, it holds {path}"
    return faults | {path: "not of this output" for path in _files(output.path) if path not in content}


def _remove(paths: Iterable[Path]) -> None:
    """Removes files and folders, where they are there; and what stages would go on from, where it is the same bytes."""
    present = [path for path in paths if path.exists()]
    spoilt = {_inode(path) for path in present}
    for path in [*present, *(file for file in _files(SCRATCH) if _inode(file) in spoilt)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    run(main)
