"""params.yaml: what is wrong is told in one line that names the key, what it got and what is allowed."""

import pytest
import yaml

from lib.core.errors import UserError
from stages.params import PARAMS_FILE, read_params
from stages.params.backbone import BackboneParams as Backbone
from stages.params.dataset import DatasetParams as Dataset
from stages.params.train import TrainParams as Train
from tests.stages.imports import ROOT


@pytest.fixture
def changed(tmp_path):
    def change(key: str, value):
        content = yaml.safe_load((ROOT / PARAMS_FILE).read_text())
        *path, last = key.split(".")
        section = content
        for part in path:
            section = section[part]
        section[last] = value
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return change


def test_the_shipped_params_are_valid():
    assert read_params(Dataset, ROOT / PARAMS_FILE).name == "scenes"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epochs", "many", r"train\.epochs: got 'many', should be a valid integer"),
        ("train.epochs", 0, r"train\.epochs: got 0, should be greater than or equal to 1"),
        ("train.epochs", True, r"train\.epochs: got True, should be a valid integer"),
        ("train.epochs", 2.5, r"train\.epochs: got 2\.5, should be a valid integer"),
        ("train.epoch", 3, r"train\.epoch: unknown key"),
        ("trian", {"epochs": 3}, r"trian: unknown section; there are backbone, dataset"),
        ("model.cell", "gru", r"model\.cell: got 'gru', should be 'lstm' or 'rnn'"),
        ("dataset.scenes.mix.one", -1, r"dataset\.scenes\.mix\.one: got -1, should be greater than or equal to 0"),
        (
            "dataset.scenes.mix",
            dict.fromkeys(["one", "alike", "pair", "trio"], 0),
            "at least one weight must be above 0",
        ),
        ("backbone.mean", [0.5], r"backbone\.mean: got \[0\.5\], .*at least 3 items"),
        ("generate", None, r"generate.*"),
        ("generate.method", "greedy", r"generate\.method: got 'greedy', should be 'beam' or 'sample'"),
        ("generate.min_length", 21, r"generate: .*min_length must not be above max_length"),
        ("generate.length_penalty", 300, r"generate\.length_penalty: got 300, should be less than or equal to 10"),
        ("generate.sample.temperature", 0.0, r"generate\.sample\.temperature: got 0\.0, should be greater than 0"),
        ("train.learning_rate", "1e-3", r"train\.learning_rate: got '1e-3'.*write 0\.001\)"),
        ("train.learning_rate", "1e-7", r"train\.learning_rate: got '1e-7'.*write 1\.0e-07\)"),
        ("train.epochs", "3", r"train\.epochs: got '3', should be a valid integer .*write 3\)"),
        ("train.learning_rate", "1e-3\n", r"train\.learning_rate: got '1e-3\\n'.*reads 1e-3 as a text"),
        ("train.learning_rate", "1e400", r"train\.learning_rate: got '1e400', should be a valid number$"),
        ("train.learning_rate", float("inf"), r"train\.learning_rate: got inf, should be a finite number"),
        ("train.max_grad_norm", float("nan"), r"train\.max_grad_norm: got nan, should be a finite number"),
        ("train.seed", 2**63, r"train\.seed: got 9\d+, should be a whole number of 64 bits"),
        ("dataset.limit", 10**400, r"dataset\.limit: got 10+\.\.\.0+, should be a whole number of 64 bits"),
        ("dataset.local.images", "", r"dataset\.local\.images: got '', string should have at least 1 character"),
        ("generate.ensemble", "a\0b", r"generate\.ensemble: got 'a\\x00b', should have no control characters"),
        ("backbone.std", [1.0, 0.0, 1.0], r"backbone\.std\.1: got 0\.0, should be greater than 0"),
        ("train", {}, r"train\.epochs: missing; train\.batch_size: missing"),
        ("two\nlines", 1, r"two lines: unknown section"),
    ],
)
def test_a_slip_in_any_section_is_told_to_every_stage(changed, key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        read_params(Dataset, changed(key, value))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_told(tmp_path):
    content = yaml.safe_load((ROOT / PARAMS_FILE).read_text())
    del content["train"]["seed"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"train\.seed: missing"):
        read_params(Train, tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "is not YAML"),
        (b"a: 2024-99-99", "is not YAML: month must be in 1..12"),
        (b"a: !!timestamp x", "is not YAML"),
        (b"train:\n\tepochs: 3", r"is not YAML: .*found character '\\t'"),
        (b"[" * 5000, "is not YAML: maximum recursion depth exceeded"),
        (b"a: caf\xe9", "is not UTF-8"),
        (b"- 1", "holds no sections"),
        (b"", "holds no sections"),
        (b"backbone: 1", r"backbone: got 1, .*; dataset: missing; features: missing"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.yaml").write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        read_params(Backbone, tmp_path / "p.yaml")
    assert "\n" not in str(caught.value)


def test_a_whole_number_will_do_for_a_fraction(changed):
    assert read_params(Train, changed("train.learning_rate", 1)).learning_rate == 1.0
