"""JSON annotation files, read with checks: every error names the file, the place in it and the value."""

import json
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.errors import UserError, readable_errors

_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a pair


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises UserError."""
    with readable_errors(path):
        content = path.read_bytes()
    return parse_json(content, path)


def parse_json(content: bytes, source: Path) -> Any:
    """Return the value of JSON text in UTF-8 (or UTF-16 or UTF-32). Raises UserError, which names `source`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("; use sys.")[0]  # Python appends advice for programmers
        raise UserError(f"{source} is not JSON in UTF-8 or is incomplete: {reason}") from error


@dataclass(slots=True)
class JsonRecord:
    """A JSON value and its place in the file, such as "a.json is not a Karpathy JSON: images[3]".

    The methods return the value of a key. They raise UserError if the key is missing or has another type.
    """

    value: Any
    place: str

    def rows(self, key: str) -> Iterator["JsonRecord"]:
        """Yield the elements of a list."""
        rows = self._get(key)
        if not isinstance(rows, list):
            raise self.error(f"{key!r} is {reprlib.repr(rows)}, should be a list")
        prefix = f"{self.place}: {key}"
        for i, row in enumerate(rows):
            yield JsonRecord(row, f"{prefix}[{i}]")

    def integer(self, key: str) -> int:
        """Return an integer of 64 bits, which may be written as a string of digits."""
        value = self._get(key)
        if isinstance(value, str) and value.isdecimal() and len(value) < 20:
            value = int(value)
        if type(value) is not int or not -(2**63) <= value < 2**63:  # isinstance(True, int) holds
            raise self.error(f"{key!r} is {reprlib.repr(value)}, should be an integer of 64 bits")
        return value

    def text(self, key: str) -> str:
        """Return a string that UTF-8 can encode."""
        value = self._get(key)
        if not isinstance(value, str):
            raise self.error(f"{key!r} is {reprlib.repr(value)}, should be a string")
        if _SURROGATE.search(value):
            raise self.error(f"{key!r} is {reprlib.repr(value)}, which contains half of a surrogate pair")
        return value

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.place}: {problem}")

    def _get(self, key: str) -> Any:
        if not isinstance(self.value, dict):
            raise self.error(f"{reprlib.repr(self.value)} is not an object")
        if key not in self.value:
            raise self.error(f"it lacks {key!r}")
        return self.value[key]
