"""Training: batches are complete, the loss is the cross-entropy, and the decoder learns a small set."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lib.core.errors import UserError
from lib.model.decoder import Decoder, DecoderConfig
from lib.optim.optimiser import Optimiser, schedule
from lib.text.vocabulary import PAD, Vocabulary
from lib.training.batches import caption_set
from lib.training.cross_entropy import CrossEntropy, CrossEntropyConfig, batch_loss, mean_loss
from lib.training.data import Split
from lib.training.loop import EpochMetrics, best_epoch, explain_ties, train_decoder

CAPTIONS = [[["a", "red", "dog"], ["a", "dog"]], [["a", "cat"], ["the", "cat", "sleeps"]], [["birds"]]]
VOCABULARY = Vocabulary.count([tokens for image in CAPTIONS for tokens in image], 1)


def split() -> Split:
    torch.manual_seed(0)
    captions = caption_set(CAPTIONS, VOCABULARY, 20)
    return Split(torch.randn(3, 1, 8).half(), dict(enumerate(CAPTIONS)), captions)


def decoder(cell: str = "lstm") -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(1, 8, len(VOCABULARY), cell, "scratch", "none", 32, 32, 0.0))


def config(epochs: int, **changes) -> CrossEntropyConfig:
    return CrossEntropyConfig(epochs=epochs, batch_size=2, learning_rate=0.01, monitor="val_cider_d", seed=1, **changes)


def train(model: Decoder, train_config: CrossEntropyConfig) -> list[EpochMetrics]:
    return train_decoder(CrossEntropy(model, VOCABULARY, split(), split(), train_config, 20))


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    size=st.integers(1, 12),
    seed=st.none() | st.integers(0, 9),
    by_image=st.booleans(),
    bucket_by_length=st.booleans(),
)
def test_batches_contain_each_caption_once_with_its_image(counts, size, seed, by_image, bucket_by_length):
    images = [[["a"] * (1 + (3 * row + i) % 7) for i in range(count)] for row, count in enumerate(counts)]
    captions = caption_set(images, VOCABULARY, 20)
    rng = None if seed is None else np.random.default_rng(seed)
    batches = captions.batches(size, rng, by_image=by_image)
    assert sorted(np.concatenate(batches)) == list(range(sum(counts)))
    expected = [(row, VOCABULARY.encode(tokens, 20)) for row, image in enumerate(images) for tokens in image]
    for indices in batches:
        batch = captions.take(indices, bucket_by_length=bucket_by_length)
        assert len(set(batch.images)) == len(batch.images)
        content = []
        for part in batch.parts:
            rows = batch.images[part.image_index.numpy()].tolist()
            ids_without_padding = [[i for i in ids if i != PAD] for ids in part.token_ids.tolist()]
            content += zip(rows, ids_without_padding, strict=True)
            assert (part.token_ids != PAD).any(dim=0).all()  # no more padding than needed
            assert torch.equal(part.words, part.token_ids[:, 1:][part.token_ids[:, 1:] != PAD])
        assert sorted(content) == sorted(expected[i] for i in indices)
        assert bucket_by_length or content == [expected[i] for i in indices]
        assert len(batch.targets) == captions.num_tokens(indices)
    if by_image:
        assert sum(len(set(captions.image_index[indices])) for indices in batches) == len(counts)
    else:
        assert {len(indices) for indices in batches[:-1]} <= {size}


def test_bucketing_saves_padding_and_does_not_change_the_loss():
    images = [[["a", "red", "dog", "sleeps"] * (1 + 4 * (i % 2))] for i in range(300)]
    captions = caption_set(images, VOCABULARY, 20)
    data = Split(torch.randn(300, 1, 8), dict(enumerate(images)), captions)
    model, batch = decoder(), captions.batches(256, np.random.default_rng(0))[0]
    losses, padding = [], []
    for bucket_by_length in (True, False):
        parts = captions.take(batch, bucket_by_length=bucket_by_length).parts
        padding.append(sum(int((part.token_ids == PAD).sum()) for part in parts))
        model.zero_grad()
        loss, num_tokens = batch_loss(model, data, batch, bucket_by_length=bucket_by_length)
        loss.backward()
        losses.append((loss.item(), num_tokens, torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert padding[0] < 0.2 * padding[1]
    (loss, num_tokens, gradient), (expected_loss, expected_tokens, expected) = losses
    assert num_tokens == expected_tokens
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_the_validation_loss_is_the_mean_cross_entropy_per_token():
    model, data = decoder().eval(), split()
    total, num_tokens = 0.0, 0
    for row, image in enumerate(CAPTIONS):
        for tokens in image:
            ids = VOCABULARY.encode(tokens, 20)
            state = model.init_state(data.features[row : row + 1])
            for current, following in itertools.pairwise(ids):
                h, state = model.unroll(torch.tensor([[current]]), state)
                total += nn.functional.cross_entropy(model.output(h[:, 0]), torch.tensor([following])).item()
                num_tokens += 1
    assert mean_loss(model, data, 2) == pytest.approx(total / num_tokens, rel=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "transformer"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_small_set_is_learned_and_the_best_epoch_is_kept(precision, cell):
    model = decoder(cell)
    curve = train(model, config(40, precision=precision))
    assert len(curve) == 40
    assert curve[-1]["train_loss"] < 0.5 < curve[0]["train_loss"]
    assert not model.training
    best = best_epoch(curve, "val_cider_d")
    assert mean_loss(model, split(), 2) == pytest.approx(best["val_loss"], rel=1e-5)


def test_the_ema_of_the_weights_is_kept(monkeypatch):
    model, plain, history = decoder(), decoder(), []
    train(model, config(1, ema_decay=0.9))

    class Recording(Optimiser):
        def step(self, loss):
            super().step(loss)
            history.append({name: parameter.detach().clone() for name, parameter in plain.named_parameters()})

    monkeypatch.setattr("lib.training.loop.Optimiser", Recording)
    train(plain, config(1))
    for name, parameter in model.named_parameters():
        mean = history[0][name]
        for count, weights in enumerate(history[1:], 1):
            decay = min(0.9, (1 + count) / (10 + count))
            mean = decay * mean + (1 - decay) * weights[name]
        assert torch.allclose(parameter, mean, atol=1e-6)


def test_training_stops_early_without_a_better_epoch():
    curve = train(decoder(), config(30, patience=2, decay="none"))
    assert len(curve) == best_epoch(curve, "val_cider_d")["epoch"] + 2 < 30


def test_divergence_is_an_error():
    with pytest.raises(UserError, match=r"^train\.learning_rate=1e\+38: .* epoch 1;"):
        train(decoder(), replace(config(3, ema_decay=0.9), learning_rate=1e38))


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e-3])
def test_gradients_are_clipped(max_grad_norm):
    weight = nn.Parameter(torch.zeros(2))
    optimiser = Optimiser([weight], 0.1, 10, 0.0, max_grad_norm=max_grad_norm)
    optimiser.step((weight * torch.tensor([3.0, 4.0])).sum())
    assert weight.grad.norm().item() == pytest.approx(max_grad_norm or 5.0)


@pytest.mark.parametrize(("monitor", "values"), [("val_loss", [2.0, 1.0, 1.0]), ("val_bleu_4", [0.1, 0.3, 0.3])])
def test_the_best_epoch_is_the_first_of_equals(monitor, values):
    assert best_epoch([{"epoch": i, monitor: value} for i, value in enumerate(values)], monitor)["epoch"] == 1


TIED: dict[str, list[float]] = {"val_cider_d": [0, 0, 0, 0], "val_bleu_4": [0, 0.2, 0, 0.2]}


@pytest.mark.parametrize(
    ("metrics", "best", "reason"),
    [
        (TIED | {"val_loss": [3, 2, 1, 2]}, 3, "val_loss"),
        (TIED, 2, "val_bleu_4"),
        (TIED | {"val_bleu_4": [0, 0, 0, 0]}, 1, "first"),
        ({"val_cider_d": [0, 0.1, 0.2, 0.2], "val_loss": [1, 1, 3, 2]}, 4, "val_loss"),
    ],
)
def test_tied_epochs_are_decided_by_loss_and_then_by_scores_and_a_line_says_so(metrics, best, reason):
    curve = [{"epoch": i + 1} | {name: values[i] for name, values in metrics.items()} for i in range(4)]
    assert best_epoch(curve, "val_cider_d")["epoch"] == best
    line = explain_ties(curve, config(2), 1)
    assert [text for text in ("monitor=val_cider_d", f"epoch {best}", reason, "single image") if text not in line] == []


def test_without_a_tie_there_is_no_line():
    curve = [{"epoch": 1, "val_cider_d": 1.0}, {"epoch": 2, "val_cider_d": 2.0}]
    assert explain_ties(curve, config(2), 9) is None


def test_one_val_image_keeps_the_epoch_with_the_lowest_loss(capsys):
    captions = caption_set(CAPTIONS[:1], VOCABULARY, 20)
    val = Split(split().features[:1], {0: CAPTIONS[0]}, captions)
    model = decoder()
    curve = train_decoder(CrossEntropy(model, VOCABULARY, split(), val, config(30), 20))
    assert {row["val_cider_d"] for row in curve} == {0.0}
    best = min(curve, key=lambda row: row["val_loss"])
    assert best_epoch(curve, "val_cider_d") == best
    assert best["epoch"] > 1
    assert mean_loss(model, val, 2) == pytest.approx(best["val_loss"], rel=1e-5)
    assert capsys.readouterr().out.count("monitor=val_cider_d") == 1


def test_the_learning_rate_warms_up_and_decays_to_zero():
    rates = [schedule(step, 40) for step in range(40)]
    assert rates[:3] == [0.5, 1, 1]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert schedule(0, 1) == 1
    assert [schedule(step, 40, 0.1, decay=False) for step in range(40)] == [0.25, 0.5, 0.75] + [1] * 37
