"""Read params.yaml as typed, validated objects, one class per section.

Every stage checks the complete file. So an error in the section `generate` stops the first stage, not the last one.
"""

import reprlib
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from lib.core.errors import UserError, one_line
from stages.params.schema import (
    BackboneParams,
    DatasetParams,
    FeaturesParams,
    FinetuneParams,
    GenerateParams,
    ModelParams,
    Params,
    Section,
    TextParams,
    TrainParams,
    VocabularyParams,
)

__all__ = ["BackboneParams", "DatasetParams", "FeaturesParams", "FinetuneParams", "GenerateParams", "ModelParams"]
__all__ += ["TextParams", "TrainParams", "VocabularyParams", "load_yaml", "read_params", "validate"]

PARAMS_FILE = Path("params.yaml")
_MAX_LISTED = 300  # maximum length of a list in a message, in characters


SECTIONS = {name: cast(type[Section], field.annotation) for name, field in Params.model_fields.items()}

# Keys of earlier versions, and their current names.
_RENAMED = {
    "features.components": "features.pca_components",
    "train.warm_up": "train.warmup_fraction",
    "train.clip": "train.max_grad_norm",
    "train.averaging": "train.ema_decay",
    "train.bucketing": "train.bucket_by_length",
    "train.best_by": "train.monitor",
    "train.scst": "finetune",
    "train.scst.warm_up": "finetune.warmup_fraction",
    "train.scst.clip": "finetune.max_grad_norm",
    "train.scst.averaging": "finetune.ema_decay",
    "train.scst.best_by": "finetune.monitor",
    "generate.no_repeat": "generate.no_repeat_ngram_size",
}

AnySection = TypeVar("AnySection", bound=Section)


def read_params(section: type[AnySection], path: Path = PARAMS_FILE) -> AnySection:
    """Return the section of params.yaml that the class `section` describes.

    Raises UserError if any section is wrong. The message has the first wrong keys, their values and the fix.
    """
    return next(value for _, value in validate(load_yaml(path), str(path)) if isinstance(value, section))


def validate(content: Mapping[str, Any], source: str) -> Params:
    """Return all sections. Raises UserError with the first wrong keys; `source` says where they come from."""
    if renamed := [f"{old} to {new}" for old, new in _RENAMED.items() if _has(content, old)]:
        raise UserError(f"{source} is from an earlier version. Rename or move these keys: {_first(renamed, ', ')}.")
    if _has(content, "vocabulary") and not _has(content, "text"):
        fix = "Add the line `text: {tokenizer: ptb, lowercase: true}`."
        raise UserError(f"{source} is from an earlier version. {fix}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {_first(list(map(_describe, error.errors())), '; ')}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file, or an empty dict if it is no mapping. Raises UserError.

    DVC writes 5e-05 to params.yaml. That is a number in YAML 1.2, which ruamel.yaml reads, but text in YAML 1.1, which
    PyYAML reads. PyYAML also accepts a key that occurs twice.
    """
    try:
        content = YAML(typ="safe").load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Run this in the project's top folder.") from error
    except MarkedYAMLError as error:
        problem = " ".join(str(error.problem).split())
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path} is not YAML: {line}{problem}. Correct the file.") from error
    except Exception as error:  # malformed text raises many other kinds of error
        raise UserError(f"{path} is not YAML in UTF-8: {one_line(error)}. Correct the file.") from error
    return content if isinstance(content, dict) else {}


def _first(texts: list[str], separator: str) -> str:
    """Join the first texts, up to _MAX_LISTED characters but at least one text, and the number of the other texts."""
    count = max(1, sum(length <= _MAX_LISTED for length in accumulate(map(len, texts))))
    more = [f"and {len(texts) - count} more"] if len(texts) > count else []
    return separator.join([*texts[:count], *more])


def _has(content: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _describe(error: Any) -> str:
    """Return an error of pydantic in the form "key: got value, should be ..."."""
    # YAML keys may contain line breaks and have any length.
    key = ".".join(" ".join(str(part).split())[:80] for part in error["loc"])
    if error["type"] in ("missing", "extra_forbidden"):
        dots = "; nest the keys instead of joining them with dots" if "." in str(error["loc"][-1]) else ""
        return f"{key}: missing" if error["type"] == "missing" else f"{key}: unknown key{dots}"
    text = isinstance(error["input"], str) and error["type"] in ("float_type", "int_type")
    hint = "; it is text: write the number without quotes" if text else ""
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(" or instance of ")[0]
    if not key:  # the error is about several sections, and its text names the keys
        return problem
    return f"{key}: got {reprlib.repr(error['input'])}, {problem[0].lower()}{problem[1:]}{hint}"
