"""Wild inputs, few of each in `make test`; as many as FUZZ says in `make fuzz`. And what every parser owes its user."""

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from lib.core.errors import UserError

TRIED: Counter[str] = Counter()  # inputs, by parser
_EXAMPLES = int(os.environ.get("FUZZ", "30"))


def fuzz(parser: str, **strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """As hypothesis's `given`, for a test of `parser`, and counts its inputs."""

    def decorate(test: Callable) -> Callable:
        @settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(**strategies)
        @functools.wraps(test)
        def counted(**arguments: Any) -> None:
            TRIED[parser] += 1
            test(**arguments)

        return counted

    return decorate


def told(parse: Callable[[], Any], *names: object) -> Any:
    """What `parse` returns; None where it raises a UserError, which must be one line, with all `names` in it."""
    try:
        return parse()
    except UserError as error:
        text = str(error)
    assert [name for name in names if str(name) not in text] == [], text
    assert len(text.splitlines()) == 1, text
    assert len(text) < 3000, text
    return None


def damaged(*wholes: bytes) -> st.SearchStrategy[bytes]:
    """One of `wholes` with a few bits flipped, bytes overwritten, cut off or doubled; or as it is."""

    @st.composite
    def spoil(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(wholes)))
        for _ in range(draw(st.integers(0, 4))):
            place = draw(st.one_of(st.integers(0, 100), st.integers(0, len(content)))) if content else 0
            match draw(st.sampled_from(["flip", "write", "cut", "double"])):
                case "flip" if place < len(content):
                    content[place] ^= 1 << draw(st.integers(0, 7))
                case "write":
                    written = draw(st.binary(max_size=8))
                    content[place : place + len(written)] = written
                case "cut":
                    del content[place : place + draw(st.integers(1, len(content) + 1))]
                case "double":
                    content[place:place] = content[place : place + 50]
        return bytes(content)

    return spoil()


_NUMBERS = st.one_of(st.integers(), st.sampled_from([2**31, 2**63, -(2**63), 10**400]), st.floats())
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=[])),  # halves of characters too
    st.sampled_from(
        ["", " ", "\0", "\ud800", "é", "😀", "كلب", "a.jpg", "train", "test", "1", "²", "-1", "x" * 10_000]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def altered(content: Any) -> st.SearchStrategy[Any]:
    """JSON with a few of its values, at any depth, replaced by wild ones, left out, or given twice."""

    @st.composite
    def alter(draw: st.DrawFn) -> Any:
        made = json.loads(json.dumps(content))
        for _ in range(draw(st.integers(0, 4))):
            holder = draw(st.sampled_from([each for each in _within(made) if each] or [[None]]))
            key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
            match draw(st.sampled_from(["replace", "replace", "leave out", "twice"])):
                case "replace":
                    holder[key] = draw(VALUES)
                case "leave out":
                    del holder[key]
                case "twice" if isinstance(holder, list):
                    holder.append(holder[key])
        return made

    return st.one_of(alter(), VALUES)


def _within(value: Any) -> list[Any]:
    """The lists and objects in JSON, itself included."""
    if not isinstance(value, list | dict):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(each for part in inner for each in _within(part))]
