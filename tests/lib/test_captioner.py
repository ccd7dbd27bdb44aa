"""`lib.Captioner`: from images to captions."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.app.captioner import BATCH_SIZE, Captioner
from lib.core.errors import UserError
from lib.finetuning.reward import CiderReward
from lib.model.decoding import greedy
from lib.model.saved import load_decoder, save_decoder
from lib.scoring.cider import CiderD
from lib.search.consensus import Consensus
from lib.text.vocabulary import END, START, Vocabulary
from lib.vision.backbones import random_init
from lib.vision.images import decode
from tests.lib.models import caption_batch, decoder as small_decoder, features
from tests.lib.tiny import WORDS
from tests.pictures import saved
from tests.stages.imports import ROOT


@pytest.fixture(scope="module", params=["additive", "none"])
def captioner(request, models):
    return Captioner.load(models[request.param])


@pytest.fixture
def model(models, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(models["additive"], tmp_path / "model")
    return tmp_path / "model"


def images(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((90, 60), Image.Resampling.NEAREST)
        for _ in range(count)
    ]


def test_scores_are_the_log_probabilities_of_the_decoder(captioner):
    image = images(1)[0]
    pixels = torch.from_numpy(captioner.backbone.preprocess.pixels(image).copy())[None]
    kind = "grid" if captioner.decoder.attends else "pooled"
    features = captioner.backbone.features(pixels, kind).half().float()
    (candidates,) = captioner.caption([image], beam_size=4)
    assert 1 < len(candidates) <= 4
    for candidate in candidates:
        words = [4 + WORDS.index(token) for token in candidate.tokens]
        ids = torch.tensor([[START, *words, *([END] if len(words) < 20 else [])]])
        with torch.inference_mode():
            scores = captioner.decoder(features, caption_batch(torch.tensor([0]), ids))  # (T, V)
        each = torch.log_softmax(scores, dim=1).gather(1, ids[0, 1:, None])
        assert candidate.score == pytest.approx(each.sum().item(), abs=1e-4)
        assert candidate.mean_score == pytest.approx(each.mean().item(), abs=1e-4)
        assert candidate.text == " ".join(candidate.tokens)


def test_captions_are_sorted_by_score(captioner):
    for candidates in captioner.caption(images(5), beam_size=4, length_penalty=1):
        means = [candidate.mean_score for candidate in candidates]
        assert means == sorted(means, reverse=True)
    for candidates in captioner.caption(images(5), beam_size=4, length_penalty=0):
        scores = [candidate.score for candidate in candidates]
        assert scores == sorted(scores, reverse=True)


def test_several_batches_give_the_captions_of_single_images(captioner):
    inputs = images(2 * BATCH_SIZE + 3)
    beams = captioner.caption(inputs, beam_size=2)
    assert len({beam[0].text for beam in beams}) > 1
    for image, beam in zip(inputs, beams, strict=True):
        (single,) = captioner.caption([image], beam_size=2)
        assert [c.text for c in single] == [c.text for c in beam]
        assert [c.score for c in single] == pytest.approx([c.score for c in beam], abs=1e-3)


def test_no_images_give_no_captions(captioner):
    assert captioner.caption([]) == []


def test_each_word_has_attention_weights_if_the_model_attends(captioner):
    for candidate in captioner.caption(images(3))[0]:
        words = len(candidate.tokens)
        if captioner.decoder.attends:
            assert candidate.attention.shape == (words, 16)
            torch.testing.assert_close(candidate.attention.sum(dim=1), torch.ones(words))
        else:
            assert candidate.attention.shape == (words, 0)


def test_captions_follow_the_constraints(captioner):
    for best, *_ in captioner.caption(images(4), min_length=4, max_length=5, no_repeat_ngram_size=1):
        assert 4 <= len(best.tokens) <= 5
        assert len(set(best.tokens)) == len(best.tokens)
    assert [len(beam) for beam in captioner.caption(images(2), beam_size=1)] == [1, 1]
    for name in ("beam_size", "max_length"):
        with pytest.raises(UserError, match=f"{name}=0"):
            captioner.caption(images(1), **{name: 0})


def test_a_consensus_reranks_the_captions(captioner):
    inputs = images(3)
    features = captioner._features(torch.from_numpy(np.stack([captioner.pixels(image) for image in inputs])))
    words = [[["cat", "sleeps"]], [["a", "dog", "runs"]], [["dog", "dog"]]]
    consensus = Consensus(features, CiderReward(words, captioner.vocabulary), neighbours=1, weight=100.0)
    cider = CiderD([[[*tokens, "."] for tokens in caption] for caption in words])
    search = {"beam_size": 30, "max_length": 3}
    ranked, reranked = captioner.caption(inputs, **search), captioner.caption(inputs, consensus=consensus, **search)
    for row, (before, after) in enumerate(zip(ranked, reranked, strict=True)):
        assert sorted(c.text for c in after) == sorted(c.text for c in before)
        tokens = [[*c.tokens, "."] if len(c.tokens) < 3 else c.tokens for c in after]
        scores = cider.scores([row] * len(after), tokens)
        assert scores[0] == pytest.approx(scores.max(), abs=0.1)
    assert [beam[0].text for beam in ranked] != [beam[0].text for beam in reranked]


NOISE = Image.effect_noise((80, 60), 90).convert("RGB")
EXIF = Image.Exif()
EXIF[0x0112] = 6  # rotate by 90 degrees
KINDS = {
    "rgb.png": saved(NOISE, "PNG"),
    "photo.jpg": saved(NOISE, "JPEG"),
    "turned.jpg": saved(NOISE, "JPEG", exif=EXIF),
    "cmyk.jpg": saved(NOISE.convert("CMYK"), "JPEG"),
    "grey.png": saved(NOISE.convert("L"), "PNG"),
    "bits16.png": saved(Image.fromarray(np.linspace(0, 65535, 4800).reshape(60, 80).astype(np.uint16)), "PNG"),
    "see-through.png": saved(NOISE.convert("P"), "PNG", transparency=7),
    "moving.gif": saved(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)], duration=50),
    "point.png": saved(Image.new("RGB", (1, 1), "red"), "PNG"),
    "line.png": saved(Image.new("RGB", (3000, 1), "red"), "PNG"),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_and_images_of_every_kind_are_read_as_a_viewer_shows_them(captioner, name, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    shown = captioner.backbone.preprocess.pixels(decode(KINDS[name]))
    inputs = [tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name), shown]
    for value in inputs:
        np.testing.assert_array_equal(captioner.pixels(value), shown)
    assert len({candidates[0].text for candidates in captioner.caption(inputs)}) == 1


BAD = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"no picture at all\n", "not an image"),
    "cut.jpg": (saved(NOISE, "JPEG")[:-500], "cannot be decoded"),
    "bomb.png": (saved(Image.new("1", (20_000, 20_000)), "PNG"), "20000 x 20000 pixels are too many"),
    "float.tiff": (saved(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_names_an_unreadable_file(captioner, name, tmp_path):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{reason}"):
        captioner.caption([tmp_path / name])


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs an endless file")
def test_a_file_of_more_than_the_limit_is_rejected(captioner, monkeypatch):
    monkeypatch.setattr("lib.app.captioner.MAX_IMAGE_BYTES", 1000)
    with pytest.raises(UserError, match=r"/dev/zero: .*1000 bytes"):
        captioner.pixels("/dev/zero")


def test_an_error_names_a_missing_file_or_a_folder(captioner, tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg: No such file"):
        captioner.pixels(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=f"{tmp_path.name}: Is a directory"):
        captioner.pixels(tmp_path)
    with pytest.raises(UserError, match="mode=F"):
        captioner.pixels(Image.new("F", (4, 4)))


CNN_FILES = ["backbone/backbone.json", "backbone/weights.safetensors"]


@pytest.mark.parametrize("name", ["decoder.json", "decoder.safetensors", "vocabulary.json", *CNN_FILES])
def test_a_missing_model_file_is_a_one_line_error(model, name):
    (model / name).unlink()
    with pytest.raises(UserError, match=name.rpartition("/")[2]) as caught:
        Captioner.load(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 2}, {"cell": "gru"}, {"hidden_size": 9}, {"vocabulary_size": 8}, {"hidden_size": 2**40},
        {"vocabulary_size": 2**31}, {"hidden_size": -1}, {"num_regions": 2**40}, {"feature_size": 7},
    ],
)  # fmt: skip
def test_a_decoder_json_that_does_not_fit_the_weights_is_an_error_and_takes_no_memory(model, change):
    config = json.loads((model / "decoder.json").read_text())
    (model / "decoder.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=r"decoder\.(json|safetensors) "):
        load_decoder(model)


@pytest.mark.parametrize("format_key", [{}, {"format": 3}])
def test_a_model_of_another_format_is_an_error_that_says_what_to_do(model, format_key):
    config = json.loads((model / "decoder.json").read_text())
    del config["format"]
    old = {"places": config.pop("num_regions"), "channels": config.pop("feature_size")}
    (model / "decoder.json").write_text(json.dumps(config | old | format_key))
    with pytest.raises(UserError, match=r"decoder\.json .*format .*dvc repro") as raised:
        load_decoder(model)
    assert "\n" not in str(raised.value)


def test_a_saved_decoder_is_loaded_with_the_same_weights(tmp_path):
    for kind in itertools.product(["lstm", "rnn"], ["scratch", "torch"], ["none", "additive"]):
        decoder = small_decoder(*kind).float()
        save_decoder(tmp_path, decoder, Vocabulary(WORDS))
        loaded, vocabulary = load_decoder(tmp_path)
        assert vocabulary.words[-5:] == tuple(WORDS)
        assert loaded.config == decoder.config
        images = features().float()
        assert [h.token_ids for h in greedy(loaded, images, 6)] == [h.token_ids for h in greedy(decoder, images, 6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet5000"}, "resnet5000"),
        ({"name": "resnet18"}, r"weights\.safetensors"),
        ({"preprocess": {}}, r"backbone\.json.*'mean'"),
        ({"preprocess": {"size": 10**6, "mean": [0, 0, 0], "std": [1, 1, 1]}}, r"backbone\.json.*1000000"),
        ({"preprocess": {"size": 64, "mean": [0, 0], "std": [1, 1, 1]}}, r"backbone\.json"),
        ({"preprocess": {"size": 64, "mean": [0] * 3, "std": [1] * 3, "colours": 3}}, "colours"),
    ],
)
def test_a_cnn_of_another_version_is_an_error(model, change, message):
    path = model / "backbone" / "backbone.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Captioner.load(model)


def test_an_error_names_the_incomplete_folder_of_an_ensemble(model, tmp_path):
    (tmp_path / "ensemble").mkdir()
    for load in (lambda: load_decoder(tmp_path / "ensemble"), lambda: Captioner.load(model, tmp_path / "ensemble")):
        with pytest.raises(UserError, match=r"ensemble.*decoder\.json"):
            load()


def test_a_vocabulary_of_another_model_is_an_error(model):
    (model / "vocabulary.json").write_text(json.dumps({"words": WORDS[:-1]}))
    with pytest.raises(UserError, match=r"vocabulary\.json"):
        Captioner.load(model)


def test_a_cnn_of_another_model_is_an_error(model):
    random_init("mobilenet_v3_small").save(model / "backbone")
    with pytest.raises(UserError, match="mobilenet_v3_small"):
        Captioner.load(model).caption(images(1))


def test_the_package_does_not_import_torch():
    code = "import sys, lib; assert 'torch' not in sys.modules; from lib import Captioner; print(Captioner.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Captioner.__module__


def test_the_package_has_no_other_names():
    import lib

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        lib.Nothing  # noqa: B018
