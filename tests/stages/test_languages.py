"""The DAG runs with captions in other languages. Captions that do not fit the params are rejected early."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.app.captioner import Captioner
from lib.core.errors import UserError
from lib.scoring import score
from lib.text.tokenizer import Tokenizer
from tests.stages.tiny import STAGES, run

SPLITS = ["train"] * 6 + ["val", "test"]
TO_SCORES = STAGES[: STAGES.index("evaluate") + 1]
LEARNED = {"train.epochs": 30, "train.batch_size": 2, "train.learning_rate": 0.01}  # enough to memorise the captions
COLOURS = {"red": "红", "green": "绿", "blue": "蓝", "black": "黑"}


def local(folder: Path, captions_of) -> dict[str, object]:
    """Write 16 images of one colour each, with the captions `captions_of(number, colour)`. Return params for them."""
    (folder / "images").mkdir(parents=True)
    images = []
    for i in range(16):
        colour = list(COLOURS)[i % 4]
        Image.new("RGB", (48, 48), colour).save(folder / f"images/{i}.png")
        sentences = [{"raw": caption} for caption in captions_of(i, colour)]
        images.append({"filename": f"{i}.png", "imgid": i, "split": SPLITS[i % 8], "sentences": sentences})
    (folder / "captions.json").write_text(json.dumps({"images": images}))
    paths = {"images": str(folder / "images"), "annotations": str(folder / "captions.json")}
    return {"dataset.name": "local", **{f"dataset.local.{name}": path for name, path in paths.items()}}


def chinese(i: int, colour: str) -> list[str]:
    return [f"这是第{i}张图，图片里有一个{COLOURS[colour]}色的方块和T恤。", f"桌子上放着一张{COLOURS[colour]}色的纸！"]


def read(name: str):
    return json.loads(Path(f"metrics/{name}").read_text("utf-8"))


def test_chinese_goes_through_to_a_model_and_a_page_without_blanks(tmp_path, monkeypatch, capsys):
    params = local(tmp_path, chinese) | {"text.tokenizer": "characters", "train.epochs": 8}
    limits = {"vocabulary.max_length": 30, "generate.min_length": 22}
    run(tmp_path / "project", monkeypatch, **params, **limits)
    assert "Han" in (output := capsys.readouterr().out)
    words = json.loads(Path("data/captions/vocabulary.json").read_text("utf-8"))["words"]
    assert f"{len(words)} words in the vocabulary" in output
    assert {"这", "红", "t", "恤"} <= set(words)

    results, tokenizer = read("captions.json"), Tokenizer("characters")
    assert all(22 <= len(row["tokens"]) <= 30 and " " not in row["caption"].replace("t t", "") for row in results)
    references = {i: [tokenizer.tokenize(caption) for caption in chinese(i, list(COLOURS)[i % 4])] for i in (7, 15)}
    hypotheses = {row["image_id"]: tokenizer.tokenize(row["caption"]) for row in results}
    assert read("scores.json") == pytest.approx(score(references, hypotheses))
    assert len(np.load("metrics/attention.npy")) == sum(len(row["tokens"]) for row in results)
    lines = Path("metrics/report/gallery.js").read_text("utf-8").splitlines()[2:-1]
    entries = [json.loads(line.removesuffix(",")) for line in lines]
    assert [(e["words"], e["caption"], len(e["attention"])) for e in entries] == [
        (row["tokens"], row["caption"], len(row["tokens"])) for row in results
    ]

    captioner = Captioner.load("data/model")
    ((best, *_),) = captioner.caption([tmp_path / "images/7.png"], min_length=25)
    assert 25 <= len(best.tokens) <= 30  # the maximum length in training
    assert best.text == tokenizer.join(best.tokens)


def test_german_keeps_its_capitals_and_is_scored_without(tmp_path, monkeypatch):
    captions = ["Ein Würfel steht auf der Straße (für 5 €).", "ein würfel"]
    params = local(tmp_path, lambda *_: captions) | {"text.tokenizer": "unicode", "text.lowercase": False}
    run(tmp_path / "project", monkeypatch, TO_SCORES, **params, **LEARNED)
    assert {row["caption"] for row in read("captions.json")} <= {
        "Ein Würfel steht auf der Straße für 5 €",
        "ein würfel",
    }
    assert read("scores.json")["bleu_1"] == pytest.approx(1)
    assert "dangling_end" not in read("statistics.json")


def test_captions_keep_brackets_and_currencies_and_are_scored_as_coco_caption_does(tmp_path, monkeypatch):
    caption = "a price tag of 5 € ( on sale ) in a shop"
    params = local(tmp_path, lambda *_: ["A price tag of 5€ (on sale) in a shop."])
    run(tmp_path / "project", monkeypatch, TO_SCORES, **params, **LEARNED)
    assert {row["caption"] for row in read("captions.json")} == {caption}
    assert read("scores.json")["bleu_4"] == pytest.approx(1)
    assert pd.read_parquet("data/captions/captions.parquet")["tokens"].map(list).tolist() == [caption.split()] * 16


@pytest.mark.parametrize(
    ("captions_of", "changes", "param"),
    [
        (chinese, {}, "text.tokenizer"),
        (lambda i, _: [" ".join(f"w{i}x{k}" for k in range(5))], {"vocabulary.min_count": 2}, "vocabulary.min_count"),
        (lambda *_: ["very long words " * 9], {}, "vocabulary.max_length"),
        (chinese, {"text.tokenizer": "no_such_package:cut"}, "text.tokenizer"),
    ],
)
def test_captions_that_training_cannot_use_are_refused_with_the_setting(
    tmp_path, monkeypatch, captions_of, changes, param
):
    params = local(tmp_path, captions_of) | changes
    with pytest.raises(UserError, match=param.replace(".", r"\.")) as caught:
        run(tmp_path / "project", monkeypatch, STAGES[:2], **params)
    assert len(str(caught.value)) < 500
    assert not Path("data/captions").exists()
