"""params.yaml: every mistake is a one-line error that names the key, its value and what is allowed."""

import pytest
import yaml

from lib.core.errors import UserError
from stages.params import PARAMS_FILE, DatasetParams, TrainParams, read_params
from tests.stages.imports import ROOT

SHIPPED = ROOT / PARAMS_FILE


@pytest.fixture
def changed(tmp_path):
    """Write params.yaml with another value of one key (or without it, if the value is ...)."""

    def change(key: str, value):
        content = yaml.safe_load(SHIPPED.read_text())
        *path, last = key.split(".")
        section = content
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
        if value is ...:
            del section[last]
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return change


def error(path) -> str:
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
        ("train.epochs", "many", "train.epochs: got 'many'"),
        ("train.epochs", 0, "train.epochs: got 0, should be greater than or equal to 1"),
        ("train.epochs", True, "train.epochs: got True"),
        ("train.epochs", 2.5, "train.epochs: got 2.5"),
        ("train.epochs", "3", "train.epochs: got '3'"),
        ("train.epochs", ..., "train.epochs: missing"),
        ("train.epoch", 3, "train.epoch: unknown key"),
        ("trian", {"epochs": 3}, "trian: unknown key"),
        ("two\nlines", 1, "two lines: unknown key"),
        ("train", ..., "train: missing"),
        ("train", None, "train: got None"),
        ("train", {}, "train.batch_size: missing"),
        ("model.cell", "gru", "model.cell: got 'gru', should be 'lstm' or 'rnn'"),
        ("dataset.scenes.mix.one", -1, "dataset.scenes.mix.one: got -1"),
        ("dataset.scenes.mix", dict.fromkeys(["one", "alike", "pair", "trio"], 0), "dataset.scenes.mix: got"),
        ("dataset.limit", 10**400, "dataset.limit: got 1000"),
        ("dataset.local.images", "", "dataset.local.images: got ''"),
        ("backbone.mean", [0.5], "backbone.mean: got [0.5]"),
        ("backbone.std", [1.0, 0.0, 1.0], "backbone.std.1: got 0.0"),
        ("finetune.samples", 1, "finetune: got"),
        ("generate.method", "greedy", "generate.method: got 'greedy'"),
        ("generate.min_length", 21, "min_length must not be above max_length"),
        ("generate.length_penalty", 300, "generate.length_penalty: got 300"),
        ("generate.sample.temperature", 0.0, "generate.sample.temperature: got 0.0"),
        ("generate.ensemble", "a\0b", r"generate.ensemble: got 'a\x00b'"),
        ("train.learning_rate", "1e-3", "train.learning_rate: got '1e-3', should be a valid number; this is text"),
        ("train.learning_rate", float("inf"), "train.learning_rate: got inf"),
        ("train.max_grad_norm", float("nan"), "train.max_grad_norm: got nan"),
        ("train.seed", 2**63, "train.seed: got 9223372036854775808"),
    ],
)
def test_every_stage_reports_a_mistake_in_any_section(changed, key, value, expected):
    assert expected in error(changed(key, value))


def test_params_of_an_earlier_version_are_rejected_with_the_new_names(changed, tmp_path):
    content = yaml.safe_load(SHIPPED.read_text())
    train, finetune = content["train"], content.pop("finetune")
    renamed = {"warmup_fraction": "warm_up", "max_grad_norm": "clip", "ema_decay": "averaging", "monitor": "best_by"}
    for new, old in renamed.items():
        train[old], finetune[old] = train.pop(new), finetune.pop(new)
    train["bucketing"], train["scst"] = train.pop("bucket_by_length"), finetune
    content["features"]["components"] = content["features"].pop("pca_components")
    content["generate"]["no_repeat"] = content["generate"].pop("no_repeat_ngram_size")
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(content))
    text = error(tmp_path / "old.yaml")
    for new, old in renamed.items():
        assert f"train.{old} to train.{new}" in text
        assert f"train.scst.{old} to finetune.{new}" in text
    assert "train.scst to finetune" in text
    assert "train.bucketing to train.bucket_by_length" in text
    assert "features.components to features.pca_components" in text
    assert "generate.no_repeat to generate.no_repeat_ngram_size" in text
    assert "missing" not in text
    assert "train.clip to train.max_grad_norm" in error(changed("train.clip", 5.0))


@pytest.mark.parametrize(
    "text",
    [
        b"a: [", b"a: 2024-99-99", b"a: !!timestamp x", b"train:\n\tepochs: 3", b"[" * 5000, b"a: caf\xe9",
        b"- 1", b"", b"backbone: 1", None,
    ],
)  # fmt: skip
def test_a_malformed_or_missing_file_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "p.yaml").write_bytes(text)
    assert str(tmp_path / "p.yaml") in error(tmp_path / "p.yaml")


def test_an_integer_is_accepted_as_a_float(changed):
    assert read_params(TrainParams, changed("train.learning_rate", 1)).learning_rate == 1.0
