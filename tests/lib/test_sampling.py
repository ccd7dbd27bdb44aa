"""Sampling: frequencies match the probabilities, after temperature, top-k, top-p and constraints."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, strategies as st

from lib.finetuning.sampling import SamplingConfig, sample, skip_draws
from lib.model.decoding import Constrain, greedy
from lib.search.constraints import DecodingConstraints
from lib.text.vocabulary import END, START
from tests.lib.models import Table, decoder, features

DRAWS = 20_000
# Probabilities of the next token. After token 4 they differ.
FIRST = {END: 0.1, 4: 0.35, 5: 0.3, 6: 0.2, 7: 0.05}
AFTER_4 = {END: 0.5, 4: 0.05, 5: 0.05, 6: 0.25, 7: 0.15}
ALL = SamplingConfig()


def table() -> Table:
    rows = [AFTER_4 if token == 4 else FIRST for token in range(8)]
    return Table(torch.tensor([[row.get(following, 0.0) for following in range(8)] for row in rows]).log())


def draw(max_length: int, config: SamplingConfig, constrain: Constrain | None = None) -> Counter[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    (captions,) = sample(table(), torch.zeros(1, 1, 1), DRAWS, max_length, config, generator, constrain)
    return Counter(tuple(caption.token_ids) for caption in captions)


def normalised(weights: dict[int, float]) -> dict[int, float]:
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


def assert_drawn_with(counts: Counter, p: dict) -> None:
    """Check that Pearson's chi-square is at most its degrees of freedom plus five standard deviations."""
    assert set(counts) <= set(p)
    chi_square = sum((counts[item] - DRAWS * expected) ** 2 / (DRAWS * expected) for item, expected in p.items())
    freedom = len(p) - 1
    assert chi_square <= freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ALL, FIRST),
        (SamplingConfig(temperature=0.5), {token: p**2 for token, p in FIRST.items()}),
        (SamplingConfig(top_k=2), {4: 0.35, 5: 0.3}),
        (SamplingConfig(top_k=100), FIRST),
        (SamplingConfig(top_p=0.6), {4: 0.35, 5: 0.3}),  # 0.35 is below 0.6, 0.35 + 0.3 is not
        (SamplingConfig(top_p=0.3), {4: 1.0}),
        (SamplingConfig(2.0, 3, 0.7), {4: 0.35**0.5, 5: 0.3**0.5}),  # normalised square roots: 0.385, 0.356, 0.259
    ],
)
def test_tokens_are_drawn_with_their_probabilities(config, expected):
    assert_drawn_with(draw(1, config), {(token,): p for token, p in normalised(expected).items()})


def test_captions_are_drawn_with_their_probabilities():
    expected = {(END,): FIRST[END]}
    for first, second in itertools.product([4, 5, 6, 7], FIRST):
        expected[first, second] = FIRST[first] * (AFTER_4 if first == 4 else FIRST)[second]
    assert sum(expected.values()) == pytest.approx(1)
    assert_drawn_with(draw(2, ALL), expected)


def test_forbidden_tokens_are_never_drawn_and_the_others_in_proportion():
    allowed = normalised({token: p for token, p in FIRST.items() if token != END})
    counts = draw(1, ALL, DecodingConstraints(min_length=1).apply)
    assert_drawn_with(counts, {(token,): p for token, p in allowed.items()})
    assert all(len(set(ids)) == len(ids) for ids in draw(5, ALL, DecodingConstraints(no_repeat_ngram_size=1).apply))


def test_log_prob_is_that_of_the_model_without_temperature():
    model, config = table(), SamplingConfig(0.7, 3, 0.9)
    (captions,) = sample(model, torch.zeros(1, 1, 1), 50, 5, config, torch.Generator().manual_seed(0))
    for caption in captions:
        pairs = itertools.pairwise([START, *caption.token_ids])
        assert caption.log_prob == pytest.approx(sum(model.log_probs[pair].item() for pair in pairs))


def test_samples_depend_on_the_seed_and_not_on_the_batch():
    model, images = decoder(), features()

    def drawn(size: int, seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        parts = [sample(model, part, 3, 6, ALL, generator) for part in images.split(size)]
        return [caption.token_ids for part in parts for captions in part for caption in captions]

    expected = drawn(7, seed=0)
    assert len({tuple(ids) for ids in expected}) > 10
    assert drawn(7, seed=0) == drawn(1, seed=0) == drawn(3, seed=0) == expected
    assert drawn(7, seed=1) != expected


def test_processes_that_share_images_draw_the_same_samples():
    model, images = decoder(), features()
    parts = []
    for start, end in ((0, 3), (3, 7), (0, 7)):
        generator = torch.Generator().manual_seed(0)
        skip_draws(2 * start, 6, generator)
        parts.append(sample(model, images[start:end], 2, 6, ALL, generator))
    first, second, expected = ([[c.token_ids for c in captions] for captions in part] for part in parts)
    assert first + second == expected


def test_sampling_at_a_temperature_near_zero_is_greedy():
    model, images = decoder(), features()
    expected = [caption.token_ids for caption in greedy(model, images, 6)]
    drawn = sample(model, images, 2, 6, SamplingConfig(temperature=1e-300), torch.Generator())
    assert [[caption.token_ids for caption in captions] for captions in drawn] == [[ids, ids] for ids in expected]


@given(
    st.lists(st.one_of(st.just(float("-inf")), st.floats(-1e5, 0)), max_size=12),
    st.floats(0.01, 100),
    st.integers(0, 15),
    st.floats(0.01, 1),
)
def test_the_most_probable_tokens_stay_and_no_more_than_needed(log_probs, temperature, top_k, top_p):
    log_probs = torch.tensor([[-1.0, *log_probs]])  # at least one token is possible
    (p,), (tokens,) = SamplingConfig(temperature, top_k, top_p)(log_probs)
    assert p.sum().item() == pytest.approx(1)
    kept = torch.zeros(log_probs.shape[1], dtype=torch.bool).index_fill(0, tokens[p > 0], True)
    assert log_probs[0, kept].isfinite().all()
    assert kept.sum() <= (top_k or len(kept))
    assert kept.all() or log_probs[0, kept].min() >= log_probs[0, ~kept].max()
    # The kept tokens reach top_p. Without the least probable of them, they do not.
    (before,), _ = SamplingConfig(temperature, top_k)(log_probs)
    num_kept = int(kept.sum())
    before = before.sort(descending=True).values
    assert before[:num_kept].sum() >= top_p - 1e-9
    assert num_kept == 1 or before[: num_kept - 1].sum() < top_p or top_p == 1
