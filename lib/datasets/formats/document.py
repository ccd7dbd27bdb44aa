"""An annotation file in memory, and what a reader returns."""

import gzip
import io
import itertools
import json
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.errors import UserError, readable_errors

MAX_BYTES = 2**31  # maximum size of an annotation file after decompression
_BOMS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8-sig"}
_BOMS |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class UnknownFormatError(UserError):
    """The format is unknown, or the file has no captions. In a folder, such a file is left out."""


@dataclass
class Annotations:
    """What a reader returns."""

    format: str  # for messages, such as "COCO captions JSON"
    images: pd.DataFrame  # image_id, file_name and, if the file has it, split (train, val or test)
    captions: pd.DataFrame  # image_id, caption
    notes: list[str] = field(default_factory=list)  # what was left out or not used: the count, why, an example


class Document:
    """The content of a file, decompressed if it is a .gz. Messages contain `path`."""

    def __init__(self, content: bytes, path: Path):
        self.path, self.content = path, content
        self.notes: list[str] = []
        if content[:2] == b"\x1f\x8b":
            with readable_errors(path), gzip.open(io.BytesIO(content)) as file:
                self.content = file.read(MAX_BYTES + 1)
        if len(self.content) > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES} bytes. Split it into several files.")

    @cached_property
    def is_parquet(self) -> bool:
        return self.content[:4] == b"PAR1" == self.content[-4:]

    @cached_property
    def json(self) -> Any:
        """The parsed content, or None for another format, including JSON Lines. Raises UserError for damaged JSON."""
        if self.is_parquet or not self._starts_as_json:
            return None
        with readable_errors(self.path):
            try:
                return json.loads(self.content)
            except json.JSONDecodeError:
                if self.json_lines is not None:
                    return None
                raise

    @property
    def _starts_as_json(self) -> bool:
        return self.content.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"{", b"[")

    @cached_property
    def json_lines(self) -> list[Any] | None:
        """The values of a file that has one JSON object per line, or None. Raises UserError for a damaged line."""
        lines = [(number, line) for number, line in enumerate(self.lines, 1) if line.strip()]
        if self.is_parquet or not lines or not _is_object(lines[0][1]):
            return None
        values = []
        for number, line in lines:
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{self.path}, line {number}: this line is not JSON ({error}). Correct it.") from error
        return values

    @cached_property
    def text(self) -> str:
        """The decoded content. Raises UserError."""
        text, encoding = _decode(self.content)
        if text is None:
            raise UserError(f"{self.path} is not text in UTF-8 or UTF-16. Save it as UTF-8.")
        if encoding == "cp1252":
            self.notes.append(
                "the file is not UTF-8 and was read as Windows-1252; save it as UTF-8 if accents are wrong"
            )
        return text

    @cached_property
    def lines(self) -> list[str]:
        # splitlines() would also split at characters that a caption may contain, such as U+2028.
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _decode(content: bytes) -> tuple[str | None, str]:
    for bom, encoding in _BOMS.items():
        if content.startswith(bom):
            return _try_decode(content, encoding), encoding
    if b"\0" in content[:2000]:  # UTF-16 without a mark: every second byte of Latin text is zero
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
        text = _try_decode(content, encoding)
        if text is not None and sum(character.isascii() for character in text[:1000]) > len(text[:1000]) / 2:
            return text, encoding
    if (text := _try_decode(content, "utf-8")) is not None:
        return text, "utf-8"
    return (_windows_1252(content), "cp1252")


def _try_decode(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _windows_1252(content: bytes) -> str | None:
    """Return the text if it is plausible Western European: single accented letters or punctuation among ASCII."""
    text = _try_decode(content, "cp1252")
    if text is None:
        return None
    other = [i for i, character in enumerate(text) if not character.isascii()]
    in_runs = sum(1 for i, j in itertools.pairwise(other) if j == i + 1)
    plausible = sum(unicodedata.category(text[i])[0] in "LP" or text[i] in "€£°\xa0" for i in other)
    is_plausible = plausible > 0.9 * len(other) and in_runs <= 0.1 * len(other) and len(other) < 0.2 * len(text)
    return text if is_plausible else None
