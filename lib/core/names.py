"""Find the existing file name that another name means, although its folders, case or spelling differ.

The names come from annotations, from the keys of ready features, or from results.

A name that exists as it is wins. Otherwise both names are brought to one form (separators, blanks at the ends, URL
quoting and query, case, Unicode) and compared from the end. A match must be unique, and the folders must agree:

- one name is the end of the other: images/a.jpg and a.jpg; dogs/1.jpg and top/dogs/1.jpg;
- or the wanted name is absolute or a URL, its last folders agree, one of them is more than a usual name such as
  `images`, and the rest is the same prefix for all names: /home/me/dogs/1.jpg and top/dogs/1.jpg.

So camera_a/1.jpg never means camera_b/1.jpg.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

IMAGE_NAME = re.compile(r"(?i)\.(jpe?g|jfif|png|gif|bmp|webp|tiff?|avif|hei[cf]|jp2|jpe)([?#].*)?\s*$")
_URL = re.compile(r"(?i)^[a-z][a-z0-9+.-]+://[^/]*")
_ABSOLUTE = re.compile(r"(?i)^\s*([a-z][a-z0-9+.-]+://|[a-z]:[\\/]|[\\/~])")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the name of an uploaded file
_USUAL = {
    "images", "image", "imgs", "img", "pictures", "pics", "photos", "data", "dataset", "files", "media", "uploads",
}  # fmt: skip
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "restval", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MAX_COMPARED = 20_000  # names that are searched for the nearest one
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """The name that exists, or None and the reason: `missing` or `ambiguous`. `rule` says why an inexact name fits."""

    name: str | None
    rule: str = ""
    reason: str = ""


def split_word(value: Any) -> str | None:
    """Return the split (train, val or test) that `value` names, such as val for "dev". Return None if it names none."""
    return _SPLIT_WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def is_hidden(name: str) -> bool:
    """Return whether a path is a file of the system, such as .DS_Store or __MACOSX/._a.jpg."""
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def match_names(wanted: Sequence[str], existing: Sequence[str]) -> list[Match]:
    """Return the match of each wanted name. Two different wanted names never get one existing name inexactly."""
    exact = set(existing)
    if all(name in exact for name in wanted):
        return [Match(name) for name in wanted]
    candidates = [name for name in existing if not name.endswith("/") and not is_hidden(name)]
    by_file: dict[str, list[tuple[Parts, str]]] = defaultdict(list)
    by_stem: dict[str, list[tuple[Parts, str]]] = defaultdict(list)
    for name in candidates:
        if parts := split_path(_repair(name)):
            by_file[parts[-1]].append((parts, name))
            stem = parts[-1].rpartition(".")[0]
            by_stem[stem].append(((*parts[:-1], stem), name))
    matches = {name: Match(name) if name in exact else _tail_match(name, by_file, by_stem) for name in set(wanted)}
    matches = _check_prefixes(matches)
    inexact = any(match.rule for match in matches.values())
    # Two names that claim one file: both may be wrong.
    claims: dict[str, set[Parts]] = defaultdict(set)
    for name, match in matches.items():
        if match.name is not None and (match.rule or inexact):
            claims[match.name].add(split_path(name))
    for name, match in matches.items():
        if match.name is not None and match.rule and len(claims[match.name]) > 1:
            matches[name] = Match(None, reason="ambiguous")
    return [matches[name] for name in wanted]


def _repair(name: str) -> str:
    """Return a zip's name in UTF-8, which a zip of macOS does not declare, so that Python took it for code page 437."""
    try:
        return name if name.isascii() else name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def nearest(name: str, existing: Sequence[str]) -> str | None:
    """Return the existing name that looks most like `name`, or None if there is none."""
    parts = split_path(name) or ("",)
    candidates = [other for other in existing if not other.endswith("/") and not is_hidden(other)]
    same_file = [other for other in candidates if (split_path(other) or ("",))[-1] == parts[-1]]
    pool = {"/".join(split_path(other)): other for other in (same_file or candidates)[:_MAX_COMPARED]}
    close = difflib.get_close_matches("/".join(parts), list(pool), 1, cutoff=0.3)
    return pool[close[0]] if close else next(iter(candidates), None)


def split_path(name: str) -> Parts:
    """Return the parts of a path or URL in one form: lower case, NFC, without quoting, query, `.`, `..` and blanks."""
    text = name.strip()
    if "?d=" in text:  # Label Studio's local files
        text = text.partition("?d=")[2]
    is_url = _URL.match(text)
    text = _URL.sub("", text)
    head, mark, _ = text.partition("?")
    if mark and (is_url or IMAGE_NAME.search(head)):
        text = head
    if is_url:
        text = text.partition("#")[0]
    text = unquote(text)
    text = text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())
    parts: list[str] = []
    for part in map(str.strip, text.replace("\\", "/").split("/")):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return tuple(parts)


def _tail_match(
    name: str, by_file: dict[str, list[tuple[Parts, str]]], by_stem: dict[str, list[tuple[Parts, str]]]
) -> Match:
    parts = split_path(name)
    if not parts:
        return Match(None, reason="missing")
    rule, found = "name", by_file.get(parts[-1], [])
    if not found and (original := _UPLOAD_PREFIX.sub("", parts[-1])) != parts[-1]:
        rule, found, parts = "upload", by_file.get(original, []), (original,)
    if not found and not IMAGE_NAME.search(parts[-1]):
        rule, found = "extension", by_stem.get(parts[-1], [])
    fitting = defaultdict(list)  # existing names by length of the common tail and how the rest agrees
    for other, original in found:
        tail = _common_tail(parts, other)
        if tail == len(parts) or tail == len(other):
            fitting[tail, 1].append((other, original))
        elif _ABSOLUTE.match(name) and _agree(parts, other, tail):
            fitting[tail, 0].append((other, original))
    if not fitting:
        return Match(None, reason="missing")
    best = fitting[max(fitting)]
    if len({original for _, original in best}) > 1:
        same_form = [original for _, original in best if normalize("NFC", original) == normalize("NFC", name)]
        if len(same_form) != 1:
            return Match(None, reason="ambiguous")
        return Match(same_form[0], rule)
    other, original = best[0]
    tail, is_end = max(fitting)
    if is_end:
        return Match(original, rule)
    return Match(original, f"prefix:{'/'.join(parts[:-tail])}:{'/'.join(other[:-tail])}")


def _check_prefixes(matches: dict[str, Match]) -> dict[str, Match]:
    """Reject names whose prefixes differ on both sides, unless it is one prefix for all of them."""
    prefixes = {match.rule for match in matches.values() if match.rule.startswith("prefix:")}
    if len(prefixes) < 2:
        return matches
    return {n: Match(None, reason="missing") if m.rule in prefixes else m for n, m in matches.items()}


def _common_tail(a: Parts, b: Parts) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


def _agree(parts: Parts, other: Parts, tail: int) -> bool:
    """Return whether the folders of the common tail are enough to ignore that the folders before them differ."""
    own_names = [part for part in parts[-tail:-1] if part not in _USUAL and not split_word(part)]
    return bool(own_names) and not _are_siblings(parts[-tail - 1], other[-tail - 1])


def _are_siblings(a: str, b: str) -> bool:
    """Return whether two folders look like two of a series: train and test, site1 and site2, cam_a and cam_b."""
    if split_word(a) and split_word(b):
        return True
    series = [re.sub(r"([_ -]?[0-9]+|[_ -][a-z])$", "", part) for part in (a, b)]
    return series[0] == series[1]
