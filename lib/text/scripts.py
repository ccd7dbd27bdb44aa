"""Scripts: which letters a text has, and which scripts put no blanks between words."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

import regex

# A character class (version 1 of `regex`): letters and digits of the scripts that put no blanks between words. Korean
# has blanks; Tibetan has a dot after each syllable.
NO_BLANKS = (
    r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー〆〱-〵ｰﾞﾟ]&&[\p{L}\p{N}]]"
)
_IDEOGRAPHS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}]"
_LETTER = regex.compile(r"\p{L}")
# The first word of a Unicode name is the script of nearly every letter. These are the exceptions that captions have.
_NAMES = {
    "CJK": "Han", "IDEOGRAPHIC": "Han", "KATAKANA-HIRAGANA": "Katakana", "HALFWIDTH": "Katakana", "FULLWIDTH": "Latin",
    "FEMININE": "Latin", "MASCULINE": "Latin",
}  # fmt: skip

no_blanks = regex.compile(rf"(?V1){NO_BLANKS}")
is_ideographic = regex.compile(rf"(?V1){_IDEOGRAPHS}")


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of the letters of each script, such as {"Latin": 0.98, "Greek": 0.02}, the largest first."""
    letters = Counter(letter for text in texts for letter in _LETTER.findall(text))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        name = unicodedata.name(letter, "UNKNOWN").split()[0]
        scripts[_NAMES.get(name, name.capitalize())] += count
    total = scripts.total()
    return {script: count / total for script, count in sorted(scripts.items(), key=lambda item: (-item[1], item[0]))}
