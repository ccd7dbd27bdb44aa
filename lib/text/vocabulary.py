"""The tokens that a model knows, and their ids."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lib.core.errors import readable_errors
from lib.text.tokenizer import PTB, Tokenizer

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
SUPPRESSED_TOKENS = [PAD, START, UNKNOWN]  # a decoder never writes them


class Vocabulary:
    """The words by id, starting with the four special tokens, and the tokenizer that made the words."""

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer = PTB):
        """`words` are in the order of their ids, without the special tokens. Raises ValueError if a word repeats."""
        self.tokenizer = tokenizer
        self.words = (*SPECIALS, *words)
        # Without the special tokens, so that the word "<end>" in a caption is encoded as <unk>.
        self._ids = {word: i for i, word in enumerate(words, len(SPECIALS))}
        if len(set(self.words)) != len(self.words):
            (repeated, _), *_ = Counter(self.words).most_common(1)
            raise ValueError(f"the word {repeated!r} occurs twice in the vocabulary")

    @classmethod
    def count(cls, captions: Iterable[Sequence[str]], min_count: int, tokenizer: Tokenizer = PTB) -> "Vocabulary":
        """Build a vocabulary of the words that occur `min_count` times or more, the most frequent first."""
        counts = Counter(word for caption in captions for word in caption if word not in SPECIALS)
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)), tokenizer)

    def __len__(self) -> int:
        """Return the number of ids, special tokens included."""
        return len(self.words)

    @property
    def num_words(self) -> int:
        """The number of words without the special tokens."""
        return len(self) - len(SPECIALS)

    def encode(self, tokens: Sequence[str], max_length: int) -> list[int]:
        """Return the ids of <start> and the first `max_length` tokens, and of <end> if no tokens were cut off."""
        ids = [self._ids.get(word, UNKNOWN) for word in tokens[:max_length]]
        return [START, *ids] if len(tokens) > max_length else [START, *ids, END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of `ids` before <end>, without special tokens."""
        return [self.words[i] for i in takewhile(lambda i: i != END, ids) if i >= len(SPECIALS)]

    def save(self, path: Path) -> None:
        """Write the words as JSON, and the tokenizer if it is not `ptb`, the only one of earlier versions."""
        content: dict[str, Any] = {"words": self.words[len(SPECIALS) :]}
        if self.tokenizer != PTB:
            content = {"tokenizer": self.tokenizer.name, "lowercase": self.tokenizer.lowercase, **content}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a file that `save` wrote. Raises UserError if it is missing or damaged."""
        with readable_errors(path):
            content = json.loads(path.read_text("utf-8"))
            words, name, lowercase = content["words"], content.get("tokenizer", "ptb"), content.get("lowercase", True)
            if not all(isinstance(word, str) for word in [name, *words]):
                raise TypeError("a word is not a string")
            return cls(words, Tokenizer(name, lowercase))
