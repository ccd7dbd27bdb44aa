"""The command that captions a photo of one's own."""

import pytest
import torch
from PIL import Image

from lib.captioner.decoder import Decoder, DecoderConfig
from lib.captioner.model import save_captioner
from lib.cli import caption
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import untrained


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    vocabulary = Vocabulary(["a", "dog"])
    decoder = Decoder(DecoderConfig(16, 128, len(vocabulary), "lstm", "scratch", "additive", 8, 8, 0.0))
    untrained("small_net").save(tmp_path / "backbone")
    save_captioner(tmp_path / "model", tmp_path / "backbone", tmp_path, decoder, vocabulary)
    return tmp_path / "model"


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["caption", *map(str, arguments)])
    return caption.main()


def test_each_picture_gets_a_line_and_an_unreadable_one_stops_nothing(model, tmp_path, monkeypatch, capsys):
    Image.new("L", (30, 20), 99).save(tmp_path / "grey.png")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    pictures = [tmp_path / name for name in ("bad.jpg", "gone.jpg", "grey.png")]
    assert run(monkeypatch, *pictures, "--model", model) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{pictures[2]}: ")
    assert set(out.split(": ")[1].split()) <= {"a", "dog"}
    assert f"{pictures[0]}: not an image" in err
    assert f"{pictures[1]}" in err


def test_a_caption_keeps_to_the_rules_asked_for(model, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (30, 20)).save(tmp_path / "black.png")
    rules = ("--min-length", 2, "--no-repeat", 1)
    assert run(monkeypatch, tmp_path / "black.png", "--model", model, *rules) == 0
    assert sorted(capsys.readouterr().out.split(": ")[1].split()) == ["a", "dog"]


def test_without_a_model_it_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "photo.jpg", "--model", tmp_path / "none") == 1
    assert "run make repro" in capsys.readouterr().err
