"""Check the tokens and the vocabulary before training.

Each check returns lines to print. If training would be useless, it raises a UserError that names the param.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import regex

from lib.core.errors import UserError
from lib.text.scripts import is_ideographic, no_blanks, script_shares
from lib.text.tokenizer import Tokenizer
from lib.text.vocabulary import SPECIALS, Vocabulary

# Maximum number of captions that `check_words` examines, evenly spaced. With so large a sample, the error of a share is
# below 0.01.
MAX_CAPTIONS = 20_000

# Each pair of shares below has the limit for an error and the limit for a warning.
# Share of the letters that the tokenizer keeps in tokens. A suitable tokenizer keeps all letters.
MIN_KEPT, KEPT_WARNING = 0.5, 0.9
# Maximum letters per word in a text without blanks, for ideographic and for other scripts. On average, a word has 1.7
# letters in Chinese and Japanese, and 4 in Thai. Longer "words" are phrases that were not split.
MAX_IDEOGRAPHS, MAX_LETTERS = 3.0, 7.0
# Words per caption. If `ptb` or `unicode` find fewer words in a text without blanks, they did not split it at all.
MIN_WORDS = 2.0
MAX_UNSPLIT, UNSPLIT_WARNING = 0.5, 0.01  # share of captions that were not split into words
# Share of unknown words in the train captions. English has 1% to 4%. German has 8%, because of its compounds. The
# decoder never writes <unk>, so it cannot write unknown words.
MAX_UNKNOWN, UNKNOWN_WARNING = 0.5, 0.15
# Share of truncated train captions. The model does not learn from them where captions end.
MAX_CUT, CUT_WARNING = 0.5, 0.05

_LETTER = regex.compile(r"[\p{L}\p{N}]")


def check_words(captions: Sequence[str], tokens: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[str]:
    """Check the tokens of all captions, including empty ones. Raises UserError if text.tokenizer does not fit them."""
    step = -(-len(captions) // MAX_CAPTIONS) or 1
    captions, tokens = captions[::step], tokens[::step]
    setting = f"text.tokenizer={tokenizer.name}"
    scripts = script_shares(captions)
    named = ", ".join(f"{script} {share:.1%}" for script, share in list(scripts.items())[:4] if share >= 0.001)
    warnings = _check_split(captions, tokens, tokenizer, named)
    if tokenizer.name == "ptb" and not warnings and scripts and scripts.get("Latin", 0.0) < 0.5:
        fix = "use unicode for languages with blanks between words"
        warnings = [f"{setting} is for English, but the scripts are {named}; {fix}"]
    kept, letters = _letters(" ".join(words) for words in tokens), _letters(captions)
    share = min(1.0, kept / letters) if letters else 1.0
    lost = f"{setting} keeps only {share:.0%} of the letters in the captions; use a tokenizer for this language"
    if share < MIN_KEPT:
        raise UserError(f"{lost}, such as unicode or characters")
    if share < KEPT_WARNING:
        warnings.append(lost)
    lengths = np.array([len(words) for words in tokens] or [0])
    words = f"words per caption: {lengths.mean():.1f} on average, 95% have at most {_most(lengths)}"
    kept_share = f"{share:.1%} of the letters are kept in words"
    return [f"{words}; {kept_share}; scripts: {named or 'none'}", *map(_warning, warnings)]


def check_vocabulary(
    train: Sequence[Sequence[str]], vocabulary: Vocabulary, min_count: int, max_length: int
) -> list[str]:
    """Check the vocabulary and the length limit against the tokens of the train captions. Raises UserError."""
    setting = f"vocabulary.min_count={min_count}"
    if not vocabulary.num_words:
        problem = f"no word occurs {min_count} times in the {len(train)} train captions, so the vocabulary is empty"
        raise UserError(f"{setting}: {problem}. Lower this param (1 keeps every word), or use more captions.")
    warnings, known = [], set(vocabulary.words[len(SPECIALS) :])
    unknown = sum(word not in known for words in train for word in words) / max(1, sum(map(len, train)))
    rare = f"{setting}: {unknown:.0%} of the words in the train captions are rarer, so the decoder cannot write them"
    if unknown > MAX_UNKNOWN:
        raise UserError(f"{rare}. Lower this param (1 keeps every word), or use more captions.")
    if unknown > UNKNOWN_WARNING:
        warnings.append(f"{rare}; consider a lower value")
    lengths = np.array([len(words) for words in train])
    limit, longer = f"vocabulary.max_length={max_length}", float((lengths > max_length).mean())
    cut = f"{limit}: {longer:.0%} of the train captions are longer and are cut, so the model does not learn their end"
    if longer > MAX_CUT:
        raise UserError(f"{cut}. Raise this param (95% of the captions have at most {_most(lengths)} words).")
    if longer > CUT_WARNING:
        warnings.append(f"{cut}; 95% have at most {_most(lengths)} words")
    line = f"{unknown:.1%} of the words are unknown ({setting}); {longer:.1%} of the captions are cut ({limit})"
    return [f"train captions: {line}", *map(_warning, warnings)]


def _check_split(
    captions: Sequence[str], tokens: Sequence[Sequence[str]], tokenizer: Tokenizer, named: str
) -> list[str]:
    """Check that texts without blanks were split into words. Raises UserError if most captions were not split."""
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
