"""Sampling, against the probabilities that it should draw with."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, strategies as st

from lib.finetuning.sampling import SamplingConfig, sample, skip_draws
from lib.model.decoding import greedy
from lib.search.constraints import DecodingConstraints
from lib.text.vocabulary import END, START
from tests.lib.models import Table, decoder, features

DRAWS = 20_000
# The next word's probabilities: <end> and words 4 to 7; after 4 others than at the start.
FIRST = {END: 0.1, 4: 0.35, 5: 0.3, 6: 0.2, 7: 0.05}
AFTER_4 = {END: 0.5, 4: 0.05, 5: 0.05, 6: 0.25, 7: 0.15}
ALL = SamplingConfig()


def table() -> Table:
    p = torch.zeros(8, 8)
    for word in range(8):
        for following, chance in (AFTER_4 if word == 4 else FIRST).items():
            p[word, following] = chance
    return Table(p.log())


def draw(
    longest: int,
    narrowing: SamplingConfig,
    rules: DecodingConstraints = DecodingConstraints(),  # noqa: B008
) -> Counter[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    (captions,) = sample(table(), torch.zeros(1, 1, 1), DRAWS, longest, narrowing, generator, rules.apply)
    return Counter(tuple(caption.token_ids) for caption in captions)


def normalised(weights: dict[int, float]) -> dict[int, float]:
    return {word: weight / sum(weights.values()) for word, weight in weights.items()}


def assert_drawn_with(counts: Counter, p: dict) -> None:
    """Pearson's chi-square stays under its degrees of freedom and five standard deviations."""
    assert set(counts) <= set(p)
    chi_square = sum((counts[what] - DRAWS * chance) ** 2 / (DRAWS * chance) for what, chance in p.items())
    freedom = len(p) - 1
    assert chi_square <= freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        (ALL, FIRST),
        (SamplingConfig(temperature=0.5), {word: chance**2 for word, chance in FIRST.items()}),
        (SamplingConfig(temperature=2.0), {word: chance**0.5 for word, chance in FIRST.items()}),
        (SamplingConfig(top_k=2), {4: 0.35, 5: 0.3}),
        (SamplingConfig(top_k=100), FIRST),
        (SamplingConfig(top_p=0.6), {4: 0.35, 5: 0.3}),  # 0.35 is too little, 0.65 enough
        (SamplingConfig(top_p=0.3), {4: 1.0}),
        (SamplingConfig(2.0, 3, 0.7), {4: 0.35**0.5, 5: 0.3**0.5}),  # of three by their roots: 0.385, 0.356, 0.259
    ],
)
def test_words_are_drawn_with_their_probabilities(narrowing, expected):
    counts = draw(1, narrowing)
    assert_drawn_with(counts, {(word,): chance for word, chance in normalised(expected).items()})


def test_captions_are_drawn_with_theirs():
    expected = {(END,): FIRST[END]}
    for first, second in itertools.product([4, 5, 6, 7], FIRST):
        expected[first, second] = FIRST[first] * (AFTER_4 if first == 4 else FIRST)[second]
    assert sum(expected.values()) == pytest.approx(1)
    assert_drawn_with(draw(2, ALL), expected)


def test_what_the_rules_forbid_is_drawn_never_and_the_rest_in_proportion():
    words = normalised({word: chance for word, chance in FIRST.items() if word != END})
    assert_drawn_with(
        draw(1, ALL, DecodingConstraints(min_length=1)), {(word,): chance for word, chance in words.items()}
    )
    assert all(len(set(ids)) == len(ids) for ids in draw(5, ALL, DecodingConstraints(no_repeat_ngram_size=1)))


def test_log_p_is_the_models_own():
    model, narrowing = table(), SamplingConfig(0.7, 3, 0.9)
    (captions,) = sample(model, torch.zeros(1, 1, 1), 50, 5, narrowing, torch.Generator().manual_seed(0))
    for caption in captions:
        pairs = itertools.pairwise([START, *caption.token_ids])
        assert caption.log_prob == pytest.approx(sum(model.log_probs[pair].item() for pair in pairs))


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_batch():
    model, pictures = decoder(), features()

    def drawn(size: int, seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        parts = [sample(model, part, 3, 6, ALL, generator) for part in pictures.split(size)]
        return [caption.token_ids for part in parts for captions in part for caption in captions]

    together = drawn(7, seed=0)
    assert len({tuple(ids) for ids in together}) > 10
    assert drawn(7, seed=0) == drawn(1, seed=0) == drawn(3, seed=0) == together
    assert drawn(7, seed=1) != together


def test_processes_that_share_the_pictures_draw_what_one_draws():
    model, pictures = decoder(), features()
    drawn = []
    for first, end in ((0, 3), (3, 3), (3, 7)):
        generator = torch.Generator().manual_seed(0)
        skip_draws(2 * first, 6, generator)
        drawn += sample(model, pictures[first:end], 2, 6, ALL, generator) if end > first else []
    whole = sample(model, pictures, 2, 6, ALL, torch.Generator().manual_seed(0))
    assert [[c.token_ids for c in captions] for captions in drawn] == [
        [c.token_ids for c in captions] for captions in whole
    ]


@pytest.mark.parametrize(
    "narrowing", [SamplingConfig(temperature=1e-300), SamplingConfig(top_k=1), SamplingConfig(top_p=1e-9)]
)
def test_narrowed_to_one_word_it_is_greedy(narrowing):
    model, pictures = decoder(), features()
    expected = [caption.token_ids for caption in greedy(model, pictures, 6)]
    drawn = sample(model, pictures, 2, 6, narrowing, torch.Generator())
    assert [[caption.token_ids for caption in captions] for captions in drawn] == [[ids, ids] for ids in expected]


@given(
    st.lists(st.one_of(st.just(float("-inf")), st.floats(-1e5, 0)), max_size=12),
    st.floats(0.01, 100),
    st.integers(0, 15),
    st.floats(0.01, 1),
)
def test_narrowing_leaves_the_likeliest_words_and_no_more_than_it_must(log_p, temperature, top_k, top_p):
    log_p = torch.tensor([[-1.0, *log_p]])  # something can be written
    (p,), (words,) = SamplingConfig(temperature, top_k, top_p)(log_p)
    assert p.sum().item() == pytest.approx(1)
    kept = torch.zeros(log_p.shape[1], dtype=torch.bool).index_fill(0, words[p > 0], True)
    assert log_p[0, kept].isfinite().all()
    assert kept.sum() <= (top_k or len(kept))
    assert kept.all() or log_p[0, kept].min() >= log_p[0, ~kept].max()
    # The words kept reach top_p; without the last of them they would not.
    (before,), _ = SamplingConfig(temperature, top_k)(log_p)
    most = int(kept.sum())
    before = before.sort(descending=True).values
    assert before[:most].sum() >= top_p - 1e-9
    assert most == 1 or before[: most - 1].sum() < top_p or top_p == 1
