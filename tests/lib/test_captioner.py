"""From pictures to captions: `lib.Captioner`."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lib.app.captioner import BATCH, Captioner
from lib.core.errors import UserError
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
    """A copy to damage."""
    shutil.copytree(models["additive"], tmp_path / "model")
    return tmp_path / "model"


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((90, 60), Image.Resampling.NEAREST)
        for _ in range(count)
    ]


def test_a_score_is_what_the_decoder_gives_the_caption_when_it_is_taught(captioner):
    picture = pictures(1)[0]
    pixels = torch.from_numpy(captioner.backbone.preprocess.pixels(picture).copy())[None]
    kind = "grid" if captioner.decoder.attends else "pooled"
    features = captioner.backbone.features(pixels, kind).half().float()
    (candidates,) = captioner.caption([picture], beam_size=4)
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


def test_the_best_comes_first(captioner):
    for candidates in captioner.caption(pictures(5), beam_size=4, length_penalty=1):
        means = [candidate.mean_score for candidate in candidates]
        assert means == sorted(means, reverse=True)
    for candidates in captioner.caption(pictures(5), beam_size=4, length_penalty=0):
        scores = [candidate.score for candidate in candidates]
        assert scores == sorted(scores, reverse=True)


def test_many_pictures_at_once_get_what_each_gets_alone(captioner):
    some = pictures(2 * BATCH + 3)
    together = captioner.caption(some, beam_size=2)
    assert len(together) == len(some)
    assert len({candidates[0].text for candidates in together}) > 1
    for picture, candidates in zip(some, together, strict=True):
        (alone,) = captioner.caption([picture], beam_size=2)
        assert [each.text for each in alone] == [each.text for each in candidates]
        assert [each.score for each in alone] == pytest.approx([each.score for each in candidates], abs=1e-3)


def test_no_pictures_get_no_captions(captioner):
    assert captioner.caption([]) == []


def test_each_word_has_its_look_at_the_picture_if_the_model_attends(captioner):
    for candidate in captioner.caption(pictures(3))[0]:
        words = len(candidate.tokens)
        if captioner.decoder.attends:
            assert candidate.attention.shape == (words, 16)
            torch.testing.assert_close(candidate.attention.sum(dim=1), torch.ones(words))
        else:
            assert candidate.attention.shape == (words, 0)


def test_the_caption_keeps_to_what_is_asked_for(captioner):
    for best, *_ in captioner.caption(pictures(4), min_length=4, max_length=5, no_repeat_ngram_size=1):
        assert 4 <= len(best.tokens) <= 5
        assert len(set(best.tokens)) == len(best.tokens)
    assert [len(found) for found in captioner.caption(pictures(2), beam_size=1)] == [1, 1]
    for wrong in ({"beam_size": 0}, {"max_length": 0}):
        with pytest.raises(UserError, match="at least 1"):
            captioner.caption(pictures(1), **wrong)


def test_a_consensus_ranks_the_captions_anew(captioner):
    shown = pictures(3)
    features = captioner._features(torch.from_numpy(np.stack([captioner.see(picture) for picture in shown])))
    words = [[["cat", "sleeps"]], [["a", "dog", "runs"]], [["dog", "dog"]]]
    consensus = Consensus(features, words, captioner.vocabulary, neighbours=1, weight=100.0)
    like = CiderD([[[*tokens, "."] for tokens in caption] for caption in words])
    asked = {"beam_size": 30, "max_length": 3}
    own, reranked = captioner.caption(shown, **asked), captioner.caption(shown, consensus=consensus, **asked)
    for row, (before, after) in enumerate(zip(own, reranked, strict=True)):
        assert sorted(c.text for c in after) == sorted(c.text for c in before)
        ended = [[*c.tokens, "."] if len(c.tokens) < 3 else c.tokens for c in after]
        agreed = like.scores([row] * len(after), ended)
        assert agreed[0] == pytest.approx(agreed.max(), abs=0.1)
    assert [beam[0].text for beam in own] != [beam[0].text for beam in reranked]


NOISE = Image.effect_noise((80, 60), 90).convert("RGB")
EXIF = Image.Exif()
EXIF[0x0112] = 6  # to be turned by a quarter
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
def test_file_and_picture_of_every_kind_are_seen_as_a_viewer_would_show_them(captioner, name, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    shown = captioner.backbone.preprocess.pixels(decode(KINDS[name]))
    ways = [tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name), shown]
    for way in ways:
        np.testing.assert_array_equal(captioner.see(way), shown)
    assert len({candidates[0].text for candidates in captioner.caption(ways)}) == 1


BAD = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"no picture at all\n", "not an image"),
    "cut.jpg": (saved(NOISE, "JPEG")[:-500], "cannot be decoded"),
    "bomb.png": (saved(Image.new("1", (20_000, 20_000)), "PNG"), "20000 x 20000 pixels are too many"),
    "float.tiff": (saved(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_shown_is_named(captioner, name, tmp_path):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{reason}"):
        captioner.caption([tmp_path / name])


def test_what_is_no_file_is_named(captioner, tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg: No such file"):
        captioner.see(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=f"{tmp_path.name}: Is a directory"):
        captioner.see(tmp_path)
    with pytest.raises(UserError, match="mode=F"):
        captioner.see(Image.new("F", (4, 4)))


@pytest.mark.skipif(os.name != "posix", reason="has no /dev/zero")
def test_a_file_without_an_end_is_not_read_to_it(captioner):
    with pytest.raises(UserError, match="larger than 256 MB"):
        captioner.see("/dev/zero")


FILES = [
    "decoder.json",
    "decoder.safetensors",
    "vocabulary.json",
    "backbone/backbone.json",
    "backbone/weights.safetensors",
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_of_the_model_is_told_in_one_line(model, name):
    (model / name).unlink()
    with pytest.raises(UserError, match=name.rpartition("/")[2]) as told:
        Captioner.load(model)
    assert "\n" not in str(told.value)


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
        ({"name": "resnet5000"}, r"backbone.*resnet5000"),
        ({"name": "resnet18"}, r"weights\.safetensors .*Missing key"),
        ({"preprocess": {}}, r"backbone\.json .*'mean'"),
        ({"preprocess": {"size": 10**6, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "size is 1000000, and should be"),
        ({"preprocess": {"size": 64, "mean": [0, 0], "std": [1, 1, 1]}}, r"backbone\.json is damaged"),
        ({"preprocess": {"size": 64, "mean": [0] * 3, "std": [1] * 3, "colours": 3}}, "unexpected keyword"),
    ],
)
def test_a_cnn_of_another_version_is_told_of(model, change, message):
    path = model / "backbone" / "backbone.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Captioner.load(model)


def test_a_folder_that_is_no_model_is_named_among_those_of_an_ensemble(model, tmp_path):
    (tmp_path / "ensemble").mkdir()
    for load in (lambda: load_decoder(tmp_path / "ensemble"), lambda: Captioner.load(model, tmp_path / "ensemble")):
        with pytest.raises(UserError, match=r"/ensemble has no decoder\.json"):
            load()


def test_a_vocabulary_of_another_model_is_told_of(model):
    (model / "vocabulary.json").write_text(json.dumps({"words": WORDS[:-1]}))
    with pytest.raises(UserError, match=r"vocabulary\.json has 8 tokens, .* 9"):
        Captioner.load(model)


def test_a_cnn_of_another_model_is_told_of(model):
    random_init("mobilenet_v3_small").save(model / "backbone")
    with pytest.raises(UserError, match=r"mobilenet_v3_small: .*\(49, .*\(16, 128\)"):
        Captioner.load(model).caption(pictures(1))


def test_models_of_another_kind_of_features_cannot_decode_together(models):
    with pytest.raises(UserError, match=r"cannot decode together: .*features\.kind"):
        Captioner.load(models["additive"], models["none"])


def test_the_library_itself_does_not_import_torch():
    code = "import sys, lib; assert 'torch' not in sys.modules; from lib import Captioner; print(Captioner.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Captioner.__module__


def test_the_library_has_no_other_names():
    import lib

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        lib.Nothing  # noqa: B018
