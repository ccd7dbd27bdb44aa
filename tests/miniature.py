"""Miniatures of COCO and Flickr8k: the names and layout of the real files, with a few drawn images."""

import hashlib
import json
import zipfile
from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path

from lib.core.tables import SPLITS
from lib.core.zips import write_stored_zip
from lib.scenes.dataset import make_scene
from lib.scenes.world import KINDS

PICTURES = 40
# Roles of images 1 to 10; they repeat for the next images. Karpathy adds restval, a part of val2014, to train.
_ROLES = [*["train"] * 6, "restval", "val", "test", "unlisted"]


def roles() -> dict[int, str]:
    """Return the role of each image id: train, restval, val, test or unlisted (in no list)."""
    return dict(enumerate(islice(cycle(_ROLES), PICTURES), 1))


def split_of(role: str) -> str:
    return "train" if role == "restval" else role


def file_name(image_id: int, year: int) -> str:
    """Return the path of an image in COCO's zip. Its folder has the name of the zip."""
    if year == 2014:
        part = "train2014" if roles()[image_id] == "train" else "val2014"
        return f"{part}/COCO_{part}_{image_id:012d}.jpg"
    # val2017 is a part of val2014, and has images of every split.
    part = "val2017" if roles()[image_id] != "train" and image_id <= PICTURES // 2 else "train2017"
    return f"{part}/{image_id:012d}.jpg"


def draw(image_ids: Iterable[int], size: int) -> dict[int, tuple[bytes, list[str]]]:
    """Return (JPEG of size x size pixels, five captions) of each image id."""
    return {i: make_scene(i, seed=1, size=size, mix=dict.fromkeys(KINDS, 1.0))[1:] for i in image_ids}


def pictures() -> dict[int, tuple[bytes, list[str]]]:
    """Return (JPEG, captions) of each image id of the miniatures."""
    return draw(roles(), 48)


def write_coco(folder: Path, year: int) -> list[Path]:
    """Write COCO's three zips and Karpathy's three lists, which use the file names of 2014 for both years."""
    folder.mkdir(parents=True, exist_ok=True)
    images = pictures()
    captions = {}
    for part in (f"train{year}", f"val{year}"):
        ids = [image_id for image_id in images if file_name(image_id, year).startswith(f"{part}/")]
        members = [(file_name(image_id, year), images[image_id][0]) for image_id in ids]
        write_stored_zip(folder / f"{part}.zip", [(f"{part}/", b""), *members])
        captions[part] = {
            "info": {"year": year},
            "images": [{"id": i, "file_name": file_name(i, year).rpartition("/")[2], "height": 48} for i in ids],
            "annotations": [
                {"id": 5 * i + n, "image_id": i, "caption": c} for i in ids for n, c in enumerate(images[i][1])
            ],
        }
    write_annotations(folder, year, captions)
    lists: dict[str, list] = {split: [] for split in SPLITS}
    for image_id, role in roles().items():
        if role != "unlisted":
            lists[split_of(role)] += karpathy_rows(split_of(role), image_id, images[image_id][1])
    for split, rows in lists.items():
        (folder / f"coco_karpathy_{split}.json").write_text(json.dumps(rows))
    return sorted(folder.iterdir())


def write_annotations(folder: Path, year: int, captions: dict[str, dict]) -> None:
    """Write COCO's annotation zip. `captions` has the content of the JSON of each part, such as train2014."""
    texts = {f"annotations/captions_{part}.json": json.dumps(content) for part, content in captions.items()}
    _write_deflated(folder / f"annotations_trainval{year}.zip", texts | {"annotations/instances.json": "[1, 2, 3]"})


def _write_deflated(path: Path, texts: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def karpathy_rows(split: str, image_id: int, captions: list[str]) -> list[dict]:
    """Return the rows of one image: in train one row per caption, in val and test one row with all captions."""
    name = file_name(image_id, 2014)
    if split == "train":
        return [{"caption": caption, "image": name, "image_id": f"coco_{image_id}"} for caption in captions]
    return [{"image": name, "caption": captions}]


def flickr_name(image_id: int) -> str:
    return f"{image_id}_{hashlib.sha1(str(image_id).encode()).hexdigest()[:10]}.jpg"


def write_flickr8k(folder: Path) -> list[Path]:
    """Write Flickr8k's two zips, with the junk files of macOS and a caption of an image that is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    images = pictures()
    members = [("Flicker8k_Dataset/", b"")]
    for image_id, (jpeg, _) in images.items():
        name = flickr_name(image_id)
        members += [(f"Flicker8k_Dataset/{name}", jpeg), (f"__MACOSX/Flicker8k_Dataset/._{name}", b"junk")]
    write_stored_zip(folder / "Flickr8k_Dataset.zip", members)

    lines = ["2258277193_586949ec62.jpg.1#0\tSome people are here .\n"]
    for image_id, (_, captions) in images.items():
        lines += [f"{flickr_name(image_id)}#{number}\t{caption}\n" for number, caption in enumerate(captions)]
    texts = {"Flickr8k.token.txt": "".join(lines), "__MACOSX/._Flickr8k.token.txt": "\0junk"}
    for name, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        names = [flickr_name(image_id) for image_id, role in roles().items() if split_of(role) == split]
        texts[f"Flickr_8k.{name}Images.txt"] = "".join(f"{name}\n" for name in names)
    _write_deflated(folder / "Flickr8k_text.zip", texts)
    return sorted(folder.iterdir())


def write_checksums(files: list[Path], path: Path) -> Path:
    """Write a file of `md5  name` lines, for `dataset.checksums`."""
    lines = [f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    path.write_text("".join(lines))
    return path
