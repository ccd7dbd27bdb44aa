"""Tokenizers split a caption into words, for the decoder and for scoring, and join words to a caption.

    ptb         for English. The tokens are those of coco-caption (Chen et al. 2015): Stanford's PTBTokenizer, lower
                case, without punctuation. `lib.text.lexer` computes them without Java.
    unicode     for languages with blanks between words. A word is a run of letters, marks and digits, and may contain
                apostrophes and hyphens.
    characters  for Chinese, Japanese, Thai and other scripts without blanks. Each character (with its marks) is a
                token. Words of other scripts in the same caption, such as Latin, are not split. This is the `zh`
                tokenization of sacreBLEU (Post 2018).
    MODULE:FUNCTION   a word segmenter, such as jieba:lcut: a function that takes a text and returns a list of words

All tokenizers first normalise Unicode to NFC. The tokens for the decoder keep their spelling, such as "€" and "(". The
Treebank's names, such as "$" and "-lrb-", are used only for scoring.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from typing import Any

import regex

from lib.core.errors import UserError, one_line
from lib.text.lexer import ABBREVIATIONS, CAPITALISED, SPLIT_WORDS, lex
from lib.text.scripts import NO_BLANKS, no_blanks

# The tokens that coco-caption removes. Brackets are not removed in practice: the list has -LRB-, but the tokens are
# already lower-case (-lrb-).
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# A fast path for most captions: ASCII letters, blanks and commas, with or without a full stop at the end. They need the
# lexer only if they contain an abbreviation, whose full stop stays, or a word that is split, such as "cannot".
_PLAIN = re.compile(r"([A-Za-z ,]*)\.?")
_NOT_PLAIN = frozenset(f"{SPLIT_WORDS} {ABBREVIATIONS} {CAPITALISED}".lower().split())

# Invisible characters that do not change a word, such as soft hyphens and direction marks of Hebrew and Arabic, are
# removed. The zero-width space, which separates words in Khmer and Thai, becomes a blank.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u2060\ufeff\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e"))
_INVISIBLE |= dict.fromkeys(range(0x2066, 0x206A)) | {ord("\u200b"): " ", ord("’"): "'"}


def _word(letters: str) -> str:
    """Return a pattern that matches a word, such as "don't", "t-shirt", "3,50" or "col·lecció".

    `letters` is a character class. A word may contain zero-width joiners, because the spelling of Persian, Hindi and
    other languages needs them. It may contain the double quotation mark of Hebrew abbreviations, too.
    """
    run = rf"{letters}(?:\u200c*[{letters}\p{{M}}\u200d])*"
    links = r"""['·׳‐‑-]|(?<=\p{Hebrew})["״](?=\p{Hebrew})|(?<=\p{Nd})[.,:/](?=\p{Nd})"""
    return rf"{run}(?:(?:{links}){run})*"


_SYMBOL = r"[\p{Sc}%&+°]"  # signs that are read aloud as words: 5 €, 50 %
_LETTER = r"[\p{L}\p{N}]"
_LETTER_WITH_BLANKS = rf"[{_LETTER}--{NO_BLANKS}]"
_UNICODE = regex.compile(rf"(?V1){_word(_LETTER)}|{_SYMBOL}")
_CHARACTERS = regex.compile(rf"(?V1)(?={NO_BLANKS})\X|{_word(_LETTER_WITH_BLANKS)}|{_SYMBOL}")
_ENDS_WITHOUT_BLANK = regex.compile(rf"(?V1){NO_BLANKS}[\p{{M}}\u200c\u200d]*\Z")
_CHARACTER = regex.compile(r"\X")
_HAS_WORD = regex.compile(rf"[\p{{L}}\p{{N}}]|{_SYMBOL}")

BUILT_IN = ("ptb", "unicode", "characters")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer by name: "ptb", "unicode", "characters" or "module:function", which is imported at its first use."""

    name: str = "ptb"
    lowercase: bool = True  # ptb is always lower-case

    def tokenize(self, caption: str) -> list[str]:
        """Return the words that the decoder learns, in their normal spelling.

        Raises UserError if the function of "module:function" cannot be imported or fails.
        """
        text = unicodedata.normalize("NFC", caption)
        if self.name == "ptb":
            return _ptb(text, treebank_names=False)
        text = text.translate(_INVISIBLE)
        if self.lowercase:
            text = unicodedata.normalize("NFC", text.lower())
        if self.name in BUILT_IN:
            return (_UNICODE if self.name == "unicode" else _CHARACTERS).findall(text)
        return self._segment(text)

    def scoring_tokens(self, caption: str) -> list[str]:
        """Return the words to score, in lower case: for `ptb` those of coco-caption, otherwise those of `tokenize`."""
        if self.name == "ptb":
            return tokenize(unicodedata.normalize("NFC", caption))
        return [word.lower() for word in self.tokenize(caption)]

    def scoring_results(self, results: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
        """Return, by image id, the words to score of each caption in a COCO results file."""
        return {row["image_id"]: self.scoring_tokens(row["caption"]) for row in results}

    def join(self, words: Sequence[str]) -> str:
        """Join `words` to a text, with blanks between words except beside letters of scripts without blanks.

        `ptb` and `unicode` always join by blanks, because they split at blanks.
        """
        if self.name in ("ptb", "unicode"):
            return " ".join(words)
        pairs = pairwise(["", *words])
        return "".join(" " * _blank_between(left, right) + right for left, right in pairs)

    @cached_property
    def _function(self) -> Callable[[str], Any]:
        module, _, name = self.name.partition(":")
        try:
            function = getattr(import_module(module), name)
        except ImportError as error:
            fix = f"install the package of {module} into this Python, or put {module}.py into the project's top folder"
            raise UserError(f"text.tokenizer={self.name}: {one_line(error)[:200]}; {fix}") from error
        except AttributeError as error:
            raise UserError(f"text.tokenizer={self.name}: the module {module} has no function {name}") from error
        return function

    def _segment(self, text: str) -> list[str]:
        """Return the words of the user's function, without blanks and punctuation."""
        function = self._function
        try:
            parts = function(text)
            words = [] if isinstance(parts, str) else list(parts)
        except Exception as error:  # the user's function may raise anything
            problem = f"failed on the caption {text[:50]!r}: {one_line(error)[:200]}"
            raise UserError(f"text.tokenizer={self.name} {problem}. Correct the function.") from error
        if isinstance(parts, str) or not all(isinstance(word, str) for word in words):
            problem = f"returned {str(parts)[:50]!r} for the caption {text[:50]!r}"
            raise UserError(f"text.tokenizer={self.name} {problem}, but it must return a list of words")
        return [word for part in words for word in part.split() if _HAS_WORD.search(word)]


def _blank_between(left: str, right: str) -> bool:
    """Return whether a blank separates two words: their script has blanks, or they would become one character."""
    if not left:
        return False
    if not _ENDS_WITHOUT_BLANK.search(left) and not no_blanks.match(right):
        return True
    characters = [len(_CHARACTER.findall(text)) for text in (left, right, left + right)]
    return characters[2] < characters[0] + characters[1]


PTB = Tokenizer()


def tokenize(caption: str) -> list[str]:
    """Return the words of `caption` as coco-caption scores them. Line breaks count as blanks."""
    return _ptb(caption, treebank_names=True)


def _ptb(caption: str, *, treebank_names: bool) -> list[str]:
    text = " ".join(caption.split())
    if plain := _PLAIN.fullmatch(text):
        words = plain[1].lower().replace(",", " ").split()
        if _NOT_PLAIN.isdisjoint(words):
            return words
    return [word for word in lex(text, treebank_names=treebank_names) if word not in PUNCTUATION]
