"""Check a student's exercises: `python -m docs.exercises.check FILE`.

Each exercise is right, wrong, not done or not checked. The exit status is 0 only if all are right. A wrong exercise
gets a message: what is wrong (an error, a shape, a value, a changed argument) and, for a known mistake, a hint.
"""

import copy
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from itertools import permutations
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from docs.exercises.answers import EXERCISES, Case, Exercise, Values, results
from lib import cells
from lib.core.errors import UserError, exit_on_error, one_line

STUBS = Path(__file__).with_name("stubs.py")
RIGHT, WRONG, NOT_DONE, NOT_CHECKED = "right", "wrong", "not done", "not checked"


class Mistake(Exception):
    """What is wrong with an exercise: a line and, if there is a hint, a second one."""

    def __init__(self, text: str, hint: str = ""):
        super().__init__(f"{text}\nHint: {hint}" if hint else text)


def check(module: ModuleType) -> dict[str, tuple[str, str]]:
    """Check all exercises of a module. Return name -> (status, message)."""
    found: dict[str, tuple[str, str]] = {}
    for exercise in EXERCISES:
        unfinished = [name for name in exercise.needs if found[name][0] != RIGHT]
        with replaced(module, exercise.needs if unfinished else ()):
            status, message = check_exercise(module, exercise)
        if unfinished and status == WRONG:  # perhaps because of the replaced functions
            status, message = NOT_CHECKED, f"First finish {unfinished[0]}."
        found[exercise.name] = status, message
    return found


@contextmanager
def replaced(module: ModuleType, names: tuple[str, ...]) -> Iterator[None]:
    """Replace functions by those of lib.cells, so that an exercise does not fail because another one is wrong."""
    theirs = {name: getattr(module, name, None) for name in names}
    try:
        vars(module).update({name: getattr(cells, name) for name in names})
        yield
    finally:
        vars(module).update(theirs)


def check_exercise(module: ModuleType, exercise: Exercise) -> tuple[str, str]:
    """Return the status and the message of an exercise."""
    try:
        compare(exercise, [run(module, exercise, case) for case in exercise.cases])
    except NotImplementedError:
        return NOT_DONE, ""
    except Mistake as mistake:
        return WRONG, str(mistake)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == module.__file__), "?")
        hint = "does a matrix need a transpose, or another order?" if "cannot be multiplied" in str(error) else ""
        return WRONG, str(Mistake(f"{type(error).__name__} in line {line}: {one_line(error)[:200]}", hint))
    return RIGHT, ""


def run(module: ModuleType, exercise: Exercise, case: Case) -> Values:
    """Run the student's function on copies of the arguments. Return its values, without the cache."""
    function = getattr(module, exercise.name, None)
    if function is None:
        raise NotImplementedError
    given = copy.deepcopy({**case.arguments, **case.upstream})
    arguments = [given[name] for name in case.arguments]
    if exercise.forward:
        *_, cache = getattr(module, exercise.forward)(*arguments)
        arguments = [*(given[name] for name in case.upstream), cache]
    returned = function(*arguments)
    for name, original in {**case.arguments, **case.upstream}.items():
        if not callable(original) and not close(given[name], original):
            raise Mistake(f"The argument {name} is changed in place. Make a new tensor instead.")
    if len(exercise.returns) == 1:
        return (returned,)
    if not isinstance(returned, tuple | list):
        raise Mistake(f"It returns {form(returned)}. Expected {len(exercise.returns)}: {', '.join(exercise.returns)}.")
    return returned[:-1] if exercise.returns[-1] == "cache" else returned


def compare(exercise: Exercise, got: list[Values]) -> None:
    """Compare a student's values of all cases with the right ones. Raise Mistake for the first case that differs."""
    names = exercise.returns
    for values, case in zip(got, exercise.cases, strict=True):
        rights = results(exercise.answer, case)
        if len(values) != len(rights):
            count = len(values) + len(names) - len(rights)  # with the cache
            text = f"The number of returned values is {count}. Expected {len(names)}: {', '.join(names)}."
            raise Mistake(text, known_mistake(exercise, got, list(range(len(values)))))
        wrong = [i for i, right in enumerate(rights) if difference(values[i], right)]
        if wrong:
            first, others = wrong[0], [i for i in range(len(rights)) if i not in wrong]
            text = f"{names[first]} {difference(values[first], rights[first])}"
            text += f" Also wrong: {', '.join(names[i] for i in wrong[1:])}." if wrong[1:] else ""
            text += f" Right: {', '.join(names[i] for i in others)}." if others else ""
            raise Mistake(text, known_mistake(exercise, got, wrong) or tensor_hint(values[first], rights[first]))


def difference(value: Any, right: Any) -> str:
    """Describe how a value differs from the right one: its form, NaN, or the numbers. Return "" if it is right."""
    if form(value) != form(right):
        return f"is {form(value)}. Expected {form(right)}."
    if close(value, right):
        return ""
    if not isinstance(right, Tensor) or not right.dim():
        return f"is {rounded(value)}. Expected {rounded(right)}."
    if not value.isfinite().all():
        return "contains NaN or infinity."
    return f"has wrong values: the largest error is {(value - right).abs().max():.2g}."


def known_mistake(exercise: Exercise, got: list[Values], wrong: list[int]) -> str:
    """Return the hint of the mistake that gives the most of the wrong values in all cases, or "" if none does."""
    best, hint = 0, ""
    for text, mistake in exercise.mistakes:
        made = [results(mistake, case) for case in exercise.cases]
        if [len(values) for values in made] == [len(values) for values in got]:
            pairs = [list(zip(*values, strict=True)) for values in zip(got, made, strict=True)]  # by case
            same = sum(all(not difference(*pair) for of_case in pairs for pair in of_case[i : i + 1]) for i in wrong)
            best, hint = max((best, hint), (same, text), key=itemgetter(0))  # the earlier one of a tie
    return hint


def tensor_hint(value: Any, right: Any) -> str:
    """Return a hint if a tensor is right after a sum, a change of axes or a factor. Otherwise return ""."""
    if not isinstance(value, Tensor) or not isinstance(right, Tensor) or not right.dim() or not value.isfinite().all():
        return ""
    if value.dim() > right.dim() and close(value.flatten(0, value.dim() - right.dim() - 1).sum(0), right):
        return "it is right if you sum over the captions."
    if any(close(value.permute(axes), right) for axes in permutations(range(value.dim()))):
        return "it is right if you change the order of its axes."
    if value.shape == right.shape and close(value, (factor := (value * right).sum() / (right * right).sum()) * right):
        return f"it is {factor:.3g} times the right value."
    return ""


def form(value: Any) -> str:
    """Describe the type and shape of a value."""
    if isinstance(value, Tensor) and value.dim():
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int | float | Tensor):
        return "a number"
    return f"a tuple ({', '.join(map(form, value))})" if isinstance(value, tuple) else f"a {type(value).__name__}"


def rounded(value: Any) -> Any:
    """Return a value for display: plain numbers of four digits."""
    if isinstance(value, list | tuple):
        return type(value)(map(rounded, value))
    number = value.item() if isinstance(value, Tensor) else value
    return float(f"{number:.4g}") if isinstance(number, float) else number


def close(a: Any, b: Any) -> bool:
    """Return whether two values, or lists of values, are equal up to rounding. NaN equals NaN."""
    if isinstance(b, dict):
        return bool(a == b)
    if isinstance(b, list | tuple):
        return isinstance(a, list | tuple) and len(a) == len(b) and all(map(close, a, b))
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4, equal_nan=True)


def load(path: Path) -> ModuleType:
    """Import a file. Raises UserError if it cannot be imported."""
    spec = spec_from_file_location("exercises", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"FILE={path} is not a Python file. Make one: cp docs/exercises/stubs.py {path}")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        problem = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"FILE={path} cannot be imported: {problem}. Correct the file.") from error
    return module


def main() -> None:
    found = check(load(Path(sys.argv[1]) if len(sys.argv) > 1 else STUBS))
    for name, (status, message) in found.items():
        lines = message.splitlines() or [""]
        print(f"{name:<23}{status:<13}{lines[0]}".rstrip(), *(f"{'':<36}{line}" for line in lines[1:]), sep="\n")
    counts = Counter(status for status, _ in found.values())
    print("", ", ".join(f"{counts[status]} {status}" for status in (RIGHT, WRONG, NOT_DONE, NOT_CHECKED)), sep="\n")
    sys.exit(int(counts[RIGHT] != len(EXERCISES)))


if __name__ == "__main__":
    with exit_on_error():
        main()
