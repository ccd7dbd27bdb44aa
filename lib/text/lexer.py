"""Split English text into Penn Treebank tokens, as Stanford's PTBTokenizer does.

The rules were derived from the output of this tokenizer, not from its code: CoreNLP 3.4.1, which coco-caption uses, on
a few hundred thousand texts. At each position, the first rule that matches gives the token, so rules for longer tokens
come first. Characters that no rule matches, such as blanks and emoji, are skipped.
"""

import regex

# Abbreviations keep their full stop. CAPITALISED ones keep it only if they are capitalised, because "ill." ends a
# sentence. _NUMBERED ones keep it only before a number.
ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr
    co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov
    govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme mo
    mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep reps rev rt sen sens
    sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs tue tues univ va vs vt wed wis wisc wm wyo
"""
CAPITALISED = " Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_NUMBERED = "art ca fig figs no nos op pp prop"
SPLIT_WORDS = "cannot gimme gonna gotta lemme wanna"
# A full stop after a single letter ends a sentence before one of these words ("vitamin C. The dog"). Before other words
# it is part of the token ("John Q. Public").
_SENTENCE_STARTS = r"""
    A About According Additionally After An As At But He Her Here However If In It Last Many More Mr\. Ms\. Now Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
"""


def _any(words: str) -> str:
    return rf"(?:{'|'.join(words.split())})"


_APOSTROPHE = "['’]"
_QUOTE = "['’`‘‛]"  # between letters, each of these is an apostrophe
_LETTER, _WORD = r"[\p{L}\p{M}]", r"[\p{L}\p{M}\p{Nd}]"  # a letter or accent; a letter, accent or digit
_END = r"(?![\p{L}\p{Nd}])"  # the end of a word
_SHORT = "(?i:s|m|d|ll|re|ve)"
_CLITIC = rf"(?:’{_SHORT}|'{_SHORT}(?!{_LETTER}))"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+\."
_ELIDED = rf"[dDoOlL]{_QUOTE}{_LETTER}{{2,}}"  # o'neil
_LINK = r"""[^\s"<>|()]+[^\s"<>|.!?(){},;:'-]"""  # the rest of a URL, without punctuation at its end
_STOP = r"(?:\.(?=[,;:]))?"  # a full stop before a comma, semicolon or colon is part of the word

_RULES = [
    # Most words: letters before a blank.
    rf"(?!(?i:{_any(SPLIT_WORDS)})\b)[A-Za-z]+(?=[ ])",
    # -lrb-   (a bracket that is already replaced by its Treebank name)
    r"-(?i:[lr][rsc]b)-",
    # <br/>   :-)   ^_^
    r"""</?[A-Za-z][\w:.-]*(?:\s+[A-Za-z][\w:.-]*(?:="[^"]*"|='[^']*')?)*\s*/?>""",
    rf"[<>]?[:;=]['o*-]?[()DPdpO\\{{@|\[\]]{_END}",
    r"[-^x=~<>']_[-^x=~<>']",
    # http://...   www.site.com/...   site.com/page   name@site   @name   #topic
    rf"(?i:https?)://{_LINK}",
    rf"""www\.(?:[^\s`"<>|.!?,]+\.)+[A-Za-z]{{2,4}}(?:/{_LINK})?""",
    rf"(?:[a-z]+\.)+(?:com|net|org|edu)/{_LINK}",
    r"""<?[A-Za-z0-9][^\s"<>|(){}]*@(?:[^\s"<>|(){}.]+\.)*[^\s"<>|(){}.]+>?""",
    r"@[A-Za-z_][A-Za-z0-9_]*|\#\p{L}+",
    # (555) 555-1234   1 1/2   &amp;
    r"(?:\(\d{2,3}\)[ ]?|(?:\d{2,4}[ -])?\d{2,4}[ -])\d{3,4}[ -]?\d{3,5}",
    r"\d{1,4}[ -]\d{1,4}[/⁄]\d{1,4}|\d{1,4}⁄\d{1,4}",
    r"&(?:(?i:amp|lt|gt|quot|apos|nbsp)|[mn]dash|\#\d+);",
    # and/or   x-ray, u.s.-led, jack-o'lantern, 1,000-foot
    rf"[A-Za-z0-9]+(?:-[A-Za-z]+){{0,2}}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){{0,2}}){{1,2}}{_STOP}",
    rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{_INITIALS}(?!{_LETTER})|{_ELIDED}|[A-Za-z0-9]+))+(?!_?{_WORD}){_STOP}",
    # can|not   is|n't
    rf"(?i:can(?=not{_END})|gim(?=me{_END})|gon(?=na{_END})|got(?=ta{_END})|lem(?=me{_END})|wan(?=na{_END}))"
    rf"(?![a-z]+{_CLITIC})",
    rf"(?i:[a-z]*?[a-mo-z](?=n['’`]t)|n['’`]t(?!{_LETTER}))",
    # o'clock   o'neil, O'o   ho'ohu   d'ye   y'|all
    rf"(?i:(?:ol|dunkin|somethin){_APOSTROPHE}|o['’](?:clock|o)|cap['’]n|c['’]est|cont['’]d\."
    r"|c'mon|e'er|ev'ry|li'l|nat'l|nor'easter|s'mores)",
    rf"{_ELIDED}|[A-HJ-XZn]{_QUOTE}{_LETTER}{{2,}}",
    rf"{_LETTER}+[aeiouyAEIOUY](?!{_CLITIC}){_QUOTE}[aeiouA-Z]{_LETTER}*",
    rf"(?i:d{_APOSTROPHE}ye)|[dDjJlLyY]{_APOSTROPHE}(?={_LETTER})(?!{_SHORT})",
    # R&B   C++   US$
    r"[A-Z]+(?:(?:[&+]|&amp;)[A-Z]+)+|[cC]\+\+|[cCfF]\#|[A-Z]*\$",
    # p.m.   mr.   Ill.   no. 5   Q. public
    rf"{_INITIALS}(?!{_LETTER})",
    rf"(?i:{_any(ABBREVIATIONS)}|(?:ed|ph)\.d)\.(?!{_LETTER})",
    rf"{_any(CAPITALISED + CAPITALISED.upper())}\.(?!{_LETTER})",
    rf"(?i:{_any(_NUMBERED)})\.(?=\s\d)",
    rf"[A-Za-z]\.(?!{_LETTER}|\s*$|\s{_any(_SENTENCE_STARTS + _SENTENCE_STARTS.upper())}{_END})",
    # dog.dog   2.5, 5:30, 1,000   dog, dog_2, déjà-vu   -5
    rf"{_LETTER}{_WORD}*(?:[.!?]{_LETTER}{_WORD}*)+{_STOP}",
    rf"(?<!\.\.)[-+]?\d*(?:[.:,]\d+)+{_STOP}",
    rf"{_WORD}+(?:[-_‐‑]{_WORD}+)*{_STOP}",
    rf"-{{2,}}|[-+]\d+{_STOP}",
    # 't|is   's   'n'   '90s
    rf"{_CLITIC}|(?i:'t(?=is|was)|’n’?|'n'|'n(?=\s|$)|{_APOSTROPHE}(?:em|cause|till?|[2-9]0s|\d\d(?=\s|$)))",
    # Brackets and symbols, some in runs. Quotation marks and all other symbols are skipped.
    r"[?!]+|_+|\*+|\#+|@+|<<|>>|\\\*|[%&+/=\\^|~<>()\[\]{}]",
    r"[€£¢¤₠½¼¾⅓⅔]|[¡¥§-©¬®-´¶-¹¿×÷‖‗‚„-•′-‸※‾-⁂⁄⁰-₎₤℀-⅏⅕-⅞←-⯿、。〒・！-／：-＠［-｀｛-･￠￡￥￦]",
]
_TOKEN = regex.compile("|".join(f"(?:{rule})" for rule in _RULES))

# Characters to replace or delete before matching, as in Stanford's tokenizer: quotation marks and dashes of
# Windows-1252, and invisible characters.
_REPLACED_CHARACTERS = str.maketrans("\x80\x91\x92\x93\x94\x96\x97\u200b", "€‘’“”–— ", "\u00ad\ufe0f")
# Variants of clitics, character entities and dashes, and the token that replaces them.
_REPLACED_TOKENS = {
    "’s": "'s", "’m": "'m", "’d": "'d", "’ll": "'ll", "’re": "'re", "’ve": "'ve", "n’t": "n't",
    "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "", "&mdash;": "--", "&ndash;": "--",
    "---": "--", "----": "--",
}  # fmt: skip
# The Treebank's names of brackets, currencies and fractions. Brackets have names, because "(" delimits Treebank trees.
_TREEBANK_NAMES = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "¤": "$", "₠": "$", "£": "#", "¢": "cents",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip


def lex(text: str, *, treebank_names: bool = True) -> list[str]:
    """Return the lower-case tokens of `text`, with punctuation, without quotation marks.

    If `treebank_names` is true, "(" becomes "-lrb-" and "€" becomes "$", as in Stanford's tokenizer. Otherwise they
    stay. A token that contains a blank ("1 1/2") becomes two tokens, because coco-caption joins the tokens by blanks
    and splits them again.
    """
    words = " ".join(text.translate(_REPLACED_CHARACTERS).split())
    matches = (token.lower().replace("&amp;", "&") for token in _TOKEN.findall(words))
    tokens = (_REPLACED_TOKENS.get(token, token) for token in matches)
    if treebank_names:
        named = (_TREEBANK_NAMES.get(token, token) for token in tokens)
        tokens = (token.replace("(", "-lrb-").replace(")", "-rrb-") for token in named)
    return " ".join(tokens).split()
