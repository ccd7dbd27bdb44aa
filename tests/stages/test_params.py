"""params.yaml: what is wrong is told in one line that names the key, what it got and what is allowed."""

import pytest
import yaml

from lib.errors import UserError
from stages.params import PARAMS_FILE, read
from stages.params.backbone import Params as Backbone
from stages.params.dataset import Params as Dataset
from stages.params.train import Params as Train
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
    assert read(Dataset, ROOT / PARAMS_FILE).name == "scenes"


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
        ("generate.sample.temperature", 0.0, r"generate\.sample\.temperature: got 0\.0, should be greater than 0"),
        ("train.learning_rate", "1e-3", r"train\.learning_rate: got '1e-3'.*write 0\.001\)"),
    ],
)
def test_a_slip_in_any_section_is_told_to_every_stage(changed, key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        read(Dataset, changed(key, value))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_told(tmp_path):
    content = yaml.safe_load((ROOT / PARAMS_FILE).read_text())
    del content["train"]["seed"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"train\.seed: missing"):
        read(Train, tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- 1", "holds no sections"), (None, "No such file")]
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read(Backbone, tmp_path / "p.yaml")


def test_a_whole_number_will_do_for_a_fraction(changed):
    assert read(Train, changed("train.learning_rate", 1)).learning_rate == 1.0
