"""The short way through the tokenizer gives what NLTK gives, whatever the caption."""

import json
import re

import pytest
from hypothesis import example, given, settings, strategies as st

from lib.text import tokenizer
from lib.text.tokenizer import tokenize, treebank_words
from tests.realdata import REALDATA, needs_realdata

# The halves of the words that Treebank takes apart, and what may stand beside them.
PIECES = [
    "can", "not", "Can", "NOT", "gim", "me", "Gim", "gon", "na", "GON", "got", "ta", "lem", "wan", "d", "ye", "more",
    "n", "t", "is", "a", "Z", " ", " ", " ", "  ", "\n", "\t", "\u00a0", ".", ".", "..", ",", "'", '"', "-", "--",
    "(", "2", "é", "ſ", "K", "İ", "_", "\0", "\x1c",
]  # fmt: skip
captions = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from([*tokenizer._TAKEN_APART, "dog", "CANNOT", "a"]), max_size=6).map(" ".join),
    st.text(st.sampled_from("abcdeCNO .")),
    st.text(),
)


def nltk_alone(caption: str) -> list[str]:
    return treebank_words(" ".join(caption.split()))


@settings(max_examples=1000, deadline=None)
@given(captions)
@example(".")
@example(" . ")
@example("a.")
@example("A dog .")
@example("A dog.. ")
@example("St. Louis.")
@example("I cannot. Gonna.wanna")
@example("wanna")
def test_the_short_way_changes_nothing(caption):
    assert tokenize(caption) == nltk_alone(caption)


def test_every_word_that_nltk_takes_apart_is_known_here():
    from nltk.tokenize.destructive import MacIntyreContractions

    rules = [*MacIntyreContractions.CONTRACTIONS2, *MacIntyreContractions.CONTRACTIONS3]
    words = ["".join(re.findall(r"\(([a-z']+)\)", rule)) for rule in rules]  # from r"(?i)\b(can)(?#X)(not)\b"
    assert {word for word in words if word.isalpha()} == tokenizer._TAKEN_APART


@needs_realdata
@pytest.mark.parametrize("name", ["coco/captions_val2017.json", "flickr8k/dataset_flickr8k.json"])
def test_real_captions_have_the_same_words_by_either_way(name):
    content = json.loads((REALDATA / name).read_text("utf-8"))
    if "annotations" in content:
        texts = [row["caption"] for row in content["annotations"]]
    else:
        texts = [sentence["raw"] for image in content["images"] for sentence in image["sentences"]]
    assert len(texts) in (25014, 35000)
    different = [text for text in texts if tokenize(text) != nltk_alone(text)]
    assert different == []
