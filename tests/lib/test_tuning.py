"""Pretraining: tuning a CNN on the phrases of captions, and fitting one from random weights."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.optim.optimiser import make_deterministic
from lib.pretraining import phrases
from lib.pretraining.fitting import fit_backbone
from lib.pretraining.phrases import PretrainConfig, phrase_shares
from lib.pretraining.tuning import TuneConfig, random_views, tune_backbone
from lib.vision.backbones import Backbone, override, random_init

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
COMMON = {"epochs": 3, "batch_size": 5, "learning_rate": 0.003, "min_count": 2, "seed": 1}
TUNE_CONFIG = TuneConfig(**COMMON, size=None, precision="float32")


@pytest.fixture(autouse=True)
def _restore_determinism():
    yield
    torch.use_deterministic_algorithms(False)


def make_images(count: int) -> tuple[np.ndarray, list[list[list[str]]]]:
    """Return images of one colour each with noise, and captions that name the colour."""
    rng = np.random.default_rng(0)
    names = [list(COLOURS)[i % 3] for i in range(count)]
    noise = rng.integers(-20, 20, (count, 32, 32, 3))
    pixels = np.stack([np.full((32, 32, 3), COLOURS[name]) for name in names]) + noise
    return pixels.clip(0, 255).astype(np.uint8), [[["a", name, "thing"], ["it", "is", name]] for name in names]


def new_backbone() -> Backbone:
    make_deterministic(1)
    backbone = random_init("small_net")
    backbone.preprocess = override(backbone.preprocess, size=32, mean=None, std=None)
    return backbone


def tuned(tmp_path, config: TuneConfig = TUNE_CONFIG) -> dict[str, torch.Tensor]:
    backbone = new_backbone()
    tune_backbone(backbone, *make_images(24), config, tmp_path / "tune.pt")
    return backbone.network.state_dict()


def fitted(tmp_path) -> dict[str, torch.Tensor]:
    backbone = new_backbone()
    fit_backbone(backbone, *make_images(24), PretrainConfig(**COMMON), tmp_path / "fit.pt")
    return backbone.network.state_dict()


def test_phrase_shares():
    captions = [[["a", "dog", "a"], ["dogs"]], [["a", "cat"], ["a", "dog"]]]
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.5, 1.0, 0.5]])  # columns: (a, dog), a, dog
    config = PretrainConfig(**COMMON | {"min_count": 2})
    assert torch.equal(phrase_shares(captions, config), expected)
    assert phrase_shares(captions, replace(config, min_count=1)).shape == (2, 4 + 3)
    with pytest.raises(UserError, match=r"^backbone\.fit\.min_count=4:"):
        phrase_shares(captions, replace(config, min_count=4))


def test_each_image_gets_its_own_crop_and_mirroring():
    torch.manual_seed(1)
    gradient = torch.linspace(0, 1, 70).expand(64, 3, 70, 70)  # brighter to the right, the same in every image
    views = random_views(gradient, 60)
    assert views.shape == (64, 3, 60, 60)
    # The crop's width over the image's width, between the outer edges of the pixels; negative if mirrored.
    extents = (views[:, 0, 0, -1] - views[:, 0, 0, 0]) * (69 / 70) * (60 / 59)
    assert len({round(extent, 4) for extent in extents.tolist()}) > 32
    assert 0.2 < (extents < 0).float().mean() < 0.8
    assert extents.abs().max() <= 1.01
    assert extents.abs().min() >= np.sqrt(0.4 * 3 / 4) - 0.02
    torch.testing.assert_close(views[:, :, 0], views[:, :, -1])  # nothing changes from top to bottom


def test_phrases_are_learned(tmp_path, capsys):
    tuned(tmp_path, replace(TUNE_CONFIG, epochs=12, batch_size=6))
    lines = capsys.readouterr().out.splitlines()
    losses = [float(re.fullmatch(r"epoch \d+: phrase loss (.*); [\d.]+ s", line)[1]) for line in lines]
    # Four words and one pair are in half of each image's captions. Each colour is in all captions of a third of the
    # images, and each of its three pairs in half of these captions. A model that ignores the image (`blind`) predicts
    # 1/3 for each colour and 1/6 for each pair.
    half, third, sixth = (-p * np.log(p) - (1 - p) * np.log(1 - p) for p in (1 / 2, 1 / 3, 1 / 6))  # entropies
    blind, best = 5 * half + 3 * third + 9 * sixth, 5 * half + 9 / 3 * half
    assert len(losses) == 12
    assert losses[-1] < best + 0.3 * (blind - best)


@pytest.mark.parametrize("trained", [tuned, fitted])
def test_a_resumed_run_ends_in_the_same_weights(tmp_path, monkeypatch, trained):
    expected = trained(tmp_path / "uninterrupted")
    save, calls = phrases.save_checkpoint, []

    def save_then_interrupt(*arguments):
        save(*arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(phrases, "save_checkpoint", save_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed")
    resumed = trained(tmp_path / "killed")
    assert len(calls) == 3
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_batch_normalisation_keeps_its_statistics(tmp_path):
    before, after = new_backbone().network.state_dict(), tuned(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("running" in name for name in changed)


def test_a_seed_may_have_64_bits(tmp_path):
    tuned(tmp_path, replace(TUNE_CONFIG, epochs=1, seed=2**63 - 1))


def test_divergence_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^backbone\.tune\.learning_rate=1e\+30"):
        tuned(tmp_path, replace(TUNE_CONFIG, learning_rate=1e30))
