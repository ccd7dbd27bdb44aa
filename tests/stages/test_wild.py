"""Data sets as wild as a file format allows, through the whole DAG; and what is empty, told early."""

import json
import zipfile
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.core.errors import UserError
from lib.core.tables import write_table
from lib.datasets.annotations import hashed_split
from lib.scoring import METRICS
from stages.common.splits import images_with_features
from tests.pictures import saved
from tests.stages.tiny import STAGES, run

LONG = " ".join(f"word{i}" for i in range(2000))[:10_000]
TRAIN = {
    "a.png": ["", " \n\t ", "...", "😀", "A dog."],  # one caption with words
    "sub/b.png": ["كلب يركض في الثلج", "כלב רץ בשלג"],
    "é ü.png": ["A 👩‍👩‍👧 and a dog 🐕!", "ＡＢＣ", "\u202eknalb \u200b\ufeff"],
    "long.png": [LONG, "x" * 10_000, "🐶" * 10_000, "(" * 10_000],
    "nul.png": ["A \0 dog\x1b[31m.", "A cat.\u2028A dog.\r\n"],
    "page.png": ["</script><script>alert(1)</script>", "<!-- <b>& 'A' \"dog\"`", "${1} {{2}} \\u0041"],
    "plain.png": ["A dog runs.", "A dog runs.", "A dog runs."],
    "many.png": ["A dog."] * 300,
}
VAL = {"only val.png": ["A dog runs. 🐶", ""]}
TEST = {"only test.png": ["كلب A dog runs </script> 🐶", LONG, "..."]}
SILENT = {"silent 1.png": [], "silent 2.png": []}  # in each split, by another number
WORDLESS = {"wordless.png": ["", "🐶"]}


def picture(i: int) -> bytes:
    noise = Image.effect_noise((30 + i, 40), 90)
    kinds = [
        lambda: (noise.convert("RGB"), "PNG"),
        lambda: (noise.convert("CMYK"), "JPEG"),
        lambda: (Image.fromarray(np.asarray(noise).astype(np.uint16) * 257), "PNG"),
        lambda: (noise.convert("RGB").quantize(), "GIF"),
        lambda: (Image.new("RGBA", (1, 1)), "PNG"),
        lambda: (Image.new("L", (2000, 1), 77), "WEBP"),
    ]
    return saved(*kinds[i % len(kinds)]())


def splits() -> list[tuple[str, str, list[str]]]:
    """(split, file name, captions) of all pictures."""
    named = [("train", TRAIN | WORDLESS), ("val", VAL), ("test", TEST)]
    spoken = [(split, name, captions) for split, captions_of in named for name, captions in captions_of.items()]
    return spoken + [(split, f"{split}/{name}", []) for split, _ in named for name in SILENT]


def karpathy() -> dict:
    sentences = [[{"raw": caption, "tokens": None} for caption in captions] for _, _, captions in splits()]
    rows = zip(splits(), sentences, strict=True)
    return {
        "images": [
            {"filename": name, "imgid": -i, "split": split, "sentences": each, "\ud800": [[]]}
            for i, ((split, name, _), each) in enumerate(rows)
        ]
    }


def coco() -> dict:
    """Without a split of its own: ids are taken that the hash puts where they should be."""
    numbers = count(2**62)
    images = [
        {"id": next(i for i in numbers if hashed_split(i, 1, 0.1, 0.1) == split), "file_name": name}
        for split, name, _ in splits()
    ]
    annotations = [
        {"image_id": str(image["id"]), "caption": caption}
        for image, (_, _, captions) in zip(images, splits(), strict=True)
        for caption in captions
    ]
    return {"images": images, "annotations": [*annotations, {"image_id": 7, "caption": "Of no image."}], "info": None}


def local(folder: Path, annotations: object, names: list[str]) -> dict[str, object]:
    """Writes a zip of pictures and the annotations; the params that read them."""
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, picture(i))
    (folder / "captions.json").write_text(json.dumps(annotations))
    return {
        "dataset.name": "local",
        "dataset.local.images": str(folder / "pictures.zip"),
        "dataset.local.annotations": str(folder / "captions.json"),
        "generate.max_length": 30,
    }


@pytest.mark.parametrize("annotations", [karpathy, coco])
def test_a_wild_data_set_goes_through_to_the_report(tmp_path, monkeypatch, capsys, annotations):
    params = local(tmp_path, annotations(), [name for _, name, _ in splits()])
    run(tmp_path / "wild", monkeypatch, **params)
    of_no_image = 1 if annotations is coco else 0
    said = capsys.readouterr().out
    assert f"left out: 6 images without a caption, {of_no_image} captions of no image\n" in said
    assert "left out: 1 images whose captions have no words, " in said
    images = pd.read_parquet("data/captions/images.parquet")
    assert images["split"].value_counts().to_dict() == {"train": len(TRAIN), "val": 1, "test": 1}
    captions = pd.read_parquet("data/captions/captions.parquet")
    assert captions["tokens"].map(len).min() > 0
    written = set(captions["caption"])
    assert written >= {LONG, "x" * 10_000, "كلب يركض في الثلج", "A dog.", "A \0 dog\x1b[31m."}
    assert not written & {"", "...", "😀", "🐶" * 10_000, "Of no image."}
    assert list(json.loads(Path("metrics/scores.json").read_text())) == list(METRICS)
    assert len(json.loads(Path("metrics/captions.json").read_text())) == 1
    lines = Path("metrics/report/gallery.js").read_text("utf-8").splitlines()
    (shown,) = (json.loads(line.removesuffix(",")) for line in lines[2:-1])
    assert shown["references"] == TEST["only test.png"][:2]


def test_a_single_test_picture_of_scenes_is_scored(tmp_path, monkeypatch):
    run(tmp_path / "one", monkeypatch, **{"dataset.scenes.val": 1, "dataset.scenes.test": 1})
    assert list(json.loads(Path("metrics/scores.json").read_text())) == [*METRICS, "truth"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("captions", [[], [{"raw": " ... "}, {"raw": "🐶"}]])
def test_a_split_without_a_word_is_told_before_anything_is_learned(tmp_path, monkeypatch, split, captions):
    content = karpathy()
    for image in content["images"]:
        if image["split"] == split:
            image["sentences"] = captions
    params = local(tmp_path, content, ["a.png"])
    with pytest.raises(UserError, match=rf"annotations\.json: no image with a caption is in the {split} split"):
        run(tmp_path / "empty", monkeypatch, STAGES[:2], **params)


def test_a_single_image_is_told_to_be_too_few(tmp_path, monkeypatch):
    content = {"images": karpathy()["images"][:1]}
    with pytest.raises(UserError, match=r"annotations\.json: no image with a caption is in the val split"):
        run(tmp_path / "single", monkeypatch, STAGES[:2], **local(tmp_path, content, ["a.png"]))


def test_a_test_split_of_which_no_picture_can_be_read_is_told(tmp_path, monkeypatch):
    names = [name for split, name, _ in splits() if split != "test"]
    params = local(tmp_path, karpathy(), names) | {"features.max_skipped": 0.5}
    with pytest.raises(UserError, match="no image of the test split can be read"):
        run(tmp_path / "unread", monkeypatch, **params)


@pytest.mark.parametrize("name", ["data/captions/images.parquet", "data/features/index.parquet"])
def test_a_truncated_table_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in map(Path, ["data/captions/images.parquet", "data/features/index.parquet"]):
        write_table(pd.DataFrame({"image_id": [1], "split": ["test"]}), path)
    Path(name).write_bytes(Path(name).read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{name} is damaged, or of another version"):
        images_with_features("test")
