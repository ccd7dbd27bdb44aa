"""What may not be written, against a reference that goes through one caption at a time."""

import torch
from hypothesis import given, strategies as st

from lib.search.constraints import NO_CONSTRAINTS, DecodingConstraints
from lib.text.vocabulary import END

VOCABULARY = 8
COUNT = st.integers(0, 4)


def forbidden(written: list[int], rules: DecodingConstraints) -> set[int]:
    """What `rules` say may not follow, one word after the other."""

    def repeats(word: int) -> bool:
        caption = [*written, word]
        phrases = [
            tuple(caption[i : i + rules.no_repeat_ngram_size])
            for i in range(len(caption) - rules.no_repeat_ngram_size + 1)
        ]
        return phrases.count(phrases[-1]) > 1 if phrases else False

    repeated = {word for word in range(VOCABULARY) if rules.no_repeat_ngram_size and repeats(word)}
    return repeated | ({END} if len(written) < rules.min_length else set())


@st.composite
def situations(draw):
    """Rules, what is written (M, T), END not in it, and log-probabilities (M, V), some of them -inf."""
    captions, length = draw(st.integers(1, 4)), draw(st.integers(0, 7))
    words = st.lists(st.integers(4, 6), min_size=length, max_size=length)
    chances = st.lists(
        st.sampled_from([float("-inf"), -1e4, -3.0, -1.0, -0.1]), min_size=VOCABULARY, max_size=VOCABULARY
    )
    written = torch.tensor([draw(words) for _ in range(captions)], dtype=torch.long)
    return (
        DecodingConstraints(draw(COUNT), draw(COUNT)),
        written,
        torch.tensor([draw(chances) for _ in range(captions)]),
    )


@given(situations())
def test_what_is_forbidden_and_nothing_else(situation):
    rules, written, log_p = situation
    found = rules.apply(log_p.clone(), written)
    for before, after, caption in zip(log_p.tolist(), found.tolist(), written.tolist(), strict=True):
        expected = list(before)
        for word in forbidden(caption, rules):
            expected[word] = float("-inf")
        active = 0 < rules.no_repeat_ngram_size <= len(caption) or len(caption) < rules.min_length
        if active and max(expected) == float("-inf"):
            expected[END] = max(before[END], torch.finfo(torch.float32).min)
        assert after == expected


@given(situations())
def test_no_rules_change_nothing(situation):
    _, written, log_p = situation
    assert NO_CONSTRAINTS.apply(log_p, written) is log_p
    assert torch.equal(NO_CONSTRAINTS.apply(log_p.clone(), written), log_p)


def test_where_no_word_is_left_a_caption_may_end_even_before_its_time():
    log_p = torch.full((2, 6), float("-inf"))
    log_p[:, [END, 4, 5]] = torch.tensor([-1.0, -2.0, -3.0])
    found = DecodingConstraints(min_length=9, no_repeat_ngram_size=1).apply(log_p, torch.tensor([[4, 5], [4, 4]]))
    assert found[:, END].tolist() == [-1.0, float("-inf")]
    assert found[:, 5].tolist() == [float("-inf"), -3.0]
