"""Captions with arbitrary characters give tokens that can be counted, saved and loaded."""

from hypothesis import strategies as st

from lib.text.tokenizer import tokenize
from lib.text.vocabulary import SPECIALS, Vocabulary
from tests.fuzz.strategies import ENCODED_TEXTS, fuzz

PIECES = st.sampled_from([*"1a.=<'-_@(é\u0301😀\0 \u2028", "www.", "n't", "&amp;", "كلب"])
REPEATED = st.builds(lambda pieces, count: "".join(pieces) * count, st.lists(PIECES, max_size=4), st.integers(1, 300))
CAPTIONS = st.one_of(ENCODED_TEXTS.map(bytes.decode), st.lists(PIECES, max_size=20).map("".join), REPEATED)


@fuzz(caption=CAPTIONS)
def test_captions(tmp_path_factory, caption):
    words = tokenize(caption)
    assert all(word == word.lower() and word.split() == [word] for word in words)
    path = tmp_path_factory.getbasetemp() / "vocabulary.json"
    vocabulary = Vocabulary.count([words], 1)
    vocabulary.save(path)
    assert Vocabulary.load(path).words == vocabulary.words
    known = [word for word in words if word not in SPECIALS]
    assert vocabulary.decode(vocabulary.encode(words, len(words))) == known
