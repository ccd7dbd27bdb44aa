"""params.yaml as typed, validated objects: one module with one class per section.

The whole file is checked every time, so a mistake in `generate` is found before the download and not after training.
"""

import contextlib
import math
import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from lib.core.errors import UserError, one_line
from stages.params.backbone import BackboneParams
from stages.params.base import Section
from stages.params.dataset import DatasetParams
from stages.params.features import FeaturesParams
from stages.params.finetune import FinetuneParams
from stages.params.generate import GenerateParams
from stages.params.model import ModelParams
from stages.params.train import TrainParams
from stages.params.vocabulary import VocabularyParams

PARAMS_FILE = Path("params.yaml")

SECTIONS: dict[str, type[Section]] = {
    "dataset": DatasetParams,
    "vocabulary": VocabularyParams,
    "backbone": BackboneParams,
    "features": FeaturesParams,
    "model": ModelParams,
    "train": TrainParams,
    "finetune": FinetuneParams,
    "generate": GenerateParams,
}
# Keys of earlier versions, and what they are called now.
_RENAMED = {
    "features.components": "features.pca_components",
    "train.warm_up": "train.warmup_fraction",
    "train.clip": "train.max_grad_norm",
    "train.averaging": "train.ema_decay",
    "train.bucketing": "train.bucket_by_length",
    "train.best_by": "train.monitor",
    "train.scst": "the section finetune, with the same new names",
    "generate.no_repeat": "generate.no_repeat_ngram_size",
}

AnySection = TypeVar("AnySection", bound=Section)


def read_params(section: type[AnySection], path: Path = PARAMS_FILE) -> AnySection:
    """Return the section of params.yaml that the class `section` describes.

    Raises UserError if anything in the file is wrong. The message names each key, its value and what is allowed.
    """
    content = _load(path)
    problems = [
        f"{_short(name)}: unknown section; the sections are {', '.join(SECTIONS)}"
        for name in content
        if name not in SECTIONS
    ]
    found: dict[type[Section], Section] = {}
    for name, schema in SECTIONS.items():
        if name not in content:
            problems.append(f"{name}: missing")
            continue
        try:
            found[schema] = schema.model_validate(content[name])
        except ValidationError as error:
            problems += [_problem(name, detail) for detail in error.errors()]
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return found[section]  # type: ignore[return-value]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: run this in the top folder of the project") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    except Exception as error:  # besides YAMLError, malformed text may raise almost anything
        raise UserError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has no sections")
    return content


def _problem(section: str, error: Any) -> str:
    key = ".".join([section, *map(_short, error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key} is now {_RENAMED[key]}" if key in _RENAMED else f"{key}: unknown key"
    if error["type"] == "missing":
        return f"{key}: missing"
    value, hint = error["input"], ""
    if isinstance(value, str) and error["type"] in ("float_type", "int_type"):
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(value)):
                meant = int(number) if error["type"] == "int_type" and number.is_integer() else number
                hint = f" (YAML reads {_short(value)} as text: write {yaml.safe_dump(meant).split()[0]})"
    what = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: got {reprlib.repr(value)}, {what[0].lower()}{what[1:]}{hint}"


def _short(key: object) -> str:
    """Return a key as one short line: YAML keys may hold line breaks and have any length."""
    return " ".join(str(key).split())[:80]
