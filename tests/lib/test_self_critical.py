"""Self-critical training: its gradient is the expected reward's, known exactly where all captions can be listed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.finetuning.reward import CiderReward
from lib.finetuning.self_critical import (
    SelfCritical,
    SelfCriticalConfig,
    finetune_decoder,
    leave_one_out,
    log_probabilities,
)
from lib.model.decoder import Decoder, DecoderConfig
from lib.model.decoding import Hypothesis
from lib.scoring.cider import CiderD
from lib.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from lib.training.batches import caption_set
from lib.training.split import Split

VOCABULARY = Vocabulary(["a", "dog", "cat"])
CAPTIONS = [[["a", "dog"], ["dog"]], [["a", "cat"]], [["cat", "dog"], ["a", "a"]]]
LONGEST = 2
RECIPE = SelfCriticalConfig(
    epochs=1, batch_size=1, learning_rate=0.01, monitor="val_cider_d", seed=1, samples=3000, baseline="mean"
)  # fmt: skip


def decoder(attention: str = "none", cell: str = "lstm") -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(2, 5, len(VOCABULARY), cell, "scratch", attention, 6, 7, 0.3)).double().eval()


def split() -> Split:
    torch.manual_seed(1)
    captions = caption_set(CAPTIONS, VOCABULARY, LONGEST)
    return Split(torch.randn(len(CAPTIONS), 2, 5).double(), dict(enumerate(CAPTIONS)), captions)


def all_captions() -> list[list[int]]:
    """Every caption of at most LONGEST words, without <start>; only the longest need not end."""
    words = range(4, len(VOCABULARY))
    ended = [[*body, END] for n in range(LONGEST) for body in itertools.product(words, repeat=n)]
    return ended + [list(body) for body in itertools.product(words, repeat=LONGEST)]


def as_captions(ids: list[list[int]]) -> list[Hypothesis]:
    return [Hypothesis(one, 0.0, torch.empty(0)) for one in ids]


@pytest.mark.parametrize("attention", ["none", "additive"])
def test_the_probabilities_of_all_captions_sum_to_one(attention):
    every = all_captions()
    rows = torch.zeros(len(every), dtype=torch.long)
    log_p = log_probabilities(decoder(attention), split().features[:1], rows, every)
    assert log_p.exp().sum().item() == pytest.approx(1)


def test_a_captions_log_probability_is_the_sum_of_its_words():
    model, features, every = decoder(), split().features, all_captions()
    rows = torch.arange(len(every)) % len(features)
    found = log_probabilities(model, features, rows, every)
    for row, ids, log_p in zip(rows, every, found.tolist(), strict=True):
        state, expected = model.init_state(features[row : row + 1]), 0.0
        for current, following in itertools.pairwise([START, *ids]):
            step, state = model.step(torch.tensor([current]), state)
            expected += (step[0, following] - step[0].logsumexp(0)).item()
        assert log_p == pytest.approx(expected)


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_the_gradient_is_that_of_the_expected_reward(baseline, cell):
    model, data = decoder(cell=cell), split()
    reward = CiderReward(CAPTIONS, VOCABULARY)
    objective = SelfCritical(
        model, VOCABULARY, data, data, reward, replace(RECIPE, baseline=baseline), LONGEST
    )  # fmt: skip
    every = all_captions()
    image = 2
    p = log_probabilities(model, data.features[[image]], torch.zeros(len(every), dtype=torch.long), every).exp()
    expected_reward = (p * reward([image] * len(every), as_captions(every))).sum()
    exact = torch.autograd.grad(-expected_reward, list(model.parameters()))

    batches = [objective.loss((np.array([image]), seed)) for seed in range(12)]
    drawn = [torch.autograd.grad(loss, list(model.parameters())) for loss, _, _ in batches]
    assert np.mean([rewards.item() for _, rewards, _ in batches]) == pytest.approx(expected_reward.item(), rel=0.05)
    for parts in zip(exact, *drawn, strict=True):
        known, estimates = parts[0], torch.stack(parts[1:])
        error = estimates.std(dim=0).norm() / len(batches) ** 0.5  # of the mean, all its elements together
        assert (estimates.mean(dim=0) - known).norm() < 2 * error
        assert error < 0.2 * known.norm()


def test_the_baseline_of_a_sample_is_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert leave_one_out(rewards).tolist() == [[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]]


def test_the_reward_is_cider_d_with_the_end_as_a_word():
    ids = [[4, 5, END], [4, 6, END], [4, 6], [END]]
    rows = [0, 1, 1, 2]
    tokens = [["a", "dog", "."], ["a", "cat", "."], ["a", "cat"], ["."]]
    ended = [[[*caption, "."] for caption in image] for image in CAPTIONS]
    found = CiderReward(CAPTIONS, VOCABULARY)(rows, as_captions(ids))
    for i, row in enumerate(rows):
        hypotheses = [["x"]] * len(CAPTIONS)
        hypotheses[row] = tokens[i]
        assert found[i].item() == pytest.approx(CiderD(ended).scores(range(len(ended)), hypotheses)[row], rel=1e-6)
    assert found[1] > found[2]


def test_what_may_not_be_written_stays_as_it_is():
    model, data = decoder(), split()
    objective = SelfCritical(model, VOCABULARY, data, data, CiderReward(CAPTIONS, VOCABULARY), RECIPE, LONGEST)
    objective.loss((np.array([0]), 1))[0].backward()
    assert model.output.bias.grad[[PAD, START, UNKNOWN]].tolist() == [0, 0, 0]
    assert model.output.bias.grad.abs().sum() > 0


def test_samples_are_drawn_without_dropout_and_with_a_backward_pass_for_torchs_cells_on_a_gpu():
    model, data = decoder().train(), split()
    objective = SelfCritical(model, VOCABULARY, data, data, CiderReward(CAPTIONS, VOCABULARY), RECIPE, LONGEST)
    objective.loss((np.array([0]), 1))
    assert not model.dropout.training
    assert model.cell.training  # cuDNN has one in training mode alone


def test_training_that_diverges_is_told():
    model, data = decoder().float(), split()
    data = replace(data, features=data.features.float())
    beyond = replace(RECIPE, epochs=3, learning_rate=1e38, samples=20)
    with pytest.raises(UserError, match="no numbers in epoch 1: lower the learning rate"):
        finetune_decoder(model, VOCABULARY, data, data, beyond, LONGEST)


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
def test_the_reward_rises_and_the_best_epoch_is_kept(baseline):
    model, data = decoder().float(), split()
    data = replace(data, features=data.features.float())
    recipe = replace(RECIPE, epochs=15, learning_rate=0.03, batch_size=2, samples=20, baseline=baseline)
    curve = finetune_decoder(model, VOCABULARY, data, data, recipe, LONGEST)
    assert [row["epoch"] for row in curve] == list(range(16))
    assert np.isnan(curve[0]["reward"])
    assert curve[-1]["reward"] > 1.5 * curve[1]["reward"]
    assert curve[-1]["val_cider_d"] > curve[0]["val_cider_d"]


def test_without_epochs_the_decoder_stays_as_it_came():
    model, data = decoder().float(), split()
    data = replace(data, features=data.features.float())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (row,) = finetune_decoder(model, VOCABULARY, data, data, replace(RECIPE, epochs=0), LONGEST)
    assert row["epoch"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
