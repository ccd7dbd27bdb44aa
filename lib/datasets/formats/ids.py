"""Image ids of any kind: whole numbers, text or other numbers."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from lib.core.errors import UserError

ImageId = int | str


def parse_id(value: Any, where: str) -> ImageId:
    """Return an id as an int (64 bits) or as text: 42.0 becomes 42, "007" stays.

    Raises UserError. Error messages contain `where`.
    """
    is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not (is_finite or (isinstance(value, str) and value)):
        raise UserError(f"{where}: an image id must be text or a finite number; got {reprlib.repr(value)}. Correct it.")
    if isinstance(value, float):
        value = int(value) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str_id(value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: the image id {reprlib.repr(value)} is not valid Unicode. Correct it.") from error
    return value


def str_id(value: ImageId) -> str:
    # Python limits the digits of str(int), so write a longer id in hexadecimal.
    return value if isinstance(value, str) else f"{value:d}" if value.bit_length() < 13_000 else hex(value)


def from_text(values: Sequence[str]) -> list[ImageId]:
    """Return ids from a text file, which has no types.

    If all are integers without leading zeros, return integers. Otherwise return text.
    """
    if all(len(value) < 20 and value.lstrip("-").isdecimal() and _is_canonical(value) for value in values):
        return [int(value) for value in values]
    return list(values)


def _is_canonical(value: str) -> bool:
    return value.isascii() and str(int(value)) == value and -(2**63) <= int(value) < 2**63
