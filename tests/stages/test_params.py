"""Every mistake in params.yaml is a one-line error that names the key, its value, and the allowed values."""

from pathlib import Path

import pytest

from lib.core.errors import UserError
from stages.params import PARAMS_FILE, DatasetParams, TrainParams, read_params
from tests.stages.imports import ROOT
from tests.stages.tiny import write_params

SHIPPED = ROOT / PARAMS_FILE


def error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_params(DatasetParams, path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_shipped_params_are_valid():
    assert read_params(DatasetParams, SHIPPED).name == "scenes"


def test_every_param_has_a_comment():
    lines = [line for line in SHIPPED.read_text().splitlines() if line.startswith(" ")]
    assert [line for line in lines if "# " not in line] == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.epochs", 0, "train.epochs: got 0, should be greater than or equal to 1"),
        ("train.epochs", True, "train.epochs: got True"),
        ("train.epochs", "3", "train.epochs: got '3'"),
        ("train.epochs", ..., "train.epochs: missing"),
        ("train.epoch", 3, "train.epoch: unknown key"),
        ("trian", {"epochs": 3}, "trian: unknown key"),
        ("two\nlines", 1, "two lines: unknown key"),
        ("train", ..., "train: missing"),
        ("train", None, "train: got None"),
        ("train", {}, "train.batch_size: missing"),
        ("model.cell", "gru", "model.cell: got 'gru', should be 'lstm', 'rnn' or 'transformer'"),
        ("dataset.scenes.mix.one", -1, "dataset.scenes.mix.one: got -1"),
        ("dataset.scenes.mix", dict.fromkeys(["one", "alike", "pair", "trio"], 0), "dataset.scenes.mix: got"),
        ("dataset.limit", 10**400, "dataset.limit: got 1000"),
        ("dataset.local.annotations", {"train": "a.json", "val": "b.json"}, "dataset.local.annotations: got {"),
        ("dataset.local.columns.split", 3, "dataset.local.columns.split: got 3"),
        ("dataset.local.images", "", "dataset.local.images: got ''"),
        ("backbone.mean", [0.5], "backbone.mean: got [0.5]"),
        ("backbone.std", [1.0, 0.0, 1.0], "backbone.std.1: got 0.0"),
        ("finetune.samples", 1, "finetune: got"),
        ("generate.min_length", 21, "generate.min_length=21 is above vocabulary.max_length=20"),
        ("text", ..., "text: {tokenizer: ptb"),
        ("text.tokenizer", "jieba", "text.tokenizer: got 'jieba', should be ptb, unicode, characters, or"),
        ("text.tokenizer", "jieba:", "text.tokenizer: got 'jieba:'"),
        ("text.lowercase", False, "tokenizer=ptb needs lowercase=true"),
        ("generate.length_penalty", 300, "generate.length_penalty: got 300"),
        ("generate.sample.temperature", 0.0, "generate.sample.temperature: got 0.0"),
        ("generate.ensemble", "a\0b", r"generate.ensemble: got 'a\x00b'"),
        ("train.learning_rate", "0.001", "train.learning_rate: got '0.001', should be a valid number; it is text"),
        ("train.learning_rate", float("inf"), "train.learning_rate: got inf"),
        ("train.max_grad_norm", float("nan"), "train.max_grad_norm: got nan"),
        ("train.seed", 2**63, "train.seed: got 9223372036854775808"),
    ],
)
def test_every_stage_reports_a_mistake_in_any_section(tmp_path, key, value, expected):
    write_params(tmp_path, **{key: value})
    assert expected in error(tmp_path / PARAMS_FILE)


def test_params_of_an_earlier_version_are_rejected_with_the_new_names(tmp_path):
    both = {"warm_up": "warmup_fraction", "clip": "max_grad_norm", "averaging": "ema_decay", "best_by": "monitor"}
    names = {f"train.{old}": f"train.{new}" for old, new in both.items()}
    names |= {f"train.scst.{old}": f"finetune.{new}" for old, new in both.items()}
    names |= {"train.bucketing": "train.bucket_by_length", "features.components": "features.pca_components"}
    names |= {"generate.no_repeat": "generate.no_repeat_ngram_size", "train.scst": "finetune"}
    named: dict[str, str] = {}
    while len(named) < len(names):  # each message names as many keys as fit
        left = [old for old in names if old not in named and old != "train.scst"]
        write_params(tmp_path, **{"finetune": ..., **dict.fromkeys(left, 1)})
        text = error(tmp_path / PARAMS_FILE)
        assert "missing" not in text
        found = {old: new for old, new in names.items() if old not in named and f"{old} to {new}" in text}
        assert len(found) == len(names) - len(named) or f"and {len(names) - len(named) - len(found)} more" in text
        assert found
        named |= found


def test_many_mistakes_are_a_short_message_that_counts_them(tmp_path):
    (tmp_path / PARAMS_FILE).write_text("{" + ", ".join(f"unknown_{i}: {'x' * 90}" for i in range(300)) + "}")
    text = error(tmp_path / PARAMS_FILE)
    assert len(text) < 500
    assert "dataset: missing" in text
    assert "more" in text


@pytest.mark.parametrize(
    "text", [b"a: [", b"a: 2024-99-99", b"a: !!timestamp x", b"[" * 5000, b"a: caf\xe9", b"- 1", b"", None]
)
def test_a_malformed_or_missing_file_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "p.yaml").write_bytes(text)
    assert str(tmp_path / "p.yaml") in error(tmp_path / "p.yaml")


def test_an_integer_is_accepted_as_a_float(tmp_path):
    write_params(tmp_path, **{"train.learning_rate": 1})
    assert read_params(TrainParams, tmp_path / PARAMS_FILE).learning_rate == 1.0
