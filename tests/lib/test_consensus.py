"""Consensus reranking, against its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from lib.finetuning.reward import CiderReward
from lib.model.decoding import Hypothesis
from lib.scoring.cider import CiderD
from lib.search import consensus as module
from lib.search.consensus import Consensus
from lib.text.vocabulary import END, SPECIALS, Vocabulary

VOCABULARY = Vocabulary(["a", "dog", "cat", "runs", "sleeps"])
TEXTS = [["a dog runs", "a dog"], ["a cat sleeps"], ["a cat runs", "cat runs", "a dog sleeps"], ["sleeps"]]
CAPTIONS = [[text.split() for text in texts] for texts in TEXTS]


def features(images: int, seed: int = 0) -> Tensor:
    random = torch.randn(images, 2, 6, generator=torch.Generator().manual_seed(seed)).half()
    random[:, :, 3] = 0.5  # a constant channel
    return random


def consensus(neighbours: int, weight: float) -> Consensus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", 3)  # several chunks
        return Consensus(features(len(CAPTIONS)), CiderReward(CAPTIONS, VOCABULARY), neighbours, weight)


hypotheses = st.builds(
    lambda words, finished, log_prob: Hypothesis([*words, END] if finished else words, log_prob, torch.empty(0)),
    st.lists(st.integers(len(SPECIALS), len(VOCABULARY) - 1), min_size=1, max_size=6),
    st.booleans(),
    st.floats(-30, -0.1),
)


def reward(hypothesis: Hypothesis, image: int) -> float:
    """Return CIDEr-D, with the end of a caption as a token."""
    tokens = VOCABULARY.decode(hypothesis.token_ids) + ["."] * (hypothesis.token_ids[-1] == END)
    references = [[[*reference, "."] for reference in captions] for captions in CAPTIONS]
    return CiderD(references).scores([image], [tokens])[0]


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-((x[:, None] - y[None]) ** 2).sum(axis=2))


@given(st.lists(hypotheses, min_size=1, max_size=5), st.integers(1, 6), st.floats(0, 5), st.floats(0, 2))
def test_hypotheses_are_ordered_by_the_formula(beam, neighbours, weight, length_penalty):
    (ranked,) = consensus(neighbours, weight).rerank(features(1, seed=1), [beam], length_penalty)
    known, query = (part.double().mean(dim=1).numpy() for part in (features(len(CAPTIONS)), features(1, seed=1)))
    std = np.maximum(known.std(axis=0), 1e-3)
    standardised = ((part - known.mean(axis=0)) / std for part in (known, query))
    known, (query,) = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in standardised)
    nearest = np.argsort(-(known @ query))[:neighbours]
    gram = kernel(known[nearest], known[nearest])
    shares = np.linalg.inv(gram + np.eye(len(nearest))) @ kernel(known[nearest], query[None])[:, 0]

    def score(hypothesis: Hypothesis) -> float:
        predicted = sum(share * reward(hypothesis, image) for share, image in zip(shares, nearest, strict=True))
        return hypothesis.log_prob / len(hypothesis.token_ids) ** length_penalty + weight * predicted

    assert sorted(map(id, ranked)) == sorted(map(id, beam))
    scores = [*map(score, ranked)]
    assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-4)


def test_the_caption_of_a_train_image_comes_first_for_that_image():
    beam = [Hypothesis([4, 5, 7, END], -1.0, torch.empty(0)), Hypothesis([4, 6, 8, END], -9.0, torch.empty(0))]
    for image, best in ((0, 0), (1, 1)):
        (ranked,) = consensus(1, 10.0).rerank(features(len(CAPTIONS))[image : image + 1], [beam], 1.0)
        assert ranked[0] is beam[best]


def test_images_are_reranked_independently():
    beams = [[Hypothesis([4, word, END], -float(word), torch.empty(0)) for word in (5, 6, 7, 8)]] * 3
    together = consensus(2, 3.0).rerank(features(3, seed=2), beams, 1.0)
    alone = [consensus(2, 3.0).rerank(features(3, seed=2)[i : i + 1], beams[i : i + 1], 1.0)[0] for i in range(3)]
    assert together == alone
