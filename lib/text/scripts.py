"""Find the scripts (writing systems) of a text, and letters of scripts that have no blanks between words."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

import regex

# A character class in the VERSION1 syntax of the package `regex`: letters and digits of the scripts that have no blanks
# between words. Korean is not here, because it has blanks, nor Tibetan, because it has a dot after each syllable.
NO_BLANKS = (
    r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー〆〱-〵ｰﾞﾟ]&&[\p{L}\p{N}]]"
)
_IDEOGRAPHS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}]"
_LETTER = regex.compile(r"\p{L}")
# The first word of a letter's Unicode name is usually its script. These are the exceptions that occur in captions.
_NAMES = {
    "CJK": "Han", "IDEOGRAPHIC": "Han", "KATAKANA-HIRAGANA": "Katakana", "HALFWIDTH": "Katakana", "FULLWIDTH": "Latin",
    "FEMININE": "Latin", "MASCULINE": "Latin",
}  # fmt: skip

no_blanks = regex.compile(rf"(?V1){NO_BLANKS}")
is_ideographic = regex.compile(rf"(?V1){_IDEOGRAPHS}")


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """Return each script's share of all letters, the largest first, such as {"Latin": 0.98, "Greek": 0.02}."""
    letters = Counter(letter for text in texts for letter in _LETTER.findall(text))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        name = unicodedata.name(letter, "UNKNOWN").split()[0]
        scripts[_NAMES.get(name, name.capitalize())] += count
    total = scripts.total()
    return {script: count / total for script, count in sorted(scripts.items(), key=lambda item: (-item[1], item[0]))}
