"""Training: batches lose nothing, the loss is the cross-entropy, and a small set is learned by heart."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lib.captioner.beam import beam_search
from lib.captioner.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import END, PAD, START, Vocabulary
from lib.training.batches import caption_set
from lib.training.decoder import Epoch, Recipe, Split, best_epoch, mean_loss, train_decoder
from lib.training.optimisation import schedule

CAPTIONS = [[["a", "red", "dog"], ["a", "dog"]], [["a", "cat"], ["the", "cat", "sleeps"]], [["birds"]]]
VOCABULARY = Vocabulary.count([tokens for image in CAPTIONS for tokens in image], 1)


def split() -> Split:
    torch.manual_seed(0)
    captions = caption_set(CAPTIONS, VOCABULARY, 20)
    return Split(torch.randn(3, 1, 8).half(), dict(enumerate(CAPTIONS)), captions)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(1, 8, len(VOCABULARY), "lstm", "scratch", "none", 32, 32, 0.0))


def recipe(epochs: int) -> Recipe:
    return Recipe(epochs, 2, 0.01, 0.0, 0.0, "val_cider_d", 1)


@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_each_caption_once_with_its_image(seed):
    captions = split().captions
    rng = None if seed is None else np.random.default_rng(seed)
    seen = []
    for rows, padded in captions.batches(2, rng):
        for row, ids in zip(rows.tolist(), padded.tolist(), strict=True):
            seen.append((row, tuple(i for i in ids if i != PAD)))
    expected = [(row, tuple(VOCABULARY.encode(t, 20))) for row, image in enumerate(CAPTIONS) for t in image]
    assert sorted(seen) == sorted(expected)


def test_the_validation_loss_is_the_mean_cross_entropy_of_a_word():
    model, data = decoder().eval(), split()
    total, words = 0.0, 0
    for row, image in enumerate(CAPTIONS):
        for tokens in image:
            ids = VOCABULARY.encode(tokens, 20)
            state = model.start(data.features[row : row + 1])
            for current, following in itertools.pairwise(ids):
                h, state = model.run(torch.tensor([[current]]), state)
                total += nn.functional.cross_entropy(model.output(h[:, 0]), torch.tensor([following])).item()
                words += 1
    assert mean_loss(model, data.features, data.captions, 2) == pytest.approx(total / words, rel=1e-5)


def test_a_small_set_is_learned_and_the_best_epoch_kept():
    data, model = split(), decoder()
    curve = train_decoder(model, VOCABULARY, data, data, recipe(40), 20)
    assert len(curve) == 40
    assert curve[-1].train_loss < 0.5 < curve[0].train_loss
    assert not model.training
    best = best_epoch(curve, "val_cider_d")
    assert mean_loss(model, data.features, data.captions, 2) == pytest.approx(best.val_loss, rel=1e-5)


def test_the_same_seed_gives_the_same_weights():
    def trained() -> dict[str, torch.Tensor]:
        model = decoder()
        train_decoder(model, VOCABULARY, split(), split(), recipe(2), 20)
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_epoch_is_the_first_of_the_best():
    curve = [Epoch(1, 3, 2.0, 0.1, 0.5), Epoch(2, 2, 1.0, 0.3, 0.4), Epoch(3, 1, 1.0, 0.3, 0.5)]
    assert [best_epoch(curve, by).epoch for by in ("val_loss", "val_bleu_4", "val_cider_d")] == [2, 2, 1]


def test_the_learning_rate_warms_up_and_decays_to_nothing():
    rates = [schedule(step, 40) for step in range(40)]
    assert rates[0] == 0.5
    assert rates[1] == rates[2] == 1
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert schedule(0, 1) == 1


def test_padding_and_the_start_are_never_asked_for():
    captions = torch.tensor([[START, 4, END, PAD], [START, 5, 6, END]])
    scores = decoder()(torch.randn(2, 1, 8), torch.tensor([0, 1]), captions)
    assert scores.shape == (5, len(VOCABULARY))


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize(("trained", "other"), [("scratch", "torch"), ("torch", "scratch")])
@pytest.mark.parametrize("attention", ["none", "additive"])
def test_a_model_that_one_implementation_trained_writes_the_same_captions_with_the_other(
    cell, trained, other, attention
):
    torch.manual_seed(0)
    data = split()
    config = DecoderConfig(1, 8, len(VOCABULARY), cell, trained, attention, 16, 16, 0.0)
    model = Decoder(config)
    train_decoder(model, VOCABULARY, data, data, recipe(10), 20)
    twin = Decoder(replace(config, implementation=other))
    twin.load_state_dict(model.state_dict())
    twin.eval()
    written = [beam_search(decoder, data.features, 3, 10, 0.7) for decoder in (model, twin)]
    assert written[0] == written[1]
    assert any(written[0])
