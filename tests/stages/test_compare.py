"""`make compare` rejects wrong arguments and runs that are not comparable. tests/test_dvc.py runs a comparison."""

import json

import pytest
import yaml

from lib.core.errors import UserError
from stages.tools import compare
from tests.stages.imports import ROOT

PARAMS = {"dataset": {"name": "scenes"}, "model": {"cell": "rnn", "hidden": 8}, "train": {"epochs": 1}}


def test_an_unknown_comparison_is_rejected(monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare", "cells"])
    with pytest.raises(UserError, match=r"^WHAT=cells: .*cell, implementation, features$"):
        compare.main()


def test_both_runs_have_the_params_of_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("model: {hidden: 8}")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "sys.argv", ["compare", "cell", "--recipe", str(tmp_path / "mine.yaml"), "-S", "train.epochs=1"]
    )
    calls = []
    monkeypatch.setattr(compare, "_run_experiment", lambda name, settings: calls.append(settings))
    monkeypatch.setattr(compare, "_inputs", lambda name: {})
    monkeypatch.setattr("dvc.api.read", lambda path, rev: '{"a": 1}')
    with pytest.raises(KeyError):  # there are no results
        compare.main()
    shared = ["--set-param=model.hidden=8", "-S", "train.epochs=1"]
    assert calls == [[*shared, f"--set-param=model.cell={cell}"] for cell in ("rnn", "lstm")]


@pytest.fixture
def run_compare(tmp_path, monkeypatch):
    """Compare two finished experiments. The second one has this value of model.hidden and this md5 of lib/cells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", "cell"])
    monkeypatch.setattr(compare, "_run_experiment", lambda name, settings: None)

    def run_compare(hidden: int, code: str) -> None:
        lstm = {**PARAMS, "model": {"cell": "lstm", "hidden": hidden}}
        params = {"compare-cell-rnn": PARAMS, "compare-cell-lstm": lstm}

        def read(path: str, rev: str) -> str:
            md5 = "0" if rev == "compare-cell-rnn" else code
            deps = [{"path": "lib/cells", "md5": md5}, {"path": "data/decoder", "md5": rev}]
            return {
                "metrics/scores.json": json.dumps({"bleu_4": 0.5}),
                "metrics/train/curves.csv": "epoch,val_loss,val_bleu_4,val_cider_d\n1,3.0,0.1,0.5\n",
                "dvc.lock": yaml.safe_dump({"stages": {"train": {"deps": deps}}}),
            }[path]

        monkeypatch.setattr("dvc.api.params_show", lambda rev: params[rev])
        monkeypatch.setattr("dvc.api.read", read)
        compare.main()

    return run_compare


def test_two_runs_that_differ_only_in_the_cell_are_compared(run_compare, tmp_path):
    run_compare(hidden=8, code="0")
    written = json.loads((tmp_path / "metrics/compare/cell/scores.json").read_text())
    assert written["summary"].startswith("On scenes, 1 epochs each: model.cell=rnn against model.cell=lstm. ")
    assert written["scores"] == {"RNN": {"bleu_4": 0.5}, "LSTM": {"bleu_4": 0.5}}


@pytest.mark.parametrize(("hidden", "code", "changed"), [(9, "0", "model.hidden"), (8, "1", "lib/cells")])
def test_two_runs_that_differ_in_more_are_not_compared(run_compare, tmp_path, hidden, code, changed):
    with pytest.raises(UserError, match=f"^{changed}: "):
        run_compare(hidden, code)
    assert not (tmp_path / "metrics").exists()
