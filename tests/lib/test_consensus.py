"""Consensus reranking: against its formula, written out picture by picture and caption by caption."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from lib.model.decoding import Hypothesis
from lib.scoring.cider import cider_d
from lib.search import consensus as module
from lib.search.consensus import Consensus
from lib.text.vocabulary import END, SPECIALS, Vocabulary

VOCABULARY = Vocabulary(["a", "dog", "cat", "runs", "sleeps"])
CAPTIONS = [
    [["a", "dog", "runs"], ["a", "dog"]],
    [["a", "cat", "sleeps"]],
    [["a", "cat", "runs"], ["cat", "runs"], ["a", "dog", "sleeps"]],
    [["sleeps"]],
]


def features(images: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(images, 2, 6, generator=torch.Generator().manual_seed(seed)).half()
    drawn[:, :, 3] = 0.5  # a channel that says nothing
    return drawn


def consensus(neighbours: int, weight: float) -> Consensus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_READ", 3)  # so that they are read in more than one go
        return Consensus(features(len(CAPTIONS)), CAPTIONS, VOCABULARY, neighbours, weight)


captions = st.builds(
    lambda words, ended, log_p: Hypothesis([*words, END] if ended else words, log_p, torch.empty(0)),
    st.lists(st.integers(len(SPECIALS), len(VOCABULARY) - 1), min_size=1, max_size=6),
    st.booleans(),
    st.floats(-30, -0.1),
)


def resemblance(caption: Hypothesis, image: int) -> float:
    """CIDEr-D of it among captions that share nothing with their pictures'."""
    tokens = VOCABULARY.decode(caption.token_ids) + ["."] * (caption.token_ids[-1] == END)
    references = [[[*reference, "."] for reference in of_image] for of_image in CAPTIONS]
    return cider_d(references, [tokens if other == image else ["x"] for other in range(len(CAPTIONS))])[image]


@given(st.lists(captions, min_size=1, max_size=5), st.integers(1, 6), st.floats(0, 5), st.floats(0, 2))
def test_captions_stand_in_the_order_of_the_formula(beam, neighbours, weight, length_penalty):
    (ranked,) = consensus(neighbours, weight).rerank(features(1, seed=1), [beam], length_penalty)
    known, asked = (part.double().mean(dim=1).numpy() for part in (features(len(CAPTIONS)), features(1, seed=1)))
    spread = np.maximum(known.std(axis=0), 1e-3)
    known, asked = ((part - known.mean(axis=0)) / spread for part in (known, asked))
    nearest = np.argsort(-(known @ asked[0]) / np.linalg.norm(known, axis=1))[:neighbours]

    def rank(caption: Hypothesis) -> float:
        agreed = np.mean([resemblance(caption, image) for image in nearest])
        return caption.log_prob / len(caption.token_ids) ** length_penalty + weight * agreed

    assert sorted(map(id, ranked)) == sorted(map(id, beam))
    ranks = [rank(caption) for caption in ranked]
    assert ranks == pytest.approx(sorted(ranks, reverse=True), abs=1e-4)


def test_what_was_said_of_the_very_picture_comes_first():
    beam = [Hypothesis([4, 5, 7, END], -1.0, torch.empty(0)), Hypothesis([4, 6, 8, END], -9.0, torch.empty(0))]
    for image, best in ((0, 0), (1, 1)):
        (ranked,) = consensus(1, 10.0).rerank(features(len(CAPTIONS))[image : image + 1], [beam], 1.0)
        assert ranked[0] is beam[best]


def test_pictures_are_reranked_each_by_itself():
    beams = [[Hypothesis([4, word, END], -float(word), torch.empty(0)) for word in (5, 6, 7, 8)]] * 3
    together = consensus(2, 3.0).rerank(features(3, seed=2), beams, 1.0)
    alone = [consensus(2, 3.0).rerank(features(3, seed=2)[i : i + 1], beams[i : i + 1], 1.0)[0] for i in range(3)]
    assert together == alone
