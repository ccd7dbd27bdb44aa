"""Check what the tokenizer and the vocabulary made of the captions, before anything is trained on it.

Each check returns lines to print, and raises a UserError that names the setting if training would be pointless.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import regex

from lib.core.errors import UserError
from lib.text.scripts import is_ideographic, no_blanks, script_shares
from lib.text.tokenizer import Tokenizer
from lib.text.vocabulary import SPECIALS, Vocabulary

MAX_CAPTIONS = 20_000  # examined for scripts and lost text, evenly spaced: their shares are exact to 1%

# A tokenizer that fits keeps every letter. At half, what is learned is not what the captions say.
MIN_KEPT, KEPT_WARNING = 0.5, 0.9
# Letters per word of a text without blanks. A word has 1.7 on average in Chinese and Japanese and 4 in Thai, so more
# than this are whole phrases, which hardly occur twice.
MAX_IDEOGRAPHS, MAX_LETTERS = 3.0, 7.0
MIN_WORDS = 2.0  # words per caption: fewer from ptb or unicode mean that a text without blanks was not split at all
MAX_UNSPLIT, UNSPLIT_WARNING = 0.5, 0.01  # share of captions; above half, most captions teach nothing
# Share of the words in train captions that are unknown. English has 1% to 4%, German 8% (compounds). Above half, a
# decoder, which never writes <unk>, cannot write most of any caption.
MAX_UNKNOWN, UNKNOWN_WARNING = 0.5, 0.15
# Share of train captions that are cut. A cut caption does not teach where captions end.
MAX_CUT, CUT_WARNING = 0.5, 0.05

_LETTER = regex.compile(r"[\p{L}\p{N}]")


def check_words(captions: Sequence[str], tokens: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[str]:
    """Check the tokens of all captions, the empty ones too. Raises UserError if text.tokenizer does not fit them."""
    step = -(-len(captions) // MAX_CAPTIONS) or 1
    captions, tokens = captions[::step], tokens[::step]
    setting = f"text.tokenizer={tokenizer.name}"
    scripts = script_shares(captions)
    named = ", ".join(f"{script} {share:.1%}" for script, share in list(scripts.items())[:4] if share >= 0.001)
    warnings = _check_split(captions, tokens, tokenizer, named)
    if tokenizer.name == "ptb" and not warnings and scripts and scripts.get("Latin", 0.0) < 0.5:
        warnings = [f"{setting} is for English, but the scripts are {named}; unicode is for languages with blanks"]
    kept, letters = _letters(" ".join(words) for words in tokens), _letters(captions)
    share = min(1.0, kept / letters) if letters else 1.0
    lost = f"{setting}: only {share:.0%} of the letters in the captions became words; use a tokenizer for this language"
    if share < MIN_KEPT:
        raise UserError(f"{lost}, such as unicode or characters")
    if share < KEPT_WARNING:
        warnings.append(lost)
    lengths = np.array([len(words) for words in tokens] or [0])
    words = f"words per caption: {lengths.mean():.1f} on average, 95% have at most {_most(lengths)}"
    return [f"{words}; {share:.1%} of the letters became words; scripts: {named or 'none'}", *map(_warning, warnings)]


def check_vocabulary(
    train: Sequence[Sequence[str]], vocabulary: Vocabulary, min_count: int, max_length: int
) -> list[str]:
    """Check the vocabulary and the length limit against the tokens of the train captions. Raises UserError."""
    setting = f"vocabulary.min_count={min_count}"
    if not vocabulary.num_words:
        problem = f"no word occurs that often in the {len(train)} train captions, so the vocabulary is empty"
        raise UserError(f"{setting}: {problem}; lower it (1 keeps every word) or use more captions")
    warnings, known = [], set(vocabulary.words[len(SPECIALS) :])
    unknown = sum(word not in known for words in train for word in words) / max(1, sum(map(len, train)))
    rare = f"{setting}: {unknown:.0%} of the words in the train captions are rarer, and the decoder cannot write them"
    if unknown > MAX_UNKNOWN:
        raise UserError(f"{rare}; lower it (1 keeps every word) or use more captions")
    if unknown > UNKNOWN_WARNING:
        warnings.append(f"{rare}; consider a lower one")
    lengths = np.array([len(words) for words in train])
    limit, longer = f"vocabulary.max_length={max_length}", float((lengths > max_length).mean())
    cut = f"{limit}: {longer:.0%} of the train captions are longer and are cut, so they do not teach where captions end"
    if longer > MAX_CUT:
        raise UserError(f"{cut}; raise it (95% of the captions have at most {_most(lengths)} words)")
    if longer > CUT_WARNING:
        warnings.append(f"{cut}; 95% have at most {_most(lengths)} words")
    line = f"{unknown:.1%} of the words are unknown ({setting}); {longer:.1%} of the captions are cut ({limit})"
    return [f"train captions: {line}", *map(_warning, warnings)]


def _check_split(
    captions: Sequence[str], tokens: Sequence[Sequence[str]], tokenizer: Tokenizer, named: str
) -> list[str]:
    """Check that texts without blanks were split into words; raise UserError if most captions were not."""
    if tokenizer.name == "characters":
        return []
    pairs = [pair for pair in zip(captions, tokens, strict=True) if pair[1] and _mostly_without_blanks(pair[0])]
    if not pairs:
        return []
    words = [word for _, own in pairs for word in own if no_blanks.search(word)]
    letters = "".join(words)
    limit = MAX_IDEOGRAPHS if 2 * len(is_ideographic.findall(letters)) > len(_LETTER.findall(letters)) else MAX_LETTERS
    per_word, per_caption = _letters(words) / max(1, len(words)), sum(len(own) for _, own in pairs) / len(pairs)
    too_few = per_caption < MIN_WORDS and tokenizer.name in ("ptb", "unicode")
    share = len(pairs) / len(captions)
    if (per_word <= limit and not too_few) or share < UNSPLIT_WARNING:
        return []
    example = min((text for text, _ in pairs), key=len)[:30]
    problem = (
        f"text.tokenizer={tokenizer.name}: {share:.0%} of the captions have no blanks between words and became "
        f"{per_caption:.1f} words each, such as {example!r} ({named})"
    )
    fix = "use characters, or a word segmenter as module:function, such as jieba:lcut for Chinese"
    if share > MAX_UNSPLIT:
        raise UserError(f"{problem}; {fix}")
    return [f"{problem}; {fix}"]


def _mostly_without_blanks(text: str) -> bool:
    return not text.isascii() and 2 * len(no_blanks.findall(text)) > len(_LETTER.findall(text))


def _letters(texts: Iterable[str]) -> int:
    """Return the number of letters and digits."""
    return sum(len(_LETTER.findall(text)) for text in texts)


def _most(lengths: np.ndarray) -> int:
    """Return the 95th percentile of the lengths."""
    return int(np.quantile(lengths, 0.95, method="higher"))


def _warning(text: str) -> str:
    return f"warning: {text}"
