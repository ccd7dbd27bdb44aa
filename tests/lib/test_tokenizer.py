"""The tokenizer `ptb` equals Stanford's, and its fast path equals the lexer. Other tokenizers split into real words."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from lib.core.errors import UserError
from lib.text import lexer
from lib.text.lexer import lex
from lib.text.tokenizer import PTB as PTB_TOKENIZER, PUNCTUATION, Tokenizer, tokenize
from tests.realdata import REALDATA, needs_realdata

# Captions and their tokens from Stanford's tokenizer; data/make_ptb.py writes this file.
PTB = [json.loads(row) for row in (Path(__file__).parent / "data/ptb.jsonl").read_text("utf-8").splitlines()]

# Parts of words that the tokenizer splits, an abbreviation, and characters that may be next to them.
PIECES = [
    "can", "not", "Can", "NOT", "gim", "me", "Gim", "gon", "na", "GON", "got", "ta", "lem", "wan", "d", "ye", "more",
    "n", "t", "is", "a", "Z", "St", "ill", " ", " ", " ", "  ", "\n", "\t", "\u00a0", ".", ".", "..", ",", "'", '"',
    "-", "--", "(", "2", "é", "ſ", "K", "İ", "_", "\0", "\x1c",
]  # fmt: skip
WORDS = [*lexer.SPLIT_WORDS.split(), "dog", "CANNOT", "a", "St.", "etc.", "Mass", "Mass.", ", "]
captions = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join),
    st.text(st.sampled_from("abcdeCNO .,")),
    st.text(),
)


def lexer_tokens(caption: str) -> list[str]:
    return [word for word in lex(caption) if word not in PUNCTUATION]


@pytest.mark.parametrize(("caption", "tokens"), PTB)
def test_tokens_are_those_of_the_stanford_tokenizer(caption, tokens):
    assert " ".join(tokenize(caption)) == tokens


@settings(max_examples=1000)
@given(captions)
@example(" . ")
@example("a.")
@example("A dog.. ")
@example("St. Louis.")
@example("Main St.")
@example("A dog,, a cat ,")
@example("I cannot. Gonna.wanna")
def test_the_fast_path_changes_nothing(caption):
    assert tokenize(caption) == lexer_tokens(caption)


@given(st.text())
def test_a_token_is_lower_case_without_blanks(caption):
    for token in tokenize(caption):
        assert token.split() == [token]
        assert token == token.lower()


@needs_realdata
@pytest.mark.parametrize("name", ["coco/captions_val2017.json", "flickr8k/dataset_flickr8k.json"])
def test_real_captions_have_the_same_tokens_by_the_lexer(name):
    content = json.loads((REALDATA / name).read_text("utf-8"))
    rows = content.get("annotations") or [sentence for image in content["images"] for sentence in image["sentences"]]
    texts = [row.get("caption") or row["raw"] for row in rows]
    assert len(texts) in (25014, 35000)
    assert [text for text in texts if tokenize(text) != lexer_tokens(text)] == []


# Other tokenizers

UNICODE, CHARACTERS = Tokenizer("unicode"), Tokenizer("characters")


@pytest.mark.parametrize(
    ("caption", "words", "scored"),
    [
        ("A sign: £9 (or 10€)!", "a sign £ 9 ( or 10 € )", "a sign # 9 -lrb- or 10 $ -rrb-"),
        ("[½ price] {5¢}", "[ ½ price ] { 5 ¢ }", "-lsb- 1/2 price -rsb- -lcb- 5 cents -rcb-"),
        ("It’s a dog’s bowl &amp; isn't", "it 's a dog 's bowl & is n't", "it 's a dog 's bowl & is n't"),
        ("Cafe\u0301 :(", "café :(", "café :-lrb-"),
    ],
)
def test_captions_keep_their_spelling_and_scoring_has_the_names_of_the_treebank(caption, words, scored):
    assert PTB_TOKENIZER.join(PTB_TOKENIZER.tokenize(caption)) == words
    assert " ".join(PTB_TOKENIZER.scoring_tokens(caption)) == scored
    assert " ".join(PTB_TOKENIZER.scoring_tokens(words)) == scored


@pytest.mark.parametrize(("caption", "tokens"), [row for row in PTB if row[0].isascii()])
def test_the_learned_words_score_as_the_caption_does(caption, tokens):
    assert " ".join(PTB_TOKENIZER.scoring_tokens(caption)) == tokens


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Ein schwarz-weißer Hund, für 3,50 € (neu).", "ein schwarz-weißer hund für 3,50 € neu"),
        ("L’homme et «la fille» qu'il voit !", "l'homme et la fille qu'il voit"),
        ("Der 'Hund' der Kinder' — um 10:30", "der hund der kinder um 10:30"),
        ("एक कुत्ता दौड़ रहा है।", "एक कुत्ता दौड़ रहा है"),
        ("می\u200cرود، كلبٌ يركض؟", "می\u200cرود كلبٌ يركض"),
        ('כלב של צה"ל.', 'כלב של צה"ל'),
        ("한 남자가 달린다.", "한 남자가 달린다"),
        ("СОБАКА бежит; ΣΚΥΛΟΣ", "собака бежит σκυλος"),
        ("Hu\u0308tte sof\u00adt", "hütte soft"),
        ("一只 狗 在 跑 。", "一只 狗 在 跑"),
        ("... — 🐕 !", ""),
    ],
)
def test_words_of_languages_with_blanks(caption, words):
    assert UNICODE.tokenize(caption) == words.split()


def test_capitals_stay_if_asked_for_and_are_not_scored():
    tokenizer = Tokenizer("unicode", lowercase=False)
    assert tokenizer.tokenize("Ein Hund.") == ["Ein", "Hund"]
    assert tokenizer.scoring_tokens("Ein Hund.") == ["ein", "hund"]


@pytest.mark.parametrize(
    ("caption", "words", "text"),
    [
        ("一个男人，穿T恤。", "一 个 男 人 穿 t 恤", "一个男人穿t恤"),
        ("スケートの男の子!", "ス ケ ー ト の 男 の 子", "スケートの男の子"),
        ("ผู้หญิงวิ่ง", "ผู้ ห ญิ ง วิ่ ง", "ผู้หญิงวิ่ง"),
        ("2个New York的hot-dog", "2 个 new york 的 hot-dog", "2个new york的hot-dog"),
        ("か\u3099く", "が く", "がく"),
    ],
)
def test_characters_of_languages_without_blanks(caption, words, text):
    assert CHARACTERS.tokenize(caption) == words.split()
    assert CHARACTERS.join(words.split()) == text
    assert CHARACTERS.tokenize(text) == words.split()


@pytest.mark.parametrize("tokenizer", [UNICODE, CHARACTERS])
@settings(max_examples=500)
@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from("一ス人ก้ดaé'-.3€ \u0301\u200d\u200c\u00adक्ש\""), max_size=12).map("".join)
    )
)
def test_the_text_of_words_has_the_same_words(tokenizer, caption):
    words = tokenizer.tokenize(caption)
    assert all(word and word.split() == [word] for word in words)
    assert tokenizer.tokenize(tokenizer.join(words)) == words


@pytest.fixture
def segmenter(tmp_path, monkeypatch):
    """Return a tokenizer that uses a function of a user's module."""
    code = """
def pairs(text):
    yield from (text[i : i + 2] for i in range(0, len(text), 2))
def raises(text):
    raise ValueError("no dictionary")
def joined(text):
    return " ".join(text)
def numbers(text):
    return [1, 2]
"""
    (tmp_path / "my_segmenter.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: Tokenizer(f"my_segmenter:{name}")
    sys.modules.pop("my_segmenter", None)


def test_a_segmenter_of_ones_own_gives_the_words(segmenter):
    tokenizer = segmenter("pairs")
    assert tokenizer.tokenize("红色小球。，ab c") == ["红色", "小球", "ab", "c"]  # without punctuation and blanks
    assert tokenizer.join(["红色", "小球", "ab", "cd"]) == "红色小球ab cd"


@pytest.mark.parametrize("name", ["raises", "joined", "numbers", "absent"])
def test_a_segmenter_that_fails_is_an_error(segmenter, name):
    with pytest.raises(UserError, match=rf"text\.tokenizer=my_segmenter:{name}"):
        segmenter(name).tokenize("红色小球")


def test_a_segmenter_that_is_not_installed_is_an_error():
    with pytest.raises(UserError, match=r"text\.tokenizer=no_such_package:cut"):
        Tokenizer("no_such_package:cut").tokenize("红色小球")
    assert Tokenizer("no_such_package:cut").join(["红", "球"]) == "红球"  # joining words does not need the segmenter
