"""The vocabulary, and its tokens."""

import pytest

from lib.core.errors import UserError
from lib.text.tokenizer import tokenize
from lib.text.vocabulary import END, START, UNKNOWN, Vocabulary


def test_blanks_of_any_kind_separate_tokens():
    assert tokenize("Don't   stop!\nNow?") == ["do", "n't", "stop", "now"]
    assert tokenize("") == []


def test_tokenizing_again_changes_nothing():
    once = tokenize("Two cats' bowls (full), isn't it?")
    assert tokenize(" ".join(once)) == once


def test_the_vocabulary_keeps_frequent_words_by_frequency_then_alphabet():
    vocabulary = Vocabulary.count([["b", "a", "c"], ["c", "a", "b"], ["c", "d"]], min_count=2)
    assert vocabulary.words[4:] == ("c", "a", "b")


def test_ids_are_decoded_up_to_the_end_and_a_truncated_caption_has_no_end():
    vocabulary = Vocabulary(["a", "dog"])
    ids = vocabulary.encode(["a", "blue", "dog"], max_length=5)
    assert ids == [START, 4, UNKNOWN, 5, END]
    assert vocabulary.decode([*ids, 4, 4]) == ["a", "dog"]
    assert vocabulary.encode(["a"] * 3, max_length=2) == [START, 4, 4]


def test_a_special_token_in_a_text_is_an_unknown_word():
    words = tokenize("<END> of <pad> the <start> story <unk>")
    vocabulary = Vocabulary.count([words], min_count=1)
    assert vocabulary.words[4:] == ("of", "story", "the")
    assert vocabulary.encode(words, 9) == [START, UNKNOWN, 4, UNKNOWN, 6, UNKNOWN, 5, UNKNOWN, END]


def test_a_saved_vocabulary_is_read_back(tmp_path):
    vocabulary = Vocabulary(["café", "a"])
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json").words == vocabulary.words


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"words": [1, 2]}', '{"words": ["a", "a"]}', '{"words": ["a"'])
def test_a_damaged_vocabulary_is_an_error(tmp_path, content):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(UserError, match=r"v\.json"):
        Vocabulary.load(tmp_path / "v.json")
