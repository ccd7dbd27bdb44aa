"""`make provenance`: the model holds its params; a note in the scratch folder says when and where it was trained."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from lib.core.errors import UserError
from lib.model.decoder import DecoderConfig
from lib.model.saved import provenance_path, weights_path, write_card
from stages.common import provenance as note
from stages.common.paths import MODEL, PROVENANCE
from stages.tools import provenance
from tests.commands import command, commit
from tests.stages.imports import ROOT

CONFIG = DecoderConfig(16, 64, 104, "lstm", "scratch", "additive", 8, 12, 0.0)
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def write_model(folder: Path, **finetune) -> str:
    """Write a model with these params of `finetune`; return its card."""
    folder.mkdir(parents=True, exist_ok=True)
    weights_path(folder).write_bytes(b"weights")
    write_card(folder, CONFIG, {**PARAMS, "finetune": {**PARAMS["finetune"], **finetune}}, {"bleu_4": 0.5})
    return (folder / "README.md").read_text()


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Run `make provenance` in an empty project; return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        monkeypatch.setattr("sys.argv", ["provenance", *arguments])
        provenance.main()
        return yaml.safe_load(capsys.readouterr().out)

    return run


def test_the_card_says_what_the_model_is_and_how_it_was_trained(tmp_path):
    text = write_model(tmp_path)
    for part in ("LSTM", "12", "16 x 64", "100 words", "scenes", "bleu_4 0.500"):
        assert part in text, part
    assert "self-critical" not in text
    assert "3 of self-critical training" in write_model(tmp_path, epochs=3)
    assert json.loads(provenance_path(tmp_path).read_text())["params"]["finetune"]["epochs"] == 3


def test_params_inputs_and_the_note_are_shown(show, monkeypatch):
    monkeypatch.setattr(note, "_PACKAGES", ("torch", "no-such-package"))
    with pytest.raises(UserError, match=r"^data/model/provenance\.json is missing"):
        show()
    write_model(MODEL)
    command(Path(), "git", "init", "-q")
    commit(Path(), "a")
    note.note_run(MODEL)
    deps = [{"path": "lib/model", "md5": "1"}, {"path": "data/features", "md5": "2.dir"}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"finetune": {"deps": deps}, "report": {}}}))
    shown = show()
    assert shown["params"]["model"] == PARAMS["model"]
    assert shown["inputs"] == {"data/features": "2.dir"}
    assert shown["made"]["commit"]
    assert shown["made"]["packages"] == {"torch": version("torch"), "no-such-package": None}
    write_model(Path("copied"))
    assert show("copied")["made"] == shown["made"]


@pytest.mark.skipif(os.name != "posix", reason="needs a locale of ASCII alone")
def test_the_lock_file_is_utf_8_in_any_locale(show):
    write_model(MODEL)
    note.note_run(MODEL)
    stages = {"finetune": {"deps": [{"path": "data/x", "md5": "1"}]}, "download": {"deps": [{"path": "fotografías"}]}}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}, allow_unicode=True), "utf-8")
    locale = {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    variables = [f"{name}={value}" for name, value in locale.items()]
    shown = yaml.safe_load(command(Path(), "env", *variables, "python", "-m", "stages.tools.provenance"))
    assert shown["inputs"] == {"data/x": "1"}


@pytest.mark.parametrize("path", [provenance_path(MODEL), PROVENANCE])
@pytest.mark.parametrize("damage", [b"", b"\xff", b"1"])
def test_a_damaged_file_is_named(show, path, damage):
    write_model(MODEL)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damage)
    with pytest.raises(UserError, match=f"^{path} is damaged"):
        show()


def test_the_note_counts_only_for_the_model_that_it_was_written_for(show):
    write_model(MODEL)
    note.note_run(MODEL)
    weights_path(MODEL).write_bytes(b"other weights, from DVC's cache")
    shown = show()
    assert isinstance(shown["made"], str)
    assert "inputs" not in shown
