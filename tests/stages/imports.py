"""Find the files of the project that a module imports, directly or not, without running them."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lib", "stages")


def imported_files(module: str) -> set[str]:
    """Return the files, relative to the project, whose code runs if `module` is imported, including its own."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for path in _files(name):
            relative = path.relative_to(ROOT).as_posix()
            tree = ast.parse(path.read_text("utf-8"))
            if relative in found or (path.name == "__init__.py" and not _does_anything(tree)):
                continue
            # A module's templates have its name: page.py has page.html, page.css and page.js.
            found |= {file.relative_to(ROOT).as_posix() for file in path.parent.glob(f"{path.stem}.*")}
            waiting += _imports(tree)
    return found


def imports_of(path: Path) -> list[str]:
    """Return the modules of the project that a file imports, and the names that it imports from them."""
    return _imports(ast.parse(path.read_text("utf-8")))


def _files(module: str) -> list[Path]:
    """Return the file of the module, and the __init__.py of each package that contains it."""
    parts = module.split(".")
    inits = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    own = ROOT.joinpath(*parts).with_suffix(".py")
    return [path for path in (*inits, own) if path.is_file()]


def _does_anything(package: ast.Module) -> bool:
    """Return whether a package is more than a docstring or a lazy `__getattr__`."""
    lazy = any(getattr(node, "name", None) == "__getattr__" for node in package.body)
    return len(package.body) > 1 and not lazy


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in PACKAGES]
