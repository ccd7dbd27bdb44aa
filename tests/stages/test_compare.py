"""`make compare` rejects wrong arguments and runs that are not comparable. tests/test_dvc.py runs a comparison."""

import json
import re
import shutil

import pytest
import yaml

from lib.core.errors import UserError
from lib.model.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary
from stages.tools import compare
from tests.stages.imports import ROOT

VOCABULARY = Vocabulary(["a", "dog"])
PARAMS = {"dataset": {"name": "scenes"}, "model": {"cell": "rnn", "hidden": 64}, "train": {"epochs": 1}}


def test_an_unknown_comparison_is_rejected(monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare", "cells"])
    with pytest.raises(UserError, match=r"^WHAT=cells: .*cell, implementation, features$"):
        compare.main()


@pytest.fixture
def run_compare(tmp_path, monkeypatch):
    """Compare finished experiments. That of the LSTM has this value of train.epochs and this md5 of lib/cells.

    Return the settings of each experiment.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", "cell"])
    started = {}

    def run_experiment(name: str, settings: list[str]) -> str:
        started[name] = settings
        return name

    monkeypatch.setattr(compare, "_run_experiment", run_experiment)
    monkeypatch.setattr(compare, "_load_decoder", lambda name: (Decoder(config(name)), VOCABULARY))
    monkeypatch.setattr(compare, "_costs", lambda runs, sizes, params: "")

    def config(experiment: str) -> DecoderConfig:
        cell, attention = experiment.removeprefix("compare-cell-"), "none"
        return DecoderConfig(1, 8, len(VOCABULARY), cell, "scratch", attention, 16, hidden(experiment), 0.0)

    def hidden(experiment: str) -> int:
        chosen = [int(setting.partition("hidden=")[2]) for setting in started[experiment] if "hidden=" in setting]
        return chosen[-1] if chosen else PARAMS["model"]["hidden"]

    def run_compare(epochs: int, code: str) -> dict[str, list[str]]:
        def params(experiment: str) -> dict[str, dict]:
            model = {"cell": experiment.rpartition("-")[2], "hidden": hidden(experiment)}
            return {**PARAMS, "model": model, "train": {"epochs": epochs if model["cell"] == "lstm" else 1}}

        def read(path: str, rev: str) -> str:
            deps = [{"path": "lib/cells", "md5": code if rev == "compare-cell-lstm" else "0"}]
            deps.append({"path": "data/decoder", "md5": rev})
            return {
                "metrics/scores.json": json.dumps({"bleu_4": 0.5}),
                "metrics/train/curves.csv": "epoch,val_loss,val_bleu_4,val_cider_d\n1,3.0,0.1,0.5\n",
                "dvc.lock": yaml.safe_dump({"stages": {"train": {"deps": deps}}}),
            }[path]

        monkeypatch.setattr("dvc.api.params_show", lambda rev: params(rev))
        monkeypatch.setattr("dvc.api.read", read)
        compare.main()
        return started

    return run_compare


def test_runs_that_differ_only_in_the_cell_and_its_size_are_compared(run_compare, tmp_path):
    started = run_compare(epochs=1, code="0")
    assert list(started) == ["compare-cell-lstm", "compare-cell-rnn", "compare-cell-transformer"]
    assert started["compare-cell-lstm"] == ["--set-param=model.cell=lstm"]
    assert re.fullmatch(r"--set-param=model.hidden=\d+", started["compare-cell-rnn"][-1])
    written = json.loads((tmp_path / "metrics/compare/cell/scores.json").read_text())
    assert written["title"] == "RNN, LSTM and Transformer"
    assert written["summary"].startswith("On scenes, 1 epochs each: model.cell=rnn, model.hidden=")
    assert list(written["scores"]) == ["RNN", "LSTM", "Transformer"]


def test_all_runs_have_the_params_of_the_recipe(run_compare, tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text("model: {hidden: 8}")
    monkeypatch.setattr("sys.argv", ["compare", "cell", "--recipe", "mine.yaml", "-S", "train.epochs=1"])
    for settings in run_compare(epochs=1, code="0").values():
        assert settings[:3] == ["--set-param=model.hidden=8", "-S", "train.epochs=1"]


@pytest.mark.parametrize(("epochs", "code", "changed"), [(2, "0", "train.epochs"), (1, "1", "lib/cells")])
def test_runs_that_differ_in_more_are_not_compared(run_compare, tmp_path, epochs, code, changed):
    with pytest.raises(UserError, match=f"^{changed}: "):
        run_compare(epochs, code)
    assert not (tmp_path / "metrics").exists()
