"""Tuning a CNN on the words of captions."""

import numpy as np
import pytest
import torch

from lib.training import tuning
from lib.training.optimisation import make_deterministic
from lib.training.tuning import Recipe, tune_backbone, word_shares
from lib.vision.backbones import Backbone, override, untrained

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}
RECIPE = Recipe(epochs=3, batch_size=5, learning_rate=0.003, min_count=2, seed=1)


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
    backbone = untrained("small_net")
    backbone.preprocess = override(backbone.preprocess, size=32, mean=None, std=None)
    return backbone


def tuned(tmp_path, recipe: Recipe = RECIPE) -> dict[str, torch.Tensor]:
    backbone = begun()
    tune_backbone(backbone, *pictures(24), recipe, tmp_path / "checkpoint.safetensors")
    return backbone.network.state_dict()


def test_the_share_of_the_captions_that_hold_a_word():
    captions = [[["a", "dog", "a"], ["dogs"]], [["a", "cat"], ["a", "dog"]]]
    a_and_dog = torch.tensor([[0.5, 0.5], [1.0, 0.5]])
    assert torch.equal(word_shares(captions, min_count=2), a_and_dog)
    assert word_shares(captions, min_count=1).shape == (2, 4)


def test_the_words_are_learned(tmp_path, capsys):
    tuned(tmp_path, Recipe(epochs=12, batch_size=6, learning_rate=0.003, min_count=2, seed=1))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    # The answer that does not look: a, thing, it and is in half of the captions, each colour in a third of them.
    blind = 4 * np.log(2) - 3 * (np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    best = 4 * np.log(2)
    assert len(losses) == 12
    assert losses[-1] < best + 0.3 * (blind - best)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = tuned(tmp_path / "whole")
    save, calls = tuning.save_checkpoint, []

    def killed(*arguments):
        save(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "killed")
    resumed = tuned(tmp_path / "killed")
    assert len(calls) == 3
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_statistics_of_batch_normalisation_stay(tmp_path):
    before, after = begun().network.state_dict(), tuned(tmp_path)
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not all(torch.equal(before[name], after[name]) for name in before)
