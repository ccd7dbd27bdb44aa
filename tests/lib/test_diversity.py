"""Caption statistics, on captions with known values."""

import pytest
from hypothesis import given, strategies as st

from lib.evaluation.diversity import caption_statistics, repeats_phrase


def statistics_of(*captions: str, train: tuple[str, ...] = ()) -> dict[str, float]:
    return caption_statistics([caption.split() for caption in captions], {tuple(caption.split()) for caption in train})


def test_length_and_diversity():
    found = statistics_of("a dog runs", "a dog", "a dog")
    assert found["mean_length"] == pytest.approx(7 / 3)
    assert found["distinct_words"] == 3
    assert found["distinct_1"] == pytest.approx(3 / 7)
    assert found["distinct_2"] == pytest.approx(2 / 7)  # 2 bigrams ("a dog", "dog runs"), 7 words
    assert found["distinct_captions"] == pytest.approx(2 / 3)


def test_memorised_captions():
    assert statistics_of("a dog", "a cat", train=("a dog", "a dog runs"))["seen_in_training"] == 0.5


def test_captions_that_break_off_have_a_dangling_end():
    captions = ["a man in a", "a man with", "a dog and", "a dog is", "a man in a hat", ""]
    assert [statistics_of(caption)["dangling_end"] for caption in captions] == [1, 1, 1, 1, 0, 0]


def test_captions_that_repeat_a_phrase():
    for caption in ("a dog in a hat in a hat", "a dog a dog"):
        assert repeats_phrase(caption.split())
    for caption in ("a very very big dog", "a dog and a dog", ""):  # a single repeated word may be intended
        assert not repeats_phrase(caption.split())


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), min_size=1, max_size=5))
def test_fractions_are_between_0_and_1(captions):
    found = caption_statistics(captions, set())
    assert all(0 <= value <= 1 for name, value in found.items() if name not in ("mean_length", "distinct_words"))
