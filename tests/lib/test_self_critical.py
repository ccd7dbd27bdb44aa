"""Self-critical training: its gradient equals that of the expected reward, computed exactly over all captions."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.errors import UserError
from lib.finetuning.reward import CiderReward
from lib.finetuning.self_critical import SelfCritical, SelfCriticalConfig, caption_log_probs, leave_one_out
from lib.model.decoder import Decoder, DecoderConfig
from lib.model.decoding import Hypothesis
from lib.scoring.cider import CiderD
from lib.text.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from lib.training.batches import caption_set
from lib.training.data import Split
from lib.training.loop import train_decoder

VOCABULARY = Vocabulary(["a", "dog", "cat"])
CAPTIONS = [[["a", "dog"], ["dog"]], [["a", "cat"]], [["cat", "dog"], ["a", "a"]]]
MAX_LENGTH = 2
CONFIG = SelfCriticalConfig(
    epochs=1, batch_size=1, learning_rate=0.01, monitor="val_cider_d", seed=1, samples=3000, baseline="mean"
)  # fmt: skip


def decoder(attention: str = "none", cell: str = "lstm") -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(2, 5, len(VOCABULARY), cell, "scratch", attention, 6, 7, 0.3)).double().eval()


def split() -> Split:
    torch.manual_seed(1)
    captions = caption_set(CAPTIONS, VOCABULARY, MAX_LENGTH)
    return Split(torch.randn(len(CAPTIONS), 2, 5).double(), dict(enumerate(CAPTIONS)), captions)


def objective(cell: str = "lstm", dtype: torch.dtype = torch.float64, **changes) -> SelfCritical:
    data = replace(split(), features=split().features.to(dtype))
    return SelfCritical(decoder("none", cell).to(dtype), VOCABULARY, data, data, replace(CONFIG, **changes), MAX_LENGTH)


def all_captions() -> list[list[int]]:
    """Return every caption of at most MAX_LENGTH tokens, without <start>; the longest may lack <end>."""
    words = range(4, len(VOCABULARY))
    ended = [[*body, END] for n in range(MAX_LENGTH) for body in itertools.product(words, repeat=n)]
    return ended + [list(body) for body in itertools.product(words, repeat=MAX_LENGTH)]


def hypotheses(captions: list[list[int]]) -> list[Hypothesis]:
    return [Hypothesis(token_ids, 0.0, torch.empty(0)) for token_ids in captions]


@pytest.mark.parametrize("attention", ["none", "additive"])
def test_the_log_probability_of_a_caption_is_the_sum_over_its_tokens(attention):
    model, features, captions = decoder(attention), split().features, all_captions()
    image_index = torch.arange(len(captions)) % len(features)
    log_probs = caption_log_probs(model, features, image_index, captions)
    for row, ids, log_prob in zip(image_index, captions, log_probs.tolist(), strict=True):
        state, expected = model.init_state(features[row : row + 1]), 0.0
        for current, following in itertools.pairwise([START, *ids]):
            step, state = model.step(torch.tensor([current]), state)
            expected += (step[0, following] - step[0].logsumexp(0)).item()
        assert log_prob == pytest.approx(expected)


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
@pytest.mark.parametrize("cell", ["lstm", "rnn", "transformer"])
def test_the_gradient_is_that_of_the_expected_reward(baseline, cell):
    trained, captions, image = objective(cell, baseline=baseline), all_captions(), 2
    parameters, image_index = list(trained.decoder.parameters()), torch.zeros(len(captions), dtype=torch.long)
    p = caption_log_probs(trained.decoder, trained.train.features[[image]], image_index, captions).exp()
    expected_reward = (p * trained.reward([image] * len(captions), hypotheses(captions))).sum()
    exact = torch.autograd.grad(-expected_reward, parameters)

    batches = [trained.loss((np.array([image]), seed)) for seed in range(12)]
    drawn = [torch.autograd.grad(loss, parameters) for loss, _, _ in batches]
    assert np.mean([rewards.item() for _, rewards, _ in batches]) == pytest.approx(expected_reward.item(), rel=0.05)
    for parts in zip(exact, *drawn, strict=True):
        expected, estimates = parts[0], torch.stack(parts[1:])
        error = estimates.std(dim=0).norm() / len(batches) ** 0.5  # standard error of the mean, over all elements
        assert (estimates.mean(dim=0) - expected).norm() < 2 * error
        assert error < 0.2 * expected.norm()


def test_leave_one_out_is_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert leave_one_out(rewards).tolist() == [[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]]


def test_the_reward_is_cider_d_with_the_end_as_a_token():
    ids = [[4, 5, END], [4, 6, END], [4, 6], [END]]
    rows = [0, 1, 1, 2]
    tokens = [["a", "dog", "."], ["a", "cat", "."], ["a", "cat"], ["."]]
    ended = [[[*caption, "."] for caption in image] for image in CAPTIONS]
    rewards = CiderReward(CAPTIONS, VOCABULARY)(rows, hypotheses(ids))
    for i, row in enumerate(rows):
        candidates = [["x"]] * len(CAPTIONS)
        candidates[row] = tokens[i]
        assert rewards[i].item() == pytest.approx(CiderD(ended).scores(range(len(ended)), candidates)[row], rel=1e-6)
    assert rewards[1] > rewards[2]


def test_suppressed_tokens_get_no_gradient():
    trained = objective()
    trained.loss((np.array([0]), 1))[0].backward()
    gradient = trained.decoder.output.bias.grad
    assert gradient[[PAD, START, UNKNOWN]].tolist() == [0, 0, 0]
    assert gradient.abs().sum() > 0


def test_samples_are_drawn_without_dropout_and_cells_stay_in_training_mode():
    trained = objective()
    trained.decoder.train()
    trained.loss((np.array([0]), 1))
    assert not trained.decoder.dropout.training
    assert trained.decoder.body.cell.training  # cuDNN has a backward pass only in training mode


def test_divergence_is_an_error():
    with pytest.raises(UserError, match=r"^finetune\.learning_rate=1e\+38: .* epoch 1;"):
        train_decoder(objective(dtype=torch.float32, epochs=3, learning_rate=1e38, samples=20))


@pytest.mark.parametrize("baseline", ["greedy", "mean"])
def test_the_reward_rises_and_the_best_epoch_is_kept(baseline):
    changes = {"epochs": 15, "learning_rate": 0.03, "batch_size": 2, "samples": 20, "baseline": baseline}
    curve = train_decoder(objective(dtype=torch.float32, **changes))
    assert [row["epoch"] for row in curve] == list(range(16))
    assert np.isnan(curve[0]["reward"])
    assert curve[-1]["reward"] > 1.5 * curve[1]["reward"]
    assert curve[-1]["val_cider_d"] > curve[0]["val_cider_d"]


def test_without_epochs_the_decoder_stays_unchanged():
    trained, before = objective(dtype=torch.float32, epochs=0), decoder().float().state_dict()
    (row,) = train_decoder(trained)
    assert row["epoch"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.decoder.state_dict().items())
