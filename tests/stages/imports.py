"""Which files of the project a module imports, followed through the project; found by reading, not by running."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("lib", "stages")


def imported_files(module: str) -> set[str]:
    """The files, relative to the project, that hold code which importing `module` runs, its own included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for path in _files(name):
            relative = path.relative_to(ROOT).as_posix()
            if relative in found:
                continue
            tree = ast.parse(path.read_text("utf-8"))
            if path.name == "__init__.py" and len(tree.body) <= 1:  # a docstring, or nothing: no code to depend on
                continue
            found.add(relative)
            waiting += _imports(tree)
    return found


def _files(module: str) -> list[Path]:
    """The module's own file, and the __init__.py of every package that it lies in."""
    parts = module.split(".")
    inits = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    own = ROOT.joinpath(*parts).with_suffix(".py")
    return [path for path in (*inits, own) if path.is_file()]


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in ROOMS]
