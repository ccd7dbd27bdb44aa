"""Tuning a CNN on the words of captions, and fitting one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.optim.optimiser import make_deterministic
from lib.pretraining import epochs, fitting
from lib.pretraining.fitting import fit_backbone
from lib.pretraining.phrases import phrase_shares
from lib.pretraining.tuning import TuneConfig, random_views, tune_backbone
from lib.vision.backbones import Backbone, override, random_init

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
RECIPE = TuneConfig(epochs=3, batch_size=5, size=None, learning_rate=0.003, min_count=2, precision="float32", seed=1)
FIT_RECIPE = fitting.PretrainConfig(epochs=3, batch_size=5, learning_rate=0.003, min_count=2, seed=1)


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)


def pictures(count: int) -> tuple[np.ndarray, list[list[list[str]]]]:
    """Plain pictures, and captions that name their colour."""
    rng = np.random.default_rng(0)
    names = [list(COLOURS)[i % 3] for i in range(count)]
    noise = rng.integers(-20, 20, (count, 32, 32, 3))
    pixels = np.stack([np.full((32, 32, 3), COLOURS[name]) for name in names]) + noise
    return pixels.clip(0, 255).astype(np.uint8), [[["a", name, "thing"], ["it", "is", name]] for name in names]


def begun() -> Backbone:
    make_deterministic(1)
    backbone = random_init("small_net")
    backbone.preprocess = override(backbone.preprocess, size=32, mean=None, std=None)
    return backbone


def tuned(tmp_path, recipe: TuneConfig = RECIPE) -> dict[str, torch.Tensor]:
    backbone = begun()
    tune_backbone(backbone, *pictures(24), recipe, tmp_path / "checkpoint.safetensors")
    return backbone.network.state_dict()


def fitted(tmp_path) -> dict[str, torch.Tensor]:
    backbone = begun()
    fit_backbone(backbone, *pictures(24), FIT_RECIPE, tmp_path / "checkpoint.safetensors")
    return backbone.network.state_dict()


def test_the_share_of_the_captions_that_hold_a_phrase():
    captions = [[["a", "dog", "a"], ["dogs"]], [["a", "cat"], ["a", "dog"]]]
    pair_a_dog = torch.tensor([[0.5, 0.5, 0.5], [0.5, 1.0, 0.5]])  # the pair (a, dog), and the words
    assert torch.equal(phrase_shares(captions, min_count=2), pair_a_dog)
    assert phrase_shares(captions, min_count=1).shape == (2, 4 + 3)
    with pytest.raises(UserError, match=r"^no word is in as many captions .* asks for, 4: lower it$"):
        phrase_shares(captions, min_count=4)


def test_each_picture_is_cropped_and_mirrored_by_itself():
    torch.manual_seed(1)
    across = torch.linspace(0, 1, 70).expand(64, 3, 70, 70)  # brighter to the right, the same in every picture
    views = random_views(across, 60)
    assert views.shape == (64, 3, 60, 60)
    # Of the whole width, from edge to edge of the outermost pixels; below 0 where it is mirrored.
    extents = (views[:, 0, 0, -1] - views[:, 0, 0, 0]) * (69 / 70) * (60 / 59)
    assert len({round(extent, 4) for extent in extents.tolist()}) > 32
    assert 0.2 < (extents < 0).float().mean() < 0.8
    assert extents.abs().max() <= 1.01
    assert extents.abs().min() >= np.sqrt(0.4 * 3 / 4) - 0.02
    torch.testing.assert_close(views[:, :, 0], views[:, :, -1])  # nothing changes from top to bottom


def test_the_words_are_learned(tmp_path, capsys):
    tuned(tmp_path, replace(RECIPE, epochs=12, batch_size=6))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]

    def entropy(p: float) -> float:
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    # Four words and a pair are in half of every picture's captions; a colour in all of a third of the pictures', and
    # each of its three pairs in half of those. To answer without a look is to give a colour a third.
    blind = 5 * entropy(1 / 2) + 3 * entropy(1 / 3) + 9 * entropy(1 / 6)
    best = 5 * entropy(1 / 2) + 9 / 3 * entropy(1 / 2)
    assert len(losses) == 12
    assert losses[-1] < best + 0.3 * (blind - best)


@pytest.mark.parametrize("trained", [tuned, fitted])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, trained):
    whole = trained(tmp_path / "whole")
    save, calls = epochs.save_checkpoint, []

    def killed(*arguments):
        save(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(epochs, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed")
    resumed = trained(tmp_path / "killed")
    assert len(calls) == 3
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_statistics_of_batch_normalisation_stay(tmp_path):
    before, after = begun().network.state_dict(), tuned(tmp_path)
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_a_seed_may_be_of_any_size(tmp_path):
    tuned(tmp_path, replace(RECIPE, epochs=1, seed=2**63 - 1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 1e30}, "no numbers in epoch"),
    ],
)
def test_what_cannot_be_tuned_is_told(change, told, tmp_path):
    with pytest.raises(UserError, match=told):
        tuned(tmp_path, replace(RECIPE, **change))
