"""Decoding constraints equal a reference implementation that handles one caption at a time."""

import torch
from hypothesis import example, given, strategies as st

from lib.search.constraints import DecodingConstraints
from lib.text.vocabulary import END

VOCABULARY = 8
SIZES = st.integers(0, 4)


def forbidden_tokens(tokens: list[int], constraints: DecodingConstraints) -> set[int]:
    n = constraints.no_repeat_ngram_size

    def repeats(token: int) -> bool:
        caption = [*tokens, token]
        ngrams = [tuple(caption[i : i + n]) for i in range(len(caption) - n + 1)]
        return ngrams.count(ngrams[-1]) > 1 if ngrams else False

    repeated = {token for token in range(VOCABULARY) if n and repeats(token)}
    return repeated | ({END} if len(tokens) < constraints.min_length else set())


@st.composite
def situations(draw):
    """Generate constraints, tokens (M, T) without <end>, and log_probs (M, V), some of them -inf."""
    captions, length = draw(st.integers(1, 4)), draw(st.integers(0, 7))
    words = st.lists(st.integers(4, 6), min_size=length, max_size=length)
    values = st.sampled_from([float("-inf"), -1e4, -3.0, -1.0, -0.1])
    rows = st.lists(values, min_size=VOCABULARY, max_size=VOCABULARY)
    tokens = torch.tensor([draw(words) for _ in range(captions)], dtype=torch.long)
    return DecodingConstraints(draw(SIZES), draw(SIZES)), tokens, torch.tensor([draw(rows) for _ in range(captions)])


@given(situations())
@example((DecodingConstraints(), torch.tensor([[4, 4]]), torch.arange(-8.0, 0)[None]))
def test_exactly_the_forbidden_tokens_are_set_to_minus_infinity(situation):
    constraints, tokens, log_probs = situation
    constrained = constraints.apply(log_probs.clone(), tokens)
    for before, after, caption in zip(log_probs.tolist(), constrained.tolist(), tokens.tolist(), strict=True):
        expected = list(before)
        for token in forbidden_tokens(caption, constraints):
            expected[token] = float("-inf")
        active = 0 < constraints.no_repeat_ngram_size <= len(caption) or len(caption) < constraints.min_length
        if active and max(expected) == float("-inf"):
            expected[END] = max(before[END], torch.finfo(torch.float32).min)
        assert after == expected


def test_if_no_token_is_left_the_caption_may_end_too_early():
    log_probs = torch.full((2, 6), float("-inf"))
    log_probs[:, [END, 4, 5]] = torch.tensor([-1.0, -2.0, -3.0])
    constrained = DecodingConstraints(9, 1).apply(log_probs, torch.tensor([[4, 5], [4, 4]]))
    assert constrained[:, END].tolist() == [-1.0, float("-inf")]
    assert constrained[:, 5].tolist() == [float("-inf"), -3.0]
