"""Annotations from one file, a file per split, or a folder (or a zip) of files."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.core.archives import Tar, Zip, is_tar, open_archive
from lib.core.errors import UserError, readable_errors
from lib.core.file_types import IMAGE_SUFFIXES
from lib.core.names import is_hidden, match_names, split_word
from lib.datasets.formats import Annotations, Columns, read_document
from lib.datasets.formats.document import MAX_BYTES, Document, UnknownFormatError
from lib.datasets.formats.records import caption_texts, find_columns, short, tables

_SUFFIXES = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".token", ".gz"}
_TEXTS = {".txt", ".caption"}


class _Folder:
    """A folder as a flat list of files."""

    def __init__(self, path: Path):
        self.path = path
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        self.names = [name for file in files if not is_hidden(name := file.relative_to(path).as_posix())]

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class _Archive:
    """A zip or tar as a flat list of files."""

    def __init__(self, path: Path):
        self.path, self.archive = path, open_archive(path)
        self.names = sorted(name for name in self.archive.namelist() if not is_hidden(name))

    def read(self, name: str) -> bytes:
        return self.archive.read(name, MAX_BYTES)


_Tree = _Folder | _Archive


@dataclass(frozen=True)
class _Part:
    """The annotations of one file, and its split according to its name or the user."""

    name: str
    split: str | None
    annotations: Annotations


def read_source(source: Path | Mapping[str, Path], columns: Columns | None = None) -> Annotations:
    """Read a file or a folder, or a mapping of train, val and test to files or folders. Raises UserError.

    `columns` names the columns of tables. Files that have no captions are left out of a folder, with a note.
    """
    if isinstance(source, Path):
        return _combine(_parts(source, columns), source)
    parts = []
    for split, path in source.items():
        for part in _parts(path, columns):
            first = path.parent / next(iter(part.annotations.images["file_name"]), "")
            if path.is_file() and os.path.isfile(first):  # noqa: PTH113 (is_file() raises for a long name)
                _prepend(path.parent.name, part.annotations)  # other splits may have an image of the same name
            own = set(part.annotations.images.get("split", ()))
            if own - {split}:
                problem = f"these annotations themselves assign images to the split {sorted(own - {split})[0]}"
                fix = "Set dataset.local.annotations to this path, not to a mapping of splits."
                raise UserError(f"dataset.local.annotations.{split}={path}: {problem}. {fix}")
            parts.append(_Part(split if part.name == path.name else f"{split}/{part.name}", split, part.annotations))
    return _combine(parts, Path(", ".join(path.name for path in source.values())))


def _parts(path: Path, columns: Columns | None) -> list[_Part]:
    if path.is_dir():
        return _tree_parts(_Folder(path), columns)
    with readable_errors(path):
        content = path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else b""
        if content[:4] == b"PK\x03\x04" or is_tar(path):
            return _tree_parts(_Archive(path), columns)
        if not content:
            raise UserError(f"{path} is empty, not a file, or larger than {MAX_BYTES} bytes. Use another file.")
    return [_Part(path.name, None, read_document(Document(content, path), columns))]


def _tree_parts(tree: _Tree, columns: Columns | None) -> list[_Part]:
    if shards := _shard_parts(tree):
        return shards
    files = [name for name in tree.names if _suffix(name) in _SUFFIXES]
    texts = [name for name in tree.names if _suffix(name) in _TEXTS]
    stems = {_stem(name): name for name in tree.names if _suffix(name) not in _TEXTS | _SUFFIXES}
    beside = [name for name in texts if _stem(name) in stems]
    if not files and beside:
        return _text_parts(tree, beside, stems)
    parts, left_out = [], []
    for name in files + [name for name in texts if name not in beside]:
        try:
            parts.append(_file_part(tree, name, columns))
        except UnknownFormatError:
            left_out.append(name)
    if not parts and len(left_out) > 1 and set(left_out) <= set(texts):  # captions alone; images are elsewhere
        return _text_parts(tree, texts, {_stem(name): _stem(name) for name in texts})
    if not parts:
        problem = f"no file has a known caption format ({short(left_out or tree.names, 4)})"
        raise UnknownFormatError(f"dataset.local.annotations={tree.path}: {problem}. See docs/datasets.md.")
    lists = _apply_split_lists(tree, left_out, parts)
    if left_out := [name for name in left_out if name not in lists]:
        parts[0].annotations.notes.append(f"{len(left_out)} files without captions were not used: {short(left_out, 3)}")
    return parts


def _shard_parts(tree: _Tree) -> list[_Part]:
    """Return the parts of a WebDataset (a tar, or a folder of tars without images), or [] for any other tree."""
    if isinstance(tree, _Archive):
        is_shard = isinstance(tree.archive, Tar)
        return [_Part(tree.path.name, None, _read_shard(tree.archive, "", tree.path))] if is_shard else []
    if any(_suffix(name) in IMAGE_SUFFIXES for name in tree.names):
        return []
    shards = [name for name in tree.names if name.endswith(".tar")]
    return [_Part(n, _split_in(n), _read_shard(open_archive(tree.path / n), n, tree.path / n)) for n in shards]


def _file_part(tree: _Tree, name: str, columns: Columns | None) -> _Part:
    path = tree.path / name
    with readable_errors(path):
        content = tree.read(name)
    annotations = read_document(Document(content, path), columns)
    folder = name.rpartition("/")[0]
    beside_it = (folder + "/" + annotations.images["file_name"]).isin(tree.names).mean() > 0.5
    if folder and (beside_it or PurePosixPath(name).stem == "metadata"):  # Hugging Face's and Roboflow's names
        _prepend(folder, annotations)
    return _Part(name, None if "split" in annotations.images else _split_in(name), annotations)


def _prepend(folder: str, annotations: Annotations) -> None:
    """Put `folder` before the file names, and before ids that are file names."""
    names = folder + "/" + annotations.images["file_name"]
    if annotations.images["file_name"].equals(annotations.images["image_id"]):  # the file name is the id
        annotations.captions = annotations.captions.assign(image_id=folder + "/" + annotations.captions["image_id"])
        annotations.images = annotations.images.assign(image_id=names)
    annotations.images = annotations.images.assign(file_name=names)


def _apply_split_lists(tree: _Tree, names: Sequence[str], parts: Sequence[_Part]) -> list[str]:
    """Set the splits from lists of images, one per line, such as Flickr_8k.trainImages.txt. Return the lists used.

    Ignore the lists if the annotations or the names of their files have a split. Raises UserError.
    """
    if any(part.split or "split" in part.annotations.images for part in parts):
        return []
    images = [name for part in parts for name in part.annotations.images["file_name"]]
    lists: list[str] = []
    splits: dict[str, str] = {}
    for name in names:
        split = _split_in(name) if _suffix(name) in _TEXTS else None
        found = [match.name for match in match_names(_lines(tree, name), images)] if split else []
        if split and found.count(None) < len(found) / 2:
            lists.append(name)
            for image in filter(None, found):
                if splits.setdefault(image, split) != split:
                    problem = f"the image {image!r:.80} is also in the list of the split {splits[image]}"
                    raise UserError(f"{tree.path / name}: {problem}. List each image in one split only.")
    for part in parts if lists else ():
        _set_splits(part.annotations, splits, lists)
    return lists


def _set_splits(annotations: Annotations, splits: Mapping[str, str], lists: Sequence[str]) -> None:
    """Set the split by file name. Remove other images, with a note."""
    images, captions = annotations.images, annotations.captions
    kept = images["file_name"].isin(list(splits))
    annotations.notes.append(f"splits are from {short(lists, 3)}")
    if unlisted := int((~kept).sum()):
        annotations.notes.append(f"{unlisted} images left out, because no list of a split has them")
    images = images[kept].reset_index(drop=True)
    annotations.images = images.assign(split=images["file_name"].map(splits).astype("str"))
    annotations.captions = captions[captions["image_id"].isin(images["image_id"])].reset_index(drop=True)


def _lines(tree: _Tree, name: str) -> list[str]:
    return [line.strip() for line in Document(tree.read(name), tree.path / name).lines if line.strip()]


def _text_parts(tree: _Tree, texts: Sequence[str], names: Mapping[str, str]) -> list[_Part]:
    """Read text files. Each has the captions of one image, one per line."""
    images, captions = {}, []
    splits = {text: next(filter(None, map(split_word, text.split("/")[:-1])), None) for text in texts}
    has_split = all(splits.values())
    for text in texts:
        name = names[_stem(text)]
        images[name] = name, splits[text] if has_split else None
        lines = Document(tree.read(text), tree.path / text).lines
        captions += [(name, line.strip()) for line in lines if line.strip()]
    return [_Part(tree.path.name, None, tables(str(tree.path), "text files by image", images, captions, []))]


def _read_shard(shard: Zip | Tar, prefix: str, path: Path) -> Annotations:
    """Read a WebDataset shard: files with the same name up to the first dot belong to one example."""
    examples: dict[str, dict[str, str]] = {}
    for member in shard.namelist():
        folder, _, name = member.rpartition("/")
        stem, _, extension = name.partition(".")
        if not is_hidden(member):
            examples.setdefault(f"{folder}/{stem}".lstrip("/"), {})[extension.lower()] = member
    images, captions, without = {}, [], 0
    for key, files in examples.items():
        image = next((member for extension, member in files.items() if f".{extension}" in IMAGE_SUFFIXES), None)
        texts: list[str] = []
        with readable_errors(path / key):
            if "txt" in files:
                texts = Document(shard.read(files["txt"], MAX_BYTES), path / files["txt"]).text.splitlines()
            elif "json" in files:
                content = Document(shard.read(files["json"], MAX_BYTES), path / files["json"]).json
                columns = find_columns(list(content))["caption"] if isinstance(content, dict) else []
                texts = [text for name in columns for text in caption_texts(content[name], f"{path / files['json']}")]
        if image is None or not texts:
            without += 1
            continue
        images[key] = f"{prefix}/{image}".lstrip("/"), None
        captions += [(key, text.strip()) for text in texts if text.strip()]
    if not images:
        raise UnknownFormatError(f"{path} has no image with a .txt or .json of the same name. See docs/datasets.md.")
    notes = [f"{without} examples of {path.name} have no image or no caption"] if without else []
    return tables(str(path), "WebDataset", images, captions, notes)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _split_in(name: str) -> str | None:
    """Return the split in a file's name or, if there is none, in its folders. Return None if there is none either.

    Examples are captions_train2014.json and valid/metadata.csv.
    """
    for part in reversed(name.split("/")):
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)
        found = {split for word in words if (split := split_word(word))}
        if len(found) == 1:
            return found.pop()
    return None


def _combine(parts: Sequence[_Part], source: Path) -> Annotations:
    """Return one table of images and one of captions. Files may use one id for different images. Raises UserError."""
    has_split = [part.split is not None or "split" in part.annotations.images for part in parts]
    if any(has_split) and not all(has_split):
        name = parts[has_split.index(False)].name
        problem = f"{name} has no split in its content or its name, but other files have one"
        raise UserError(f"dataset.local.annotations={source}: {problem}. Rename it, for example to train.json.")
    for part in parts:
        if part.split and "split" not in part.annotations.images:
            part.annotations.images = part.annotations.images.assign(split=part.split)
    _separate_ids(parts)
    images = pd.concat([part.annotations.images for part in parts], ignore_index=True)
    captions = pd.concat([part.annotations.captions for part in parts], ignore_index=True)
    kind = " and ".join(dict.fromkeys(part.annotations.format for part in parts))
    if len(parts) == 1:
        return Annotations(kind, images, captions, parts[0].annotations.notes)
    notes = [f"{part.name}: {note}" for part in parts for note in part.annotations.notes]
    kind += f" in {len(parts)} files ({short([part.name for part in parts], 3)})"
    # The same image may be in two files of one split, such as one file per annotator.
    return Annotations(kind, images.drop_duplicates(ignore_index=True), captions, notes)


def _separate_ids(parts: Sequence[_Part]) -> None:
    """Put the file's name or split before each id, if files use one id for different images."""
    contents = [part.annotations for part in parts]
    if {str(content.images["image_id"].dtype) for content in contents} != {"int64"}:
        for content in contents:
            content.images = content.images.astype({"image_id": "str"})
            content.captions = content.captions.astype({"image_id": "str"})
    images = pd.concat([content.images for content in contents]).drop_duplicates(["image_id", "file_name"])
    if len(parts) == 1 or not images["image_id"].duplicated().any():
        return
    splits = [part.split for part in parts]
    labels = splits if None not in splits and len(set(splits)) == len(splits) else [part.name for part in parts]
    for content, label in zip(contents, labels, strict=True):
        content.images = content.images.assign(image_id=f"{label}/" + content.images["image_id"].astype("str"))
        content.captions = content.captions.assign(image_id=f"{label}/" + content.captions["image_id"].astype("str"))
