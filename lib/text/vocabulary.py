"""The words a model knows, and their ids."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from lib.core.errors import readable_errors

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
SUPPRESSED_TOKENS = [PAD, START, UNKNOWN]


class Vocabulary:
    """Words by id: the four specials first, then the others."""

    def __init__(self, words: Sequence[str]):
        """`words` are all but the specials, in the order of their ids."""
        self.words = (*SPECIALS, *words)
        self._ids = {word: i for i, word in enumerate(words, len(SPECIALS))}  # "<end>" in a caption ends nothing
        if len(set(self.words)) != len(self.words):
            raise ValueError("a word stands in the vocabulary twice")

    @classmethod
    def count(cls, captions: Iterable[Sequence[str]], min_count: int) -> "Vocabulary":
        """The words that occur at least `min_count` times, the most frequent first, ties by alphabet."""
        counts = Counter(word for caption in captions for word in caption if word not in SPECIALS)
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Sequence[str], max_length: int) -> list[int]:
        """<start>, the first `max_length` words, and <end> unless words were cut off."""
        ids = [self._ids.get(word, UNKNOWN) for word in tokens[:max_length]]
        return [START, *ids] if len(tokens) > max_length else [START, *ids, END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of `ids` up to <end>, specials left out."""
        words = takewhile(lambda i: i != END, ids)
        return [self.words[i] for i in words if i >= len(SPECIALS)]

    def save(self, path: Path) -> None:
        path.write_text(
            json.dumps({"words": self.words[len(SPECIALS) :]}, ensure_ascii=False, indent=0) + "\n", "utf-8"
        )

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads what `save` wrote; raises UserError where it is missing or damaged."""
        with readable_errors(path):
            words = json.loads(path.read_text("utf-8"))["words"]
            if not all(isinstance(word, str) for word in words):
                raise TypeError("a word is not a text")
            return cls(words)
