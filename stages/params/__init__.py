"""params.yaml as typed, validated objects: one module, with one class `Params`, for each section.

A stage reads the sections that it uses, and so depends on their modules alone; but the whole file is checked
every time, so that a slip in `generate` is found before the download and not after the training.
"""

import contextlib
import importlib
import math
import pkgutil
import reprlib
import unicodedata
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lib.core.errors import UserError, one_line

PARAMS_FILE = Path("params.yaml")


class Section(BaseModel):
    """A section of params.yaml. Unknown keys and wrong types are refused; an int will do for a float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, str_min_length=1)

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        """Refuses what YAML can write, but no seed or path can be."""
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("should be a whole number of 64 bits")
        if isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value):
            raise ValueError("should have no control characters")
        return value


AnySection = TypeVar("AnySection", bound=Section)


def read(section: type[AnySection], path: Path = PARAMS_FILE) -> AnySection:
    """The section that `section`, the class of one of this package's modules, describes.

    Raises UserError where anything in the file is wrong, naming each key, what it got and what is allowed.
    """
    content = _load(path)
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    unknown = [_shown(name) for name in content if name not in names]
    problems = [f"{name}: unknown section; there are {', '.join(names)}" for name in unknown]
    for name in names:
        if name not in content:
            problems.append(f"{name}: missing")
            continue
        # Imported by name, so that checking a section does not make every stage depend on it.
        checked: type[Section] = importlib.import_module(f"{__name__}.{name}").Params
        try:
            found = checked.model_validate(content[name])
        except ValidationError as error:
            problems += [_problem(name, detail) for detail in error.errors()]
        else:
            if checked is section:
                result = found
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return result  # type: ignore[return-value]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: run this at the top of the project") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    except Exception as error:  # beside YAMLError, wild text may raise almost anything
        raise UserError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no sections")
    return content


def _problem(section: str, error: Any) -> str:
    key = ".".join([section, *map(_shown, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if error["type"] == "missing":
        return f"{key}: missing"
    got = error["input"]
    hint = ""
    if isinstance(got, str) and error["type"] in ("float_type", "int_type"):
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(got)):
                meant = int(number) if error["type"] == "int_type" and number.is_integer() else number
                hint = f" (YAML reads {_shown(got)} as a text: write {yaml.safe_dump(meant).split()[0]})"
    what = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: got {reprlib.repr(got)}, {what[0].lower()}{what[1:]}{hint}"


def _shown(key: object) -> str:
    """A key in one line, however wild: YAML lets it hold line breaks, and be of any length."""
    return " ".join(str(key).split())[:80]
