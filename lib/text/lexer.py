"""Cuts English text where Stanford's PTBTokenizer does, into the tokens of the Penn Treebank.

Written from what that tokenizer (of CoreNLP 3.4.1, the one in coco-caption) makes of some hundred thousand texts, not
from its code. At each place the first rule that matches gives the token, so rules for longer tokens stand earlier. What
no rule matches, such as a blank or an emoji, is of no token.
"""

import regex

# Abbreviations keep their stop: some only as "Ill." or "ILL.", since "ill." ends a sentence, some only before a number.
ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr
    co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov
    govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme mo
    mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep reps rev rt sen sens
    sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs tue tues univ va vs vt wed wis wisc wm wyo
"""
CAPITALISED = " Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_NUMBERED = "art ca fig figs no nos op pp prop"
TAKEN_APART = "cannot gimme gonna gotta lemme wanna"
# Before these, the stop of a single letter ends the sentence: "vitamin C. The dog", but "John Q. Public".
_STARTERS = r"""
    A About According Additionally After An As At But He Her Here However If In It Last Many More Mr\. Ms\. Now Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
"""


def _any(words: str) -> str:
    return rf"(?:{'|'.join(words.split())})"


_APOSTROPHE = "['’]"
_QUOTE = "['’`‘‛]"  # what is taken for an apostrophe between letters
_LETTER, _WORD = r"[\p{L}\p{M}]", r"[\p{L}\p{M}\p{Nd}]"  # with the accents, and with the digits
_END = r"(?![\p{L}\p{Nd}])"  # of a word
_SHORT = "(?i:s|m|d|ll|re|ve)"
_CLITIC = rf"(?:’{_SHORT}|'{_SHORT}(?!{_LETTER}))"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+\."
_ELIDED = rf"[dDoOlL]{_QUOTE}{_LETTER}{{2,}}"  # o'neil
_LINK = r"""[^\s"<>|()]+[^\s"<>|.!?(){},;:'-]"""  # what follows in one: a stop or a bracket at the end is not its own
_STOP = r"(?:\.(?=[,;:]))?"  # a stop before other punctuation stays with the word, whatever the word is

_RULES = [
    # Most words: letters, and a blank behind them.
    rf"(?!(?i:{_any(TAKEN_APART)})\b)[A-Za-z]+(?=[ ])",
    # -lrb-: a bracket that was written by name before
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
    rf"[A-Za-z]\.(?!{_LETTER}|\s*$|\s{_any(_STARTERS + _STARTERS.upper())}{_END})",
    # dog.dog   2.5, 5:30, 1,000   dog, dog_2, déjà-vu   -5
    rf"{_LETTER}{_WORD}*(?:[.!?]{_LETTER}{_WORD}*)+{_STOP}",
    rf"(?<!\.\.)[-+]?\d*(?:[.:,]\d+)+{_STOP}",
    rf"{_WORD}+(?:[-_‐‑]{_WORD}+)*{_STOP}",
    rf"-{{2,}}|[-+]\d+{_STOP}",
    # 't|is   's   'n'   '90s
    rf"{_CLITIC}|(?i:'t(?=is|was)|’n’?|'n'|'n(?=\s|$)|{_APOSTROPHE}(?:em|cause|till?|[2-9]0s|\d\d(?=\s|$)))",
    # What is left: brackets and symbols, some in runs. Quotation marks are dropped, and so are other symbols.
    r"[?!]+|_+|\*+|\#+|@+|<<|>>|\\\*|[%&+/=\\^|~<>()\[\]{}]",
    r"[€£¢¤₠½¼¾⅓⅔]|[¡¥§-©¬®-´¶-¹¿×÷‖‗‚„-•′-‸※‾-⁂⁄⁰-₎₤℀-⅏⅕-⅞←-⯿、。〒・！-／：-＠［-｀｛-･￠￡￥￦]",
]
_TOKEN = regex.compile("|".join(f"(?:{rule})" for rule in _RULES))

# What the yardstick reads and writes in place of another: Windows' quotation marks and dashes, invisible characters;
# brackets by name, since those of the Treebank stand for its trees; currencies, fractions, clitics and dashes alike.
_READ_AS = str.maketrans("\x80\x91\x92\x93\x94\x96\x97\u200b", "€‘’“”–— ", "\u00ad\ufe0f")
_WRITTEN_AS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "¤": "$", "₠": "$", "£": "#", "¢": "cents",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
    "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "", "&mdash;": "--", "&ndash;": "--",
    "’s": "'s", "’m": "'m", "’d": "'d", "’ll": "'ll", "’re": "'re", "’ve": "'ve", "n’t": "n't",
    "---": "--", "----": "--",
}  # fmt: skip


def lex(text: str) -> list[str]:
    """The lower-case tokens of `text`, punctuation among them, without quotation marks.

    coco-caption joins tokens by blanks and splits them again, so one with a blank in it ("1 1/2") is two.
    """
    words = " ".join(text.translate(_READ_AS).split())
    tokens = (token.lower().replace("&amp;", "&") for token in _TOKEN.findall(words))
    written = (_WRITTEN_AS.get(token, token).replace("(", "-lrb-").replace(")", "-rrb-") for token in tokens)
    return " ".join(written).split()
