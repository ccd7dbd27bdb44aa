"""Image ids of any kind: whole numbers, text or other numbers."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from lib.core.errors import UserError

ImageId = int | str


def parse_id(value: Any, where: str) -> ImageId:
    """Return an id as an int (64 bits) or as text: 42.0 becomes 42, "007" stays. Raises UserError; it names `where`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        raise UserError(f"{where}: an image id must be a number or text; got {reprlib.repr(value)}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where}: an image id must be a number or text; got {value}")
        value = int(value) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str_id(value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: the image id {reprlib.repr(value)} is not valid Unicode; correct it") from error
    return value


def str_id(value: ImageId) -> str:
    # Python limits the digits of str(int); such an id is nobody's.
    return value if isinstance(value, str) else f"{value:d}" if value.bit_length() < 13_000 else hex(value)


def from_text(values: Sequence[str]) -> list[ImageId]:
    """Return the ids of a text file, which has no types: whole numbers if all are, without leading zeros; else text."""
    if all(len(value) < 20 and value.lstrip("-").isdecimal() and _is_canonical(value) for value in values):
        return [int(value) for value in values]
    return list(values)


def _is_canonical(value: str) -> bool:
    return value.isascii() and str(int(value)) == value and -(2**63) <= int(value) < 2**63
