"""Ready features are matched to the images and written as shards, or rejected with a reason."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from lib.core.errors import UserError
from lib.extraction import ready
from lib.extraction.ready import import_features
from lib.features.store import Features

MEMBERS = ["a/one.jpg", "a/two.png", "b/three.jpg", "b/café.jpg", "five"]
IMAGES = pd.DataFrame({"image_id": [11, 12, 13, 14, 15], "archive": "images.zip", "member": MEMBERS})
VECTORS = np.arange(20, dtype=np.float32).reshape(5, 4) / 7
GRIDS = np.arange(60, dtype=np.float32).reshape(5, 3, 4) / 7


def imported(source, folder, images=IMAGES):
    """Import ready features. Return the features by image id, and the skipped images."""
    result = import_features(images, source, folder / "scratch")
    features = Features(result.folder, result.index)
    return dict(zip(result.index["image_id"], features[:].numpy(), strict=True)), result.skipped


def write(form: str, folder, keys, array) -> object:
    source = folder / f"clip.{form.split()[0]}"
    by_key = dict(zip(keys, array, strict=True))
    match form:
        case "npy with txt":
            np.save(source, array)
            (folder / "clip.names.txt").write_text("\n".join(map(str, keys)), "utf-8")
        case "npy with json":
            np.save(source, array)
            (folder / "names.json").write_text(json.dumps(keys))
        case "npy in a folder":
            (folder / "made").mkdir()
            np.save(folder / "made" / "x.npy", array)
            np.save(folder / "made" / "names.npy", np.array(keys))
            return folder / "made"
        case "npz by key":
            np.savez(source, **{str(key): value for key, value in by_key.items()})
        case "npz with names":
            np.savez(source, features=array, names=np.array(keys))
        case "safetensors":
            save_file({str(key): torch.from_numpy(value.copy()) for key, value in by_key.items()}, source)
        case "parquet":
            pq.write_table(pa.table({"image_id": keys, "embedding": array.tolist()}), source, row_group_size=2)
        case "folder":
            (folder / "each").mkdir()
            for i, (key, value) in enumerate(by_key.items()):
                path = folder / "each" / str(key)
                path.parent.mkdir(exist_ok=True)
                np.save(f"{path}.npy", value) if i % 2 else np.savez(f"{path}.npz", feat=value, bbox=np.zeros((3, 4)))
            return folder / "each"
    return source


FORMS = [
    "npy with txt",
    "npy with json",
    "npy in a folder",
    "npz by key",
    "npz with names",
    "safetensors",
    "parquet",
    "folder",
]
TAILS = ["one", "two", "three.jpg", "b/cafe\u0301", "/data/x/five"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("array", [VECTORS, GRIDS, GRIDS.astype(np.float16)], ids=["pooled", "grid", "half"])
@pytest.mark.parametrize(
    "keys", [MEMBERS, ["one", "two", "three.jpg", "b/cafe\u0301", "/data/x/five"], [11, 12, 13, 14, 15]]
)
def test_each_form_gives_each_image_its_features(form, array, keys, tmp_path):
    if form == "folder" and keys[-1] == "/data/x/five":
        keys = [*keys[:-1], "five"]
    order = [3, 0, 4, 2, 1]
    source = write(form, tmp_path, [keys[i] for i in order], array[order])
    features, skipped = imported(source, tmp_path)
    assert skipped.empty
    for image_id, expected in zip(IMAGES["image_id"], array, strict=True):
        np.testing.assert_array_equal(features[image_id], np.atleast_2d(expected).astype(np.float16))


def test_ids_may_be_text(tmp_path):
    images = IMAGES.assign(image_id=["u-1", "u-2", "u-3", "u-4", "u-5"])
    features, _ = imported(write("npz by key", tmp_path, images["image_id"], VECTORS), tmp_path, images)
    np.testing.assert_array_equal(features["u-3"][0], VECTORS[2].astype(np.float16))


def test_missing_images_are_skipped_with_a_reason_and_other_features_are_counted(tmp_path, capsys):
    source = write("npz by key", tmp_path, [*MEMBERS[:3], "other", "another"], VECTORS)
    features, skipped = imported(source, tmp_path)
    assert list(features) == [11, 12, 13]
    assert skipped["image_id"].tolist() == [14, 15]
    assert set(skipped["reason"]) == {"no features in clip.npz"}
    assert "2 of 5 features are not used" in capsys.readouterr().out


def test_shards_do_not_depend_on_the_form_and_an_import_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "SHARD_SIZE", 2)
    contents = []
    for form in ("npz by key", "safetensors"):
        folder = tmp_path / form.split()[0]
        folder.mkdir()
        result = import_features(IMAGES, write(form, folder, MEMBERS, GRIDS), folder / "scratch")
        contents.append([path.read_bytes() for path in sorted(result.folder.glob("features-*.npy"))])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3
    monkeypatch.setattr(ready, "write_shard", None)
    import_features(IMAGES, folder / "clip.safetensors", folder / "scratch")


def changed(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[2, 1] = value
    return array


@pytest.mark.parametrize(("keys", "array", "message"), [
    (MEMBERS, changed(VECTORS, np.nan), "'b/three.jpg'.*NaN"),
    (MEMBERS, changed(GRIDS, np.inf), "'b/three.jpg'.*infinite"),
    (MEMBERS, changed(VECTORS, 1e6), "'b/three.jpg'.*float16"),
    (MEMBERS, VECTORS.astype(int), "'a/one.jpg'.*int64.*float32"),
    (MEMBERS, GRIDS[:, :, None], r"'a/one.jpg'.*\(3, 1, 4\).*\(P, C\)"),
    (MEMBERS, [*GRIDS[:4], GRIDS[4, :2]], r"'five'.*\(2, 4\).*\(3, 4\).*regions"),
    (["p", "q", "r", "s", "t"], VECTORS, "'p'.*11.*'a/one.jpg'"),
    (["one", "a/one.jpg", *MEMBERS[2:]], VECTORS, "'one' fits several images, or another key"),
    (["11", "a/one.jpg", *MEMBERS[2:]], VECTORS, "'11' and 'a/one.jpg'"),
])  # fmt: skip
def test_features_that_cannot_be_right_are_an_error_with_an_example(keys, array, message, tmp_path):
    source = write("npz by key", tmp_path, keys, array)
    with pytest.raises(UserError, match=rf"features\.source=.*clip\.npz: .*{message}") as error:
        imported(source, tmp_path)
    assert len(str(error.value)) < 500 + len(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_key_that_fits_several_images_is_an_error(tmp_path):
    images = IMAGES.assign(archive=["x.zip", "y.zip"] * 2 + ["x.zip"], member=["1.jpg", "1.jpg", "2.jpg", "2.jpg", "3"])
    with pytest.raises(UserError, match=r"features\.source.*'1\.jpg'"):
        imported(write("npz by key", tmp_path, ["1.jpg", "2", "3"], VECTORS[:3]), tmp_path, images)
    keys = ["x.zip/1.jpg", "y.zip/1", "x.zip/2", "y.zip/2", "3"]
    features, _ = imported(write("npz by key", tmp_path, keys, VECTORS), tmp_path, images)
    np.testing.assert_array_equal(features[12][0], VECTORS[1].astype(np.float16))


def test_a_key_that_is_one_images_id_and_anothers_name_is_an_error(tmp_path):
    images = IMAGES.assign(image_id=[2, 3, 4, 5, 1], member=[f"{i}.jpg" for i in range(1, 6)])
    with pytest.raises(UserError, match=r"features\.source.*'1'.*1\.jpg"):
        imported(write("npz by key", tmp_path, ["1", "2", "3", "4", "5"], VECTORS), tmp_path, images)
    features, _ = imported(write("npz by key", tmp_path, images["member"], VECTORS), tmp_path, images)
    np.testing.assert_array_equal(features[2][0], VECTORS[0].astype(np.float16))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("gone.npz", None, "does not exist"),
    ("clip.h5", b"\x89HDF", "parquet"),
    ("clip.npz", b"no zip", r"clip\.npz"),
    ("clip.safetensors", b"", r"clip\.safetensors"),
    ("clip.parquet", b"PAR1", r"clip\.parquet"),
    ("clip.npy", VECTORS, r"clip\.names\.txt"),
    ("clip.npy", np.array([{"a": 1}], dtype=object), "Python objects"),
])  # fmt: skip
def test_a_source_that_cannot_be_read_is_an_error_that_names_it(name, content, message, tmp_path):
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        imported(tmp_path / name, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("features", [[[[1.0, 2.0], [3.0]]], [None], [[[1.0], None]]])
def test_lists_of_different_length_in_parquet_are_an_error(features, tmp_path):
    pq.write_table(pa.table({"name": MEMBERS[:1], "x": pa.array(features)}), tmp_path / "clip.parquet")
    with pytest.raises(UserError, match=r"clip\.parquet"):
        imported(tmp_path / "clip.parquet", tmp_path)


def test_names_and_rows_must_have_one_length(tmp_path):
    source = write("npy with txt", tmp_path, MEMBERS, VECTORS)
    (tmp_path / "clip.names.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"2 keys.*\(5, 4\)"):
        imported(source, tmp_path)


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_without_one_source_is_an_error(tmp_path, empty):
    (tmp_path / "x").mkdir()
    for name in () if empty else ("a.parquet", "b.npz"):
        (tmp_path / "x" / name).touch()
    with pytest.raises(UserError, match=r"features\.source=.*x has [02] files"):
        imported(tmp_path / "x", tmp_path)
