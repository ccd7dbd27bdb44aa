"""The vocabulary, encoding and decoding of tokens, and the checks of captions before training."""

import pytest

from lib.core.errors import UserError
from lib.text.checks import check_vocabulary, check_words
from lib.text.scripts import script_shares
from lib.text.tokenizer import Tokenizer, tokenize
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


def test_a_saved_vocabulary_knows_its_tokenizer_and_an_old_one_is_ptb(tmp_path):
    for tokenizer in (Tokenizer(), Tokenizer("unicode", lowercase=False), Tokenizer("jieba:lcut")):
        Vocabulary(["a"], tokenizer).save(tmp_path / "v.json")
        assert Vocabulary.load(tmp_path / "v.json").tokenizer == tokenizer
    (tmp_path / "v.json").write_text('{"words": ["a"]}')
    assert Vocabulary.load(tmp_path / "v.json").tokenizer == Tokenizer("ptb")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"words": [1, 2]}', '{"words": ["a", "a"]}', '{"words": ["a"'])
def test_a_damaged_vocabulary_is_an_error(tmp_path, content):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(UserError, match=r"v\.json"):
        Vocabulary.load(tmp_path / "v.json")


# Checks

JAPANESE = ["赤いボールが机の上にある", "青い車が道を走っている", "二匹の犬が公園で遊んでいる"]
THAI = ["สุนัขสีน้ำตาลวิ่งเล่นบนสนามหญ้า", "ผู้ชายขี่จักรยานสีแดงบนถนน"]
CHINESE_IN_WORDS = ["一只 红色 的 球 在 桌子 上", "两 只 狗 在 公园 里 玩"]
LATIN = ["A red ball on a table.", "Zwei Hunde spielen im Park."]


def words_of(captions: list[str], name: str) -> list[str]:
    """Return what `check_words` prints for the captions."""
    tokenizer = Tokenizer(name)
    return check_words(captions, [tokenizer.tokenize(caption) for caption in captions], tokenizer)


@pytest.mark.parametrize("name", ["ptb", "unicode"])
@pytest.mark.parametrize("captions", [JAPANESE, THAI, ["红色的球", "两只狗"], ["一个男人，在街上走，穿着红衣服"]])
def test_text_without_blanks_is_refused_by_tokenizers_that_split_at_blanks(captions, name):
    with pytest.raises(UserError, match=r"text\.tokenizer.*characters"):
        words_of([*captions * 3, *LATIN], name)
    (line,) = words_of(captions, "characters")
    assert not line.startswith("warning")


def test_text_whose_words_are_separated_is_accepted():
    (line,) = words_of(CHINESE_IN_WORDS, "unicode")
    assert "Han" in line
    (line,) = words_of(["노란 공이 있다", "Жёлтый мяч лежит", "एक पीली गेंद", "كرة صفراء هنا"], "unicode")
    assert not line.startswith("warning")


def test_a_few_captions_without_blanks_are_a_warning():
    lines = words_of([*JAPANESE, *LATIN * 4], "unicode")
    assert any(line.startswith("warning: text.tokenizer=unicode") for line in lines)
    assert any(line.startswith("warning: text.tokenizer=ptb") for line in words_of(["Жёлтый мяч лежит"], "ptb"))


def test_a_tokenizer_that_loses_the_text_is_refused():
    captions, tokenizer = ["Жёлтый мяч", "два мяча here"], Tokenizer("my:words")
    with pytest.raises(UserError, match=r"text\.tokenizer=my:words"):
        check_words(captions, [[], ["here"]], tokenizer)
    lines = check_words(["ab cdefg hi"] * 3, [["ab", "cdefg"]] * 3, tokenizer)
    assert any(line.startswith("warning: text.tokenizer") for line in lines)


def test_shares_of_scripts():
    assert script_shares(["ab 犬ー", "ΩひД!"]) == pytest.approx(
        {"Latin": 2 / 7, **dict.fromkeys(["Cyrillic", "Greek", "Han", "Hiragana", "Katakana"], 1 / 7)}
    )
    assert script_shares(["?! 12"]) == {}


def check(captions: list[str], min_count: int = 1, max_length: int = 5) -> list[str]:
    tokens = [caption.split() for caption in captions]
    return check_vocabulary(tokens, Vocabulary.count(tokens, min_count), min_count, max_length)


def test_a_vocabulary_without_words_or_with_few_of_them_is_refused():
    for captions in (["one red ball", "two blue cups"], ["a red ball", "a blue cup", "a cat", "a dog runs"]):
        with pytest.raises(UserError, match=r"vocabulary\.min_count=3"):
            check(captions, min_count=3)
    lines = check(["a cat", "a dog", "a cow", "a cat", "a cat"] * 2 + ["a owl"] * 2 + ["a bee"] * 2, min_count=3)
    assert any(line.startswith("warning: vocabulary.min_count=3") for line in lines)
    assert len(check(["a cat"] * 3, min_count=3)) == 1


def test_a_length_limit_that_cuts_most_captions_is_refused():
    with pytest.raises(UserError, match=r"vocabulary\.max_length=5.*\b7 words"):
        check(["a b c d e f g"] * 3 + ["a b"] * 2)
    assert any(line.startswith("warning: vocabulary.max_length=5") for line in check(["a b c d e f"] + ["a b"] * 9))
    assert len(check(["a b c d e"] * 3)) == 1
