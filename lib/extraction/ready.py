"""Import features that were made elsewhere, such as CLIP's or bottom-up attention's, instead of running a CNN.

The key of an image is its id, its file name, or the end of its path, with or without extension. Forms:

    a folder          one .npy or .npz per image, named by the key; or one file of another form
    .npz, .safetensors    one array per key; or `features` and `names`, an array of keys (npz only)
    .npy              all images, (N, C) or (N, P, C), with the keys beside it, such as in X.names.txt for X.npy
    .parquet          a column of keys, and a column of lists (C values, or P lists of C values)

An image has a vector (C,) or a grid (P, C) of floats, of the same shape for all images.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.core.errors import UserError, readable_errors
from lib.core.files import stat_signature
from lib.core.names import match_names
from lib.core.workdir import fingerprint, locked
from lib.extraction.extract import SHARD_SIZE, ExtractionResult, is_complete, read_result, write_shard

_NAME_WORDS = (
    "name", "id", "key", "file", "file_name", "filename", "image_id", "image_name", "image", "path", "filepath",
)  # fmt: skip
_NAMES = (*(f"{word}s" for word in _NAME_WORDS), *_NAME_WORDS)
_FEATURES = ("features", "feat", "feats", "feature", "embeddings", "embedding", "x", "arr_0")
_NAMES_SUFFIXES = (".txt", ".json", ".npy")  # suffixes of files of keys
_SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
_FORMS = ".npy with names, .npz, .safetensors, .parquet, or a folder of one .npy or .npz per image"


@dataclass(frozen=True)
class _Source:
    """Arrays and their keys."""

    path: Path
    files: list[Path]  # the files that contain the arrays and the keys
    keys: list[str]
    read: Callable[[int], np.ndarray]  # returns the array of keys[i]

    def error(self, problem: str) -> UserError:
        return UserError(f"features.source={self.path}: {problem}")


def import_features(images: pd.DataFrame, path: Path, scratch: Path, code: Sequence[Path] = ()) -> ExtractionResult:
    """Write the features of `images` (image_id, member), in this order, as shards to a folder in `scratch`.

    Images without features are in the table of skipped images. Raises UserError if the source is malformed, if its
    keys fit no image or are ambiguous, if its shapes differ, or if a value is not finite as float16.
    """
    source = _open(path)
    rows = _match(source, images)
    shape = _checked(source, next(row for row in rows if row is not None), None).shape
    image_ids, reason = images["image_id"].tolist(), f"no features in {path.name}"
    folder = scratch / fingerprint(image_ids, rows, [stat_signature(file) for file in source.files], SHARD_SIZE, *code)
    shards = range(-(-len(rows) // SHARD_SIZE))
    with locked(folder):
        for number in shards:
            part = slice(number * SHARD_SIZE, (number + 1) * SHARD_SIZE)
            if not is_complete(folder, number):
                results = [reason if row is None else _checked(source, row, shape) for row in rows[part]]
                write_shard(folder, number, image_ids[part], results)
    unused = len(source.keys) - sum(row is not None for row in rows)
    if unused:
        why = "because their keys match no image with captions"
        print(f"{path.name}: {unused} of {len(source.keys)} features are not used, {why}")
    return read_result(folder, shards)


def _match(source: _Source, images: pd.DataFrame) -> list[int | None]:
    """Return for each image its position in the source, or None. Raises UserError for an ambiguous key."""
    members = images["member"].tolist()
    if len(set(members)) < len(members):  # in several archives
        members = (images["archive"] + "/" + images["member"]).tolist()
    by_id = {str(image_id): i for i, image_id in enumerate(images["image_id"])}
    by_name = {member: i for i, member in enumerate(members)}
    found: dict[int, int] = {}
    for row, (key, match) in enumerate(zip(source.keys, match_names(source.keys, members), strict=True)):
        numbered, named = by_id.get(key), None if match.name is None else by_name[match.name]
        if numbered is not None and named not in (None, numbered):
            problem = f"the key {key!r} is the image_id of one image, but also fits the file name of another image"
            raise source.error(f"{problem}, {match.name!r}. Use file names with their extension as keys.")
        if numbered is None and match.reason == "ambiguous":
            problem = f"the key {key!r} fits several images, or another key fits the same image"
            raise source.error(f"{problem}. Use file names with folder and extension as keys, each once.")
        image = named if numbered is None else numbered
        if image is not None and found.setdefault(image, row) != row:
            keys = f"{source.keys[found[image]]!r} and {key!r}"
            raise source.error(f"the keys {keys} fit the same image, {members[image]!r}. Keep one of them.")
    if not found:
        keys = ", ".join(repr(key[:80]) for key in source.keys[:2])
        wanted = f"{images['image_id'].iloc[0]!r} or {members[0][:80]!r}"
        problem = f"no key is the image_id or file name of an image: the keys are such as {keys}, the images such as"
        raise source.error(f"{problem} {wanted}. Use image ids or file names as keys.")
    return [found.get(image) for image in range(len(images))]


def _checked(source: _Source, row: int, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return an image's features (P, C) as float16, of the given shape."""
    key = source.keys[row]
    with _readable(source.path):
        array = source.read(row)
    if array.dtype.kind != "f":
        problem = f"{key!r} has values of type {array.dtype}, but must have floats"
        raise source.error(f"{problem}. Save them as float16 or float32.")
    if array.ndim not in (1, 2) or not array.size:
        fix = "Reshape a map of H x W regions to (H * W, C)." if array.ndim > 2 else "Save at least one value."
        raise source.error(f"{key!r} has shape {array.shape}, but must have (C,) or (P, C). {fix}")
    array = np.atleast_2d(array)
    if shape is not None and array.shape != shape:
        problem = f"{key!r} has shape {array.shape}, but another image has {shape} (regions, size)"
        raise source.error(f"{problem}. Give all images the same number of regions and the same size.")
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        limit = f"above {np.finfo(np.float16).max:.0f} in magnitude, the maximum of float16"
        raise source.error(f"{key!r} has values that are NaN, infinite, or {limit}. Repair or scale them.")
    return half


def _open(path: Path) -> _Source:
    if not path.exists():
        fix = "Use a path relative to the project, or a full path."
        raise UserError(f"features.source={path} does not exist. {fix}")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
        arrays = [file for file in files if file.stem.lower() not in _NAMES]  # names.npy belongs to another file
        return _open(arrays[0]) if len(arrays) == 1 else _open_folder(path, files)
    readers = {".npy": _open_npy, ".npz": _open_npz, ".safetensors": _open_safetensors, ".parquet": _open_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"features.source={path}: this form is not supported. Use {_FORMS}.")
    with _readable(path):
        return readers[path.suffix.lower()](path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with readable_errors(path):
        try:
            yield
        except ValueError as error:
            if "allow_pickle" in str(error):  # NumPy's advice would run code from the file
                problem = "contains Python objects, which are not read because they could run code"
                fix = "Save features as floats, and keys as text: np.array(keys)."
                raise UserError(f"{path} {problem}. {fix}") from error
            raise


def _open_folder(path: Path, files: list[Path]) -> _Source:
    if not files or any(file.suffix.lower() not in (".npy", ".npz") for file in files):
        fix = "Use a folder with exactly one such file, or with one .npy or .npz per image."
        raise UserError(f"features.source={path} has {len(files)} files of features. {fix}")

    def read(row: int) -> np.ndarray:
        with _readable(files[row]):
            loaded = np.load(files[row])
            if isinstance(loaded, np.ndarray):
                return loaded
            return loaded[_features_key(list(loaded), f"{path}: {files[row].relative_to(path)}")]

    return _Source(path, files, [file.relative_to(path).with_suffix("").as_posix() for file in files], read)


def _open_npy(path: Path) -> _Source:
    return _with_names_beside(path, np.load(path, mmap_mode="r"))


def _open_npz(path: Path) -> _Source:
    loaded = np.load(path)
    names = [key for key in loaded if key.lower() in _NAMES and loaded[key].ndim == 1]
    if len(names) == 1 and len(loaded.files) > 1 and loaded[names[0]].dtype.kind in "USiu":
        features = loaded[_features_key([key for key in loaded if key != names[0]], str(path))]
        return _of_table(path, [path], loaded[names[0]].tolist(), features)
    if len(loaded.files) == 1 and loaded.files[0].lower() in _FEATURES:
        return _with_names_beside(path, loaded[loaded.files[0]])
    return _Source(path, [path], loaded.files, lambda row: loaded[loaded.files[row]])


def _open_safetensors(path: Path) -> _Source:
    from safetensors import safe_open

    file = safe_open(path, "pt")
    keys = list(file.keys())

    def read(row: int) -> np.ndarray:
        tensor = file.get_tensor(keys[row])
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16

    if len(keys) == 1 and keys[0].lower() in _FEATURES:
        return _with_names_beside(path, read(0))
    return _Source(path, [path], keys, read)


def _open_parquet(path: Path) -> _Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_list(kind: pa.DataType) -> bool:
        return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

    table = pq.read_table(path)
    names = [name for name in table.column_names if name.lower() in _NAMES]
    lists = [field.name for field in table.schema if is_list(field.type)]
    if len(names) != 1 or len(lists) != 1:
        columns = ", ".join(table.column_names[:10])
        problem = "the table must have exactly one column of keys (such as image_id) and exactly one column of lists"
        fix = "Rename or remove columns."
        raise UserError(f"features.source={path}: {problem}; it has the columns {columns}. {fix}")

    def read(row: int) -> np.ndarray:
        values = table[lists[0]][row].values
        if not is_list(values.type):
            return values.to_numpy(zero_copy_only=False)
        return np.stack([region.values.to_numpy(zero_copy_only=False) for region in values])

    return _Source(path, [path], _as_text(table[names[0]].to_pylist()), read)


def _features_key(keys: list[str], source: str) -> str:
    """Return the key of the features: the single key, or the single key whose name is in `_FEATURES`.

    Raises UserError, which contains `source`, if there is no such key, or more than one.
    """
    named = [key for key in keys if key.lower() in _FEATURES]
    if len(keys) != 1 and len(named) != 1:
        problem = f"cannot tell which array holds the features; the arrays are {', '.join(keys[:10])}"
        raise UserError(f"features.source={source}: {problem}. Name one of them features.")
    return (named or keys)[0]


def _with_names_beside(path: Path, array: np.ndarray) -> _Source:
    """Return the source for one array of all images. Its keys are in another file of the same folder."""
    # For X.npy, try X.txt and X.names.txt first, because they belong to no other file. Try names.txt last.
    stems = [path.stem, *(f"{path.stem}{mark}{word}" for mark in "._-" for word in _NAMES), *_NAMES]
    files = [path.with_name(f"{stem}{suffix}") for stem in stems for suffix in _NAMES_SUFFIXES]
    names = next((file for file in files if file.is_file() and file != path), None)
    if names is None:
        raise UserError(
            f"features.source={path}: there is no file of keys in this folder. Write the file name or image id of each "
            f"row, one per line, to {path.with_name(path.stem + '.names.txt')}."
        )
    with _readable(names):
        if names.suffix == ".npy":
            keys = np.load(names).tolist()
        elif names.suffix == ".json":
            keys = json.loads(names.read_bytes())
        else:
            keys = names.read_text("utf-8-sig").splitlines()
        if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
            fix = "Correct this file."
            raise UserError(f"{names}: the content must be a list of file names or image ids. {fix}")
    return _of_table(path, [path, names], keys, array)


def _of_table(path: Path, files: list[Path], keys: Sequence[object], array: np.ndarray) -> _Source:
    source = _Source(path, files, _as_text(keys), lambda row: array[row])
    if array.ndim not in (2, 3) or len(array) != len(keys):
        n = len(keys)
        problem = f"there are {n} keys, but the features have shape {array.shape}, not ({n}, C) or ({n}, P, C)"
        raise source.error(f"{problem}. Save one key per image.")
    return source


def _as_text(keys: Sequence[object]) -> list[str]:
    return [key.decode() if isinstance(key, bytes) else str(key) for key in keys]
