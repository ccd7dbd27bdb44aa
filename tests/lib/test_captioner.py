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
from safetensors.torch import save_file

import lib
from lib.app.captioner import BATCH_SIZE, Captioner
from lib.core.errors import UserError
from lib.finetuning.reward import CiderReward
from lib.model.decoding import greedy
from lib.model.saved import load_decoder, save_decoder
from lib.scoring.cider import CiderD
from lib.search.consensus import Consensus
from lib.text.vocabulary import END, START, Vocabulary
from lib.vision.backbones import random_init, save_without_cnn
from lib.vision.images import decode
from tests.lib.models import caption_batch, decoder as small_decoder, features
from tests.lib.tiny import WORDS, write_model
from tests.pictures import saved
from tests.stages.imports import ROOT


@pytest.fixture(scope="module", params=["additive", "none"])
def captioner(request, models):
    return Captioner.load(models[request.param])


@pytest.fixture
def model(models, tmp_path):
    """A copy of the model folder that a test may damage."""
    shutil.copytree(models["additive"], tmp_path / "model")
    return tmp_path / "model"


def images(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize((90, 60), Image.Resampling.NEAREST) for image in coarse]


def test_scores_and_attention_weights_are_those_of_the_decoder(captioner):
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
        assert candidate.attention.shape == (len(words), 16 if captioner.decoder.attends else 0)


@pytest.mark.parametrize(("length_penalty", "score"), [(1, "mean_score"), (0, "score")])
def test_captions_are_sorted_by_score(captioner, length_penalty, score):
    for candidates in captioner.caption(images(5), beam_size=4, length_penalty=length_penalty):
        scores = [getattr(candidate, score) for candidate in candidates]
        assert scores == sorted(scores, reverse=True)


def test_several_batches_give_the_captions_of_single_images(captioner):
    inputs = images(2 * BATCH_SIZE + 3)
    beams = captioner.caption(inputs, beam_size=2)
    assert len({beam[0].text for beam in beams}) > 1
    for image, beam in zip(inputs, beams, strict=True):
        (single,) = captioner.caption([image], beam_size=2)
        assert [c.text for c in single] == [c.text for c in beam]
        assert [c.score for c in single] == pytest.approx([c.score for c in beam], abs=1e-3)
    assert captioner.caption([]) == []


def test_captions_follow_the_constraints(captioner):
    for best, *_ in captioner.caption(images(4), min_length=4, max_length=5, no_repeat_ngram_size=1):
        assert 4 <= len(best.tokens) <= 5
        assert len(set(best.tokens)) == len(best.tokens)
    assert [len(beam) for beam in captioner.caption(images(2), beam_size=1)] == [1, 1]
    for name in ("beam_size", "max_length"):
        with pytest.raises(UserError, match=f"{name}=0"):
            captioner.caption(images(1), **{name: 0})


def test_captions_are_as_long_as_in_the_training_and_old_models_have_20_words(tmp_path):
    folder = write_model(tmp_path / "model", "none")
    settings = json.loads((folder / "decoder.json").read_text())
    for limit in (2, 7):
        (folder / "decoder.json").write_text(json.dumps({**settings, "max_length": limit}))
        captioner = Captioner.load(folder)
        assert {len(best.tokens) for best, *_ in captioner.caption(images(3), min_length=limit)} == {limit}
    del settings["max_length"]
    (folder / "decoder.json").write_text(json.dumps(settings))
    captioner = Captioner.load(folder)
    assert {len(best.tokens) for best, *_ in captioner.caption(images(3), min_length=20)} == {20}
    assert captioner.vocabulary.tokenizer.name == "ptb"


def test_a_consensus_reranks_the_captions(captioner):
    inputs = images(3)
    features = captioner.features(np.stack([captioner.pixels(image) for image in inputs]))
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
    "turned.jpg": saved(NOISE, "JPEG", exif=EXIF),
    "cmyk.jpg": saved(NOISE.convert("CMYK"), "JPEG"),
    "bits16.png": saved(Image.fromarray(np.linspace(0, 65535, 4800).reshape(60, 80).astype(np.uint16))),
    "see-through.png": saved(NOISE.convert("P"), transparency=7),
    "moving.gif": saved(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)], duration=50),
    "line.png": saved(Image.new("RGB", (3000, 1), "red")),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_and_images_of_every_kind_are_read_as_a_viewer_shows_them(captioner, name, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    shown = captioner.backbone.preprocess.pixels(decode(KINDS[name]))
    inputs = [tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name)]
    for value in inputs:
        np.testing.assert_array_equal(captioner.pixels(value), shown)
    assert len({candidates[0].text for candidates in captioner.caption(inputs)}) == 1


def test_a_single_image_and_several_of_any_kind_give_the_same_captions(captioner, tmp_path):
    image = images(1)[0]
    image.save(path := tmp_path / "photo.png")
    array = np.asarray(image)
    (expected,) = captioner.caption([image])
    for single in (str(path), path, image, array, array[::-1][::-1], Image.open(path)):
        for value in (single, [single], (single,), iter([single])):
            ((best, *_),) = captioner.caption(value)
            assert (best.text, best.score) == (expected[0].text, expected[0].score)
    assert len(captioner.caption([str(path), path, image, array])) == 4
    assert len(captioner.caption(np.stack([array, array]))) == 2


def test_arrays_are_preprocessed_as_pictures_are(captioner):
    image = images(1)[0]
    assert image.size != (captioner.backbone.preprocess.size,) * 2
    np.testing.assert_array_equal(captioner.pixels(np.asarray(image)), captioner.pixels(image))
    grey = image.convert("L")
    np.testing.assert_array_equal(captioner.pixels(np.asarray(grey)), captioner.pixels(grey))


@pytest.mark.parametrize(("value", "message"), [
    (np.zeros((9, 9, 3), np.float32), "float32.*uint8.*255"),
    (np.zeros((9, 9, 3), np.int64), "int64.*uint8"),
    (np.zeros((9, 9, 3), bool), "bool.*uint8"),
    (np.zeros((3, 9, 9), np.uint8), r"\(3, 9, 9\).*\(H, W, 3\)"),
    (np.zeros((9, 9, 4), np.uint8), r"\(9, 9, 4\).*\(H, W, 3\)"),
    (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\)"),
    (np.zeros(9, np.uint8), r"\(9,\)"),
    (torch.zeros(9, 9, 3), "Tensor.*array"),
    (b"bytes", "bytes.*path"),
    (None, "NoneType.*path"),
    ([3], "int.*path"),
])  # fmt: skip
def test_other_values_are_an_error_that_says_what_is_accepted(captioner, value, message):
    with pytest.raises(UserError, match=message) as error:
        captioner.caption(value)
    assert "\n" not in str(error.value)


def test_captions_from_features_are_those_of_the_images(captioner):
    inputs = images(3)
    features = captioner.features(np.stack([captioner.pixels(image) for image in inputs]))
    expected = [[c.to_json() for c in beam] for beam in captioner.caption(inputs, beam_size=2)]
    for value in (features, features.float().numpy()):
        assert [[c.to_json() for c in beam] for beam in captioner.caption_features(value, beam_size=2)] == expected
    assert captioner.caption_features(features[:0]) == []
    for wrong, message in ((features[..., 1:], "num_regions"), (features[0, 0], r"\(N, C\)"), (features / 0, "finite")):
        with pytest.raises(UserError, match=message):
            captioner.caption_features(wrong)


def test_a_model_of_ready_features_says_that_it_needs_features(models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(models["none"], model)
    shutil.rmtree(model / "backbone")
    save_without_cnn(model / "backbone", "clip.npz")
    captioner = Captioner.load(model)
    features = torch.randn(2, 2048)
    assert len(captioner.caption_features(features)) == 2
    with pytest.raises(UserError, match=r"features\.source.*caption_features"):
        captioner.caption(images(1))


def test_an_error_names_the_image_that_cannot_be_read(captioner, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(saved(NOISE, "JPEG")[:-500])
    for name, reason in (("cut.jpg", "cannot be decoded"), ("gone.jpg", "No such file"), ("", "Is a directory")):
        with pytest.raises(UserError, match=f"{name or tmp_path.name}: .*{reason}"):
            captioner.caption([NOISE, tmp_path / name])
    with pytest.raises(UserError, match="mode=F"):
        captioner.caption([Image.new("F", (4, 4))])


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs an endless file")
def test_a_file_of_more_than_the_limit_is_rejected(captioner, monkeypatch):
    monkeypatch.setattr("lib.app.captioner.MAX_IMAGE_BYTES", 1000)
    with pytest.raises(UserError, match=r"/dev/zero: .*1000 bytes"):
        captioner.pixels("/dev/zero")


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", [
    "decoder.json", "decoder.safetensors", "vocabulary.json", "backbone/backbone.json", "backbone/weights.safetensors",
])  # fmt: skip
def test_a_missing_model_file_is_a_one_line_error(model, name):
    (model / name).unlink()
    with pytest.raises(UserError, match=name.rpartition("/")[2]) as caught:
        Captioner.load(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [
    {"depth": 2}, {"cell": "gru"}, {"vocabulary_size": 8}, {"vocabulary_size": 2**31}, {"hidden_size": -1},
    {"hidden_size": 9}, {"hidden_size": 2**40}, {"num_regions": 2**40}, {"feature_size": 7},
])  # fmt: skip
def test_a_decoder_json_that_does_not_fit_the_weights_is_an_error_and_takes_no_memory(model, change):
    change_json(model / "decoder.json", **change)
    with pytest.raises(UserError, match=r"decoder\.(json|safetensors) "):
        load_decoder(model)


@pytest.mark.parametrize("format_key", [{}, {"format": 4}])
def test_a_model_of_another_format_is_an_error_that_says_what_to_do(model, format_key):
    config = json.loads((model / "decoder.json").read_text())
    del config["format"]
    old = {"places": config.pop("num_regions"), "channels": config.pop("feature_size")}
    (model / "decoder.json").write_text(json.dumps(config | old | format_key))
    with pytest.raises(UserError, match=r"decoder\.json.*format .*dvc repro") as raised:
        load_decoder(model)
    assert "\n" not in str(raised.value)


def test_a_model_of_format_2_is_loaded(tmp_path):
    """Its weights had no prefix `body.`, and its config had no layers."""
    decoder = small_decoder().float()
    save_decoder(tmp_path, decoder, Vocabulary(WORDS))
    config = json.loads((tmp_path / "decoder.json").read_text())
    del config["layers"]
    (tmp_path / "decoder.json").write_text(json.dumps(config | {"format": 2}))
    weights = {name.removeprefix("body."): tensor for name, tensor in decoder.state_dict().items()}
    assert {"cell.weight_ih_l0", "attention.position", "feature_mean", "output.bias"} < set(weights)
    save_file(weights, tmp_path / "decoder.safetensors")
    loaded, _ = load_decoder(tmp_path)
    assert loaded.config == decoder.config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in decoder.state_dict().items())


def test_a_saved_decoder_is_loaded_with_the_same_weights(tmp_path):
    kinds = itertools.product(["lstm", "rnn", "transformer"], ["scratch", "torch"], ["none", "additive"])
    for kind in kinds:
        decoder = small_decoder(*kind).float()
        save_decoder(tmp_path, decoder, Vocabulary(WORDS))
        loaded, vocabulary = load_decoder(tmp_path)
        assert vocabulary.words[-5:] == tuple(WORDS)
        assert loaded.config == decoder.config
        images = features().float()
        assert [h.token_ids for h in greedy(loaded, images, 6)] == [h.token_ids for h in greedy(decoder, images, 6)]


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "resnet5000"}, "resnet5000"),
    ({"name": "resnet18"}, r"weights\.safetensors"),
    ({"preprocess": {}}, r"backbone\.json.*'mean'"),
    ({"preprocess": {"size": 10**6, "mean": [0] * 3, "std": [1] * 3}}, r"backbone\.json.*1000000"),
    ({"preprocess": {"size": 64, "mean": [0, 0], "std": [1] * 3}}, r"backbone\.json"),
    ({"preprocess": {"size": 64, "mean": [0] * 3, "std": [1] * 3, "colours": 3}}, "colours"),
])  # fmt: skip
def test_a_cnn_of_another_version_is_an_error(model, change, message):
    change_json(model / "backbone/backbone.json", **change)
    with pytest.raises(UserError, match=message):
        Captioner.load(model)


def test_an_error_names_the_incomplete_folder_of_an_ensemble(model, tmp_path):
    (tmp_path / "incomplete").mkdir()
    with pytest.raises(UserError, match=r"incomplete.*decoder\.json"):
        Captioner.load(model, tmp_path / "incomplete")


def test_a_vocabulary_of_another_model_is_an_error(model):
    change_json(model / "vocabulary.json", words=WORDS[:-1])
    with pytest.raises(UserError, match=r"vocabulary\.json"):
        Captioner.load(model)


def test_a_cnn_of_another_model_is_an_error(model):
    random_init("mobilenet_v3_small").save(model / "backbone")
    with pytest.raises(UserError, match="mobilenet_v3_small"):
        Captioner.load(model).caption(images(1))


def test_the_package_imports_torch_when_captioner_is_used():
    code = "import sys, lib; assert 'torch' not in sys.modules; from lib import Captioner; print(Captioner.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Captioner.__module__
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        lib.Nothing  # noqa: B018
