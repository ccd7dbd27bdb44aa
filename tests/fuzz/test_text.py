"""Captions of any characters give tokens that can be counted, saved and loaded."""

from hypothesis import strategies as st

from lib.text.tokenizer import tokenize
from lib.text.vocabulary import SPECIALS, Vocabulary
from tests.fuzz.strategies import TEXTS, fuzz

PIECES = [
    "www.", "1", "a", ".", "=", "<", "'", "n't", "-", "_", "@", "(", "&amp;", "é", "\u0301", "كلب", "😀", "\0", " ",
    "\u2028",
]  # fmt: skip
CAPTIONS = st.one_of(
    TEXTS,
    st.lists(st.sampled_from(PIECES), max_size=20).map("".join),
    st.tuples(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), st.integers(1, 300)).map(
        lambda drawn: "".join(drawn[0]) * drawn[1]
    ),
)


@fuzz("captions", caption=CAPTIONS.map(lambda text: text.encode(errors="replace").decode()))
def test_captions(tmp_path_factory, caption):
    words = tokenize(caption)
    assert all(word == word.lower() and word.split() == [word] for word in words)
    path = tmp_path_factory.getbasetemp() / "vocabulary.json"
    vocabulary = Vocabulary.count([words], 1)
    vocabulary.save(path)
    assert Vocabulary.load(path).words == vocabulary.words
    known = [word for word in words if word not in SPECIALS]
    assert vocabulary.decode(vocabulary.encode(words, len(words))) == known
