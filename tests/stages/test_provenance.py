"""What made a model is in the model, and where and when beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lib.core.errors import UserError
from lib.model.card import provenance_path, write_card
from lib.model.decoder import DecoderConfig
from lib.model.saved import weights_path
from stages.tools import provenance
from tests.stages.imports import ROOT

CONFIG = DecoderConfig(16, 64, 104, "lstm", "scratch", "additive", 8, 12, 0.0)
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def card(folder: Path, **train) -> str:
    folder.mkdir(exist_ok=True)
    weights_path(folder).write_bytes(b"of the model")
    scst = {**PARAMS["train"]["scst"], **train}
    write_card(
        folder, CONFIG, {**PARAMS, "train": {**PARAMS["train"], "scst": scst}}, {"data/x": "abc"}, {"bleu_4": 0.5}
    )
    return (folder / "README.md").read_text()


def test_the_card_says_what_the_model_is_and_what_taught_it(tmp_path):
    text = card(tmp_path)
    for part in ("LSTM with 12 hidden units", "additive", "16 x 64", "100 words", "scenes", "bleu_4 0.500"):
        assert part in text, part
    assert "self-critical" not in text
    assert "3 of self-critical training" in card(tmp_path, epochs=3)
    written = json.loads(provenance_path(tmp_path).read_text())
    assert written["inputs"] == {"data/x": "abc"}
    assert written["params"]["train"]["scst"]["epochs"] == 3


def test_inputs_are_told_by_the_md5_that_dvc_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("data/raw"), Path("data/absent")]
    assert provenance.md5s(paths) == {}
    lock = {"stages": {"download": {"outs": [{"path": "data/raw", "md5": "12.dir"}]}, "report": {}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert provenance.md5s(paths) == {"data/raw": "12.dir"}


@pytest.mark.skipif(os.name != "posix", reason="needs a locale of ASCII alone")
def test_the_lock_file_is_utf_8_whatever_the_locale(tmp_path):
    """As on Windows, whose own encoding is another."""
    lock = {"stages": {"download": {"deps": [{"path": "fotografías"}], "outs": [{"path": "data/raw", "md5": "1"}]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock, allow_unicode=True), "utf-8")
    code = "from pathlib import Path; from stages.tools.provenance import md5s; print(md5s([Path('data/raw')]))"
    ascii_alone = {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **ascii_alone}, capture_output=True, text=True
    )
    assert done.stdout == "{'data/raw': '1'}\n", done.stderr


def test_the_command_shows_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    monkeypatch.setattr("sys.argv", ["provenance"])
    with pytest.raises(UserError, match=r"data/model/provenance\.json: not there: run make repro"):
        provenance.main()
    card(Path("data/model"))
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", *words], check=True)
    provenance.note_run()
    provenance.main()
    told = yaml.safe_load(capsys.readouterr().out)
    assert told["params"]["model"] == PARAMS["model"]
    assert told["made"]["commit"]
    assert told["made"]["packages"].keys() >= {"torch", "dvc"}
    card(Path("copied"))
    monkeypatch.setattr("sys.argv", ["provenance", "copied"])
    provenance.main()
    assert yaml.safe_load(capsys.readouterr().out)["made"] == told["made"]


@pytest.mark.parametrize("name", ["data/model/provenance.json", "data/made.json"])
@pytest.mark.parametrize("damage", [b"", b"\xff", b"1"])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, name, damage):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    card(Path("data/model"))
    Path(name).write_bytes(damage)
    monkeypatch.setattr("sys.argv", ["provenance"])
    with pytest.raises(UserError, match=f"^{name} is damaged, or of another version: "):
        provenance.main()


def test_where_another_model_has_taken_the_place_of_the_one_that_was_made_here_that_is_told(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    card(Path("data/model"))
    provenance.note_run()
    weights_path(Path("data/model")).write_bytes(b"of another, which DVC had in its cache")
    monkeypatch.setattr("sys.argv", ["provenance"])
    provenance.main()
    assert yaml.safe_load(capsys.readouterr().out)["made"].startswith("elsewhere")


def test_a_package_that_is_not_there_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    card(Path("data/model"))
    monkeypatch.setattr(provenance, "_PACKAGES", ("torch", "no-such-package"))
    provenance.note_run()
    packages = json.loads(Path("data/made.json").read_text())["packages"]
    assert packages["torch"]
    assert packages["no-such-package"] is None
