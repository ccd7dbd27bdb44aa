"""The DAG runs with extreme captions, names and images. Empty splits are rejected early."""

import json
import zipfile
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

from lib.core.errors import UserError
from lib.datasets.annotations import hash_fraction
from lib.scoring import METRICS
from lib.vision.networks import find_source
from tests.pictures import saved
from tests.stages.tiny import STAGES, run

LONG = " ".join(f"word{i}" for i in range(2000))[:10_000]
TRAIN = {
    "a.png": ["", " \n\t ", "...", "😀", "A dog."],  # only the last caption has words
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
NO_CAPTIONS = ["silent 1.png", "silent 2.png"]  # images without captions, in each split
WORDLESS = {"wordless.png": ["", "🐶"]}


def picture(i: int) -> bytes:
    noise = Image.effect_noise((30 + i, 40), 90)
    kinds = [
        (noise.convert("RGB"), "PNG"),
        (noise.convert("CMYK"), "JPEG"),
        (Image.fromarray(np.asarray(noise).astype(np.uint16) * 257), "PNG"),
        (noise.convert("RGB").quantize(), "GIF"),
        (Image.new("RGBA", (1, 1)), "PNG"),
        (Image.new("L", (2000, 1), 77), "WEBP"),
    ]
    return saved(*kinds[i % len(kinds)])


def rows() -> list[tuple[str, str, list[str]]]:
    """Return (split, file name, captions) of all images."""
    splits = {"train": TRAIN | WORDLESS, "val": VAL, "test": TEST}
    captioned = [(split, name, captions) for split, images in splits.items() for name, captions in images.items()]
    return captioned + [(split, f"{split}/{name}", []) for split in splits for name in NO_CAPTIONS]


def karpathy() -> dict:
    images = []
    for i, (split, name, captions) in enumerate(rows()):
        sentences = [{"raw": caption, "tokens": None} for caption in captions]
        images.append({"filename": name, "imgid": -i, "split": split, "sentences": sentences, "\ud800": [[]]})
    return {"images": images}


def coco() -> dict:
    """Return a COCO captions JSON. Its ids are chosen so that the hash puts each image into its split."""
    ids, ranges = count(2**62), {"test": (0, 0.1), "val": (0.1, 0.2), "train": (0.2, 1)}
    images, annotations = [], [{"image_id": 7, "caption": "Of no image."}]
    for split, name, captions in rows():
        low, high = ranges[split]
        image_id = next(i for i in ids if low <= hash_fraction(i, 1) < high)
        images.append({"id": image_id, "file_name": name})
        annotations += [{"image_id": str(image_id), "caption": caption} for caption in captions]
    return {"images": images, "annotations": annotations, "info": None}


def text_ids() -> dict:
    """Return a COCO captions JSON with splits and with ids that are strings."""
    images, annotations = [], []
    for i, (split, name, captions) in enumerate(rows()):
        images.append({"id": f"00{i}/é", "file_name": name, "split": split})
        annotations += [{"image_id": f"00{i}/é", "caption": caption} for caption in captions]
    return {"images": images, "annotations": annotations}


def local(folder: Path, annotations: object, names: list[str]) -> dict[str, object]:
    """Write a zip of images and the annotations. Return the params that use them."""
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, picture(i))
    (folder / "captions.json").write_text(json.dumps(annotations))
    paths = {"images": str(folder / "images.zip"), "annotations": str(folder / "captions.json")}
    local = {f"dataset.local.{name}": path for name, path in paths.items()}
    return {"dataset.name": "local", "generate.max_length": 30, **local}


@pytest.mark.parametrize("annotations", [karpathy, coco, text_ids])
def test_an_unusual_data_set_runs_through_to_the_report(tmp_path, monkeypatch, capsys, annotations):
    params = local(tmp_path, annotations(), [name for _, name, _ in rows()])
    run(tmp_path / "unusual", monkeypatch, **params)
    output = capsys.readouterr().out
    assert "left out: 6 images without a caption, 0 captions " in output
    assert ("1 captions left out, because their image is not listed" in output) == (annotations is coco)
    assert "left out: 1 images whose captions have no words, " in output
    images = pd.read_parquet("data/captions/images.parquet")
    assert images["split"].value_counts().to_dict() == {"train": len(TRAIN), "val": 1, "test": 1}
    captions = pd.read_parquet("data/captions/captions.parquet")
    assert captions["tokens"].map(len).min() > 0
    kept = set(captions["caption"])
    assert kept >= {LONG, "x" * 10_000, "كلب يركض في الثلج", "A dog.", "A \0 dog\x1b[31m."}
    assert not kept & {"", "...", "😀", "🐶" * 10_000, "Of no image."}
    assert list(json.loads(Path("metrics/scores.json").read_text())) == list(METRICS)
    lines = Path("metrics/report/gallery.js").read_text("utf-8").splitlines()
    (entry,) = (json.loads(line.removesuffix(",")) for line in lines[2:-1])
    assert entry["references"] == TEST["only test.png"][:2]


def test_a_single_test_image_of_scenes_is_scored(tmp_path, monkeypatch):
    run(tmp_path / "one", monkeypatch, **{"dataset.scenes.val": 1, "dataset.scenes.test": 1})
    assert list(json.loads(Path("metrics/scores.json").read_text())) == [*METRICS, "truth"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("captions", [[], [{"raw": " ... "}, {"raw": "🐶"}]])
def test_a_split_without_words_is_rejected_before_training(tmp_path, monkeypatch, split, captions):
    content = karpathy()
    for image in content["images"]:
        if image["split"] == split:
            image["sentences"] = captions
    params = local(tmp_path, content, [name for _, name, _ in rows()])
    with pytest.raises(UserError, match=rf"captions\.json: the {split} split"):
        run(tmp_path / "empty", monkeypatch, STAGES[:2], **params)


def test_the_home_folder_in_a_path_is_expanded(tmp_path, monkeypatch):
    params = local(tmp_path, karpathy(), [name for _, name, _ in rows()])
    save_file(find_source("small_net").build(64).state_dict(), tmp_path / "cnn.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    params |= {"dataset.local.images": "~/images.zip", "dataset.local.annotations": "~/captions.json"}
    run(tmp_path / "home", monkeypatch, STAGES[:3], **params, **{"backbone.weights": "~/cnn.safetensors"})
    assert Path("data/backbone/weights.safetensors").exists()


def test_a_split_without_readable_images_is_rejected(tmp_path, monkeypatch):
    names = [name for split, name, _ in rows() if split != "test"]
    params = local(tmp_path, karpathy(), names) | {"features.max_skipped": 0.5}
    with pytest.raises(UserError, match="test split"):
        run(tmp_path / "unreadable", monkeypatch, **params)
