"""Malformed input for every parser: a few examples in `make test`, FUZZ examples in `make fuzz`."""

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings, strategies as st

from lib.core.errors import UserError


def fuzz(**strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """Decorate a test as hypothesis's `given` does, with FUZZ examples."""
    configure = settings(max_examples=int(os.environ.get("FUZZ", "30")), suppress_health_check=list(HealthCheck))
    return lambda test: configure(given(**strategies)(test))


def parse_or_reject(parse: Callable[[], Any], *names: object) -> Any:
    """Return what `parse` returns, or None if it raises a UserError, which must be one line that contains `names`."""
    try:
        return parse()
    except UserError as error:
        text = str(error)
    assert [name for name in names if str(name) not in text] == [], text
    assert len(text.splitlines()) == 1, text
    assert len(text) < 3000, text
    return None


def corrupted(*files: bytes) -> st.SearchStrategy[bytes]:
    """Draw one of `files`, with up to four edits: bits flipped, bytes overwritten, removed or repeated."""

    @st.composite
    def corrupt(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(files)))
        for _ in range(draw(st.integers(0, 4))):
            i = draw(st.one_of(st.integers(0, 100), st.integers(0, len(content))))
            match draw(st.sampled_from(["flip", "overwrite", "remove", "repeat"])):
                case "flip" if i < len(content):
                    content[i] ^= 1 << draw(st.integers(0, 7))
                case "overwrite":
                    new = draw(st.binary(max_size=8))
                    content[i : i + len(new)] = new
                case "remove":
                    del content[i : i + draw(st.integers(1, len(content) + 1))]
                case "repeat":
                    content[i:i] = content[i : i + 50]
        return bytes(content)

    return corrupt()


_NUMBERS = st.one_of(st.integers(), st.sampled_from([2**31, 2**63, -(2**63), 10**400]), st.floats())
_SPECIAL = ["", " ", "\0", "\ud800", "é", "😀", "كلب", "a.jpg", "train", "test", "1", "²", "-1", "x" * 10_000]
# Any characters, including halves of surrogate pairs.
TEXTS = st.one_of(st.text(st.characters(exclude_categories=[])), st.sampled_from(_SPECIAL))
ENCODED_TEXTS = TEXTS.map(lambda text: text.encode(errors="replace"))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def mutated(content: Any) -> st.SearchStrategy[Any]:
    """Draw `content` with up to four values, at any depth, replaced, removed or repeated; or any other JSON."""

    @st.composite
    def mutate(draw: st.DrawFn) -> Any:
        copy = json.loads(json.dumps(content))
        for _ in range(draw(st.integers(0, 4))):
            container = draw(st.sampled_from([part for part in _containers(copy) if part] or [[None]]))
            key = draw(st.sampled_from(list(container) if isinstance(container, dict) else range(len(container))))
            match draw(st.sampled_from(["replace", "replace", "remove", "repeat"])):
                case "replace":
                    container[key] = draw(VALUES)
                case "remove":
                    del container[key]
                case "repeat" if isinstance(container, list):
                    container.append(container[key])
        return copy

    return st.one_of(mutate(), VALUES)


def _containers(value: Any) -> list[Any]:
    """Return all lists and objects in a JSON value, including itself."""
    if not isinstance(value, list | dict):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(container for part in inner for container in _containers(part))]
