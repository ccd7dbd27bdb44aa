"""params.yaml as typed, validated objects: one module, with one class `Params`, for each section.

A stage reads the sections that it uses, and so depends on their modules alone; but the whole file is checked
every time, so that a slip in `generate` is found before the download and not after the training.
"""

import contextlib
import importlib
import pkgutil
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lib.errors import UserError

PARAMS_FILE = Path("params.yaml")


class Section(BaseModel):
    """A section of params.yaml. Unknown keys and wrong types are refused; an int will do for a float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


AnySection = TypeVar("AnySection", bound=Section)


def read(section: type[AnySection], path: Path = PARAMS_FILE) -> AnySection:
    """The section that `section`, the class of one of this package's modules, describes.

    Raises UserError where anything in the file is wrong, naming each key, what it got and what is allowed.
    """
    content = _load(path)
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    problems = [f"{name}: unknown section; there are {', '.join(names)}" for name in content if name not in names]
    for name in names:
        # Imported by name, so that checking a section does not make every stage depend on it.
        checked: type[Section] = importlib.import_module(f"{__name__}.{name}").Params
        try:
            found = checked.model_validate(content.get(name, {}))
        except ValidationError as error:
            problems += [_problem(name, detail) for detail in error.errors()]
        else:
            if checked is section:
                result = found
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    return result  # type: ignore[return-value]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: run this at the top of the project") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no sections")
    return content


def _problem(section: str, error: Any) -> str:
    key = ".".join([section, *map(str, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if error["type"] == "missing":
        return f"{key}: missing"
    got = error["input"]
    hint = ""
    if isinstance(got, str) and error["type"] in ("float_type", "int_type"):
        with contextlib.suppress(ValueError):
            hint = f" (YAML reads {got} as a text: write {float(got):f}".rstrip("0") + ")"
    what = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: got {got!r}, {what[0].lower()}{what[1:]}{hint}"
