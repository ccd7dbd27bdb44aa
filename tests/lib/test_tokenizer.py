"""The tokenizer equals Stanford's, and its fast path equals the lexer."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from lib.text import lexer
from lib.text.lexer import lex
from lib.text.tokenizer import PUNCTUATION, tokenize
from tests.realdata import REALDATA, needs_realdata

# Captions and their tokens by Stanford's tokenizer, written by data/make_ptb.py.
PTB = [json.loads(row) for row in (Path(__file__).parent / "data/ptb.jsonl").read_text("utf-8").splitlines()]

# Halves of the split words, an abbreviation, and characters that may be next to them.
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
