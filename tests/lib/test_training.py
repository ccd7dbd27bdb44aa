"""Training: batches lose nothing, the loss is the cross-entropy, and a small set is learned by heart."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lib.core.errors import UserError
from lib.model.decoder import CaptionBatch, Decoder, DecoderConfig
from lib.optim.optimiser import Optimiser, schedule
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.text.vocabulary import END, PAD, START, Vocabulary
from lib.training.batches import caption_set
from lib.training.cross_entropy import CrossEntropyConfig, batch_loss, mean_loss, train_decoder
from lib.training.loop import best_epoch
from lib.training.split import Split

CAPTIONS = [[["a", "red", "dog"], ["a", "dog"]], [["a", "cat"], ["the", "cat", "sleeps"]], [["birds"]]]
VOCABULARY = Vocabulary.count([tokens for image in CAPTIONS for tokens in image], 1)


def split() -> Split:
    torch.manual_seed(0)
    captions = caption_set(CAPTIONS, VOCABULARY, 20)
    return Split(torch.randn(3, 1, 8).half(), dict(enumerate(CAPTIONS)), captions)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(1, 8, len(VOCABULARY), "lstm", "scratch", "none", 32, 32, 0.0))


def recipe(epochs: int, **parts) -> CrossEntropyConfig:
    return CrossEntropyConfig(epochs=epochs, batch_size=2, learning_rate=0.01, monitor="val_cider_d", seed=1, **parts)


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    size=st.integers(1, 12),
    seed=st.none() | st.integers(0, 9),
    by_image=st.booleans(),
    bucket_by_length=st.booleans(),
)
def test_batches_hold_each_caption_once_with_its_image(counts, size, seed, by_image, bucket_by_length):
    words = [["a"] * (1 + (3 * row + i) % 7) for row, count in enumerate(counts) for i in range(count)]
    firsts = np.cumsum([0, *counts])
    images = [words[a:b] for a, b in itertools.pairwise(firsts)]
    captions = caption_set(images, VOCABULARY, 20)
    rng = None if seed is None else np.random.default_rng(seed)
    plan = captions.batches(size, rng, by_image=by_image)
    assert sorted(np.concatenate(plan)) == list(range(len(words)))
    expected = [(row, VOCABULARY.encode(tokens, 20)) for row, image in enumerate(images) for tokens in image]
    for batch in plan:
        taken = captions.take(batch, bucket_by_length=bucket_by_length)
        assert len(set(taken.images)) == len(taken.images)
        read = []
        for part in taken.parts:
            rows = taken.images[part.image_index.numpy()]
            read += [
                (row, [i for i in ids if i != PAD])
                for row, ids in zip(rows.tolist(), part.token_ids.tolist(), strict=True)
            ]
            assert (part.token_ids != PAD).any(dim=0).all()  # no longer than needed
            assert torch.equal(part.words, part.token_ids[:, 1:][part.token_ids[:, 1:] != PAD])
        assert sorted(read) == sorted(expected[i] for i in batch)
        assert bucket_by_length or read == [expected[i] for i in batch]
        assert len(taken.words) == captions.words(batch)
    parted = [set(captions.image_rows[batch].tolist()) for batch in plan]
    if by_image:
        assert sum(map(len, parted)) == len(counts)
    else:
        assert {len(batch) for batch in plan[:-1]} <= {size}


def test_bucketing_reads_captions_of_like_length_together_and_changes_no_loss():
    images = [[["a", "red", "dog", "sleeps"] * (1 + 4 * (i % 2))] for i in range(300)]
    captions = caption_set(images, VOCABULARY, 20)
    data = Split(torch.randn(300, 1, 8), dict(enumerate(images)), captions)
    model, batch = decoder(), captions.batches(256, np.random.default_rng(0))[0]
    losses, padding = [], []
    for bucket_by_length in (True, False):
        parts = captions.take(batch, bucket_by_length=bucket_by_length).parts
        padding.append(sum(int((part.token_ids == PAD).sum()) for part in parts))
        model.zero_grad()
        loss, words = batch_loss(model, data, batch, bucket_by_length=bucket_by_length)
        loss.backward()
        losses.append((loss.item(), words, torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert padding[0] < 0.2 * padding[1]
    (parted, words, gradient), (whole, expected_words, expected) = losses
    assert words == expected_words
    assert parted == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_the_validation_loss_is_the_mean_cross_entropy_of_a_word():
    model, data = decoder().eval(), split()
    total, words = 0.0, 0
    for row, image in enumerate(CAPTIONS):
        for tokens in image:
            ids = VOCABULARY.encode(tokens, 20)
            state = model.init_state(data.features[row : row + 1])
            for current, following in itertools.pairwise(ids):
                h, state = model.unroll(torch.tensor([[current]]), state)
                total += nn.functional.cross_entropy(model.output(h[:, 0]), torch.tensor([following])).item()
                words += 1
    assert mean_loss(model, data, 2) == pytest.approx(total / words, rel=1e-5)


def test_a_small_set_is_learned_and_the_best_epoch_kept():
    data, model = split(), decoder()
    curve = train_decoder(model, VOCABULARY, data, data, recipe(40), 20)
    assert len(curve) == 40
    assert curve[-1]["train_loss"] < 0.5 < curve[0]["train_loss"]
    assert not model.training
    best = best_epoch(curve, "val_cider_d")
    assert mean_loss(model, data, 2) == pytest.approx(best["val_loss"], rel=1e-5)


def test_the_same_seed_gives_the_same_weights():
    def trained() -> dict[str, torch.Tensor]:
        model = decoder()
        train_decoder(model, VOCABULARY, split(), split(), recipe(2), 20)
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_running_mean_of_the_weights_is_what_is_kept():
    model, plain = decoder(), decoder()
    train_decoder(model, VOCABULARY, split(), split(), recipe(1, ema_decay=0.9), 20)
    seen = []

    class Watched(Optimiser):
        def step(self, loss):
            super().step(loss)
            seen.append({name: parameter.detach().clone() for name, parameter in plain.named_parameters()})

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("lib.training.loop.Optimiser", Watched)
        train_decoder(plain, VOCABULARY, split(), split(), recipe(1), 20)
    for name, parameter in model.named_parameters():
        mean = seen[0][name]
        for count, weights in enumerate(seen[1:], 1):
            decay = min(0.9, (1 + count) / (10 + count))
            mean = decay * mean + (1 - decay) * weights[name]
        assert torch.allclose(parameter, mean, atol=1e-6)


def test_it_stops_when_nothing_gets_better():
    curve = train_decoder(decoder(), VOCABULARY, split(), split(), recipe(30, patience=2, decay="none"), 20)
    best = best_epoch(curve, "val_cider_d")["epoch"]
    assert len(curve) == best + 2 < 30


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_training_that_diverges_is_told(ema_decay):
    beyond = replace(recipe(3, ema_decay=ema_decay), learning_rate=1e38)
    with pytest.raises(UserError, match="no numbers in epoch 1: lower the learning rate"):
        train_decoder(decoder(), VOCABULARY, split(), split(), beyond, 20)


def test_bfloat16_learns_too():
    curve = train_decoder(decoder(), VOCABULARY, split(), split(), recipe(30, precision="bfloat16"), 20)
    assert curve[-1]["train_loss"] < 0.6


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_long_gradients_are_clipped(clip):
    weight = nn.Parameter(torch.zeros(2))
    optimiser = Optimiser([weight], 0.1, 10, 0.0, max_grad_norm=clip)
    optimiser.step((weight * torch.tensor([3.0, 4.0])).sum())
    assert weight.grad.norm().item() == pytest.approx(clip or 5.0)


def test_the_best_epoch_is_the_first_of_the_best():
    names = ("epoch", "val_loss", "val_bleu_4", "val_cider_d")
    curve = [dict(zip(names, row, strict=True)) for row in ((1, 2.0, 0.1, 0.5), (2, 1.0, 0.3, 0.4), (3, 1.0, 0.3, 0.5))]
    assert [best_epoch(curve, by)["epoch"] for by in names[1:]] == [2, 2, 1]


def test_the_learning_rate_warms_up_and_decays_to_nothing():
    rates = [schedule(step, 40) for step in range(40)]
    assert rates[0] == 0.5
    assert rates[1] == rates[2] == 1
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert schedule(0, 1) == 1
    assert [schedule(step, 40, 0.1, decay=False) for step in range(40)] == [0.25, 0.5, 0.75] + [1] * 37


def test_padding_and_the_start_are_never_asked_for():
    ids = torch.tensor([[START, 4, END, PAD], [START, 5, 6, END]])
    captions = CaptionBatch.of_lengths(torch.tensor([0, 1]), ids, torch.tensor([3, 4]), 5)
    assert captions.words.tolist() == [4, END, 5, 6, END]
    scores = decoder()(torch.randn(2, 1, 8), captions)
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
    written = [
        [best.token_ids for best, *_ in beam_search(decoder, data.features, 3, 10, 0.7, DecodingConstraints().apply)]
        for decoder in (model, twin)
    ]
    assert written[0] == written[1]
    assert any(written[0])
