"""Read every byte of the outputs and of DVC's cache, and list the damaged files: `make verify`.

DVC does not read a file again if its size and modification time are unchanged, so it misses damage by a failing disk.
But DVC restores missing files. So `make verify MEND=1` removes the damaged files. Do not run this tool while DVC runs.
"""

import hashlib
import json
import os
import sys
from operator import attrgetter
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from tqdm import tqdm

from lib.core.errors import UserError, short_line
from stages.common.entrypoint import run
from stages.common.paths import METRICS, SCRATCH

_FIX = "dvc repro to restore them (with a remote, run dvc pull first)"
_inode = attrgetter("st_dev", "st_ino")


def main() -> None:
    try:
        with Repo() as project:
            cache = Path(os.path.relpath(project.cache.local.path))
            outs = [out for out in project.index.outs if out.hash_info]  # stages that have not run have no hash
    except DvcException as error:
        raise UserError(str(error)) from error
    digests: dict[tuple[int, int], str] = {}  # key: inode, because an output may be a hard link to its cache file
    faults: dict[Path, str] = {}

    def check(path: Path, md5: str) -> bool:
        try:
            if (inode := _inode(path.stat())) not in digests:
                with path.open("rb") as file:
                    digests[inode] = hashlib.file_digest(file, "md5").hexdigest()
            if digests[inode] != md5.removesuffix(".dir"):
                faults[path] = "damaged"
        except OSError as error:  # a missing file or a bad sector; continue with the other files
            faults[path] = error.strerror or str(error)
        return path not in faults

    for path in tqdm([path for path in cache.glob("??/*") if len(path.stem) == 30], "cache", unit="file", disable=None):
        check(path, path.parent.name + path.name)
    for out in outs:
        output, md5 = Path(os.path.relpath(out.fs_path)), out.hash_info.value
        files = {output: md5}
        if md5.endswith(".dir"):
            manifest = cache / md5[:2] / md5[2:]
            listed = json.loads(manifest.read_text()) if check(manifest, md5) else []
            files = {output / file["relpath"]: file["md5"] for file in listed}
        for path, file_md5 in files.items():
            check(path, file_md5)
            if out.use_cache:
                check(cache / file_md5[:2] / file_md5[2:], file_md5)
    for path, fault in sorted(faults.items()):
        print(short_line(f"{path}: {fault}"))
    if not faults:
        print(f"checked {len(digests)} files: no file is damaged or missing")
    elif sys.argv[1:] == ["mend"]:
        inodes = {_inode(path.stat()) for path in faults if path.exists()}
        for folder in (cache, SCRATCH, Path("data"), METRICS):  # also in SCRATCH, because stages resume from its files
            for path in folder.rglob("*"):
                if path.is_file() and _inode(path.stat()) in inodes:
                    path.unlink()
        print(f"removed the damaged files. Run {_FIX}.")
    else:
        fix = f"Run make verify MEND=1 to remove the damaged files, then {_FIX}"
        raise UserError(f"damaged or missing files, listed above: {len(faults)}. {fix}.")


if __name__ == "__main__":
    run(main)
