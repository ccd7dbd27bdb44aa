"""README.md, CONTRIBUTING.md and docs/: links, commands, params and paths exist."""

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.commands import command
from tests.stages.imports import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
# Examples in the docs: files that the reader may create.
EXAMPLES = {"stages.lengths", "lib/cells/gru.py", "stages/lengths.py", "recipes/mine.yaml"}

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@cache
def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> str:
    """Return the code of a page that a reader may run, without comments."""
    shell = [text for language, text in blocks(page) if language == "sh"]
    return re.sub(r"(?<!\S)#.*", "", "\n".join([*shell, *inline_code(page)]))


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = sum(name == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", name) is not None for name in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def test_links_point_to_existing_files_and_headings(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_shell_blocks_have_commands_only(page):
    text = "\n".join(text for language, text in blocks(page) if language == "sh")
    assert re.findall(r"^\s*\$ .*$", text, re.MULTILINE) == []


def test_make_targets_exist(page):
    text = "".join((ROOT / path).read_text() for path in ("Makefile", "tests/developer.mk"))
    targets = {target for line in re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE) for target in line.split()}
    used = {
        word
        for words in re.findall(r"(?:^|[;&|`]|&& )\s*make((?: [^\n;&|]+)?)", commands(page), re.MULTILINE)
        for word in re.sub(r"\"[^\"]*\"|'[^']*'", "", words).split()
        if re.fullmatch(r"[a-z][\w-]*", word)
    }
    assert used - targets == set()


def test_params_exist(page):
    sections = "|".join(PARAMS)
    named = set(re.findall(rf"(?:-S|--set-param)[ =]['\"]?((?:{sections})[\w.]*)=", page.read_text("utf-8")))
    named |= {
        match[1]
        for code in inline_code(page)
        if (match := re.fullmatch(rf"((?:{sections})(?:\.[a-z_0-9]+)+)(?:=.*)?", code)) and not is_file(match[1])
    }
    assert [key for key in sorted(named) if not has_param(key)] == []


def is_file(name: str) -> bool:
    return Path(name).suffix in {".py", ".json", ".md", ".parquet", ".npy", ".csv", ".png", ".yaml", ".safetensors"}


def has_param(key: str) -> bool:
    value = PARAMS
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def test_modules_exist(page):
    ours = set(re.findall(r"python[\d.]* -m ((?:lib|stages|tests)[\w.]*)", commands(page))) - EXAMPLES
    assert [name for name in sorted(ours) if not name.endswith(".NAME") and not importlib.util.find_spec(name)] == []


def test_options_of_caption_exist(page):
    lines = [line for line in commands(page).splitlines() if re.search(r"(^|\s)caption ", line)]
    used = {option for line in lines for option in re.findall(r"(?<=\s)--[\w-]+", line.partition("caption ")[2])}
    assert used - caption_options() == set()


@cache
def caption_options() -> set[str]:
    return set(re.findall(r"--[\w-]+", command(ROOT, "python", "-m", "lib.app.caption", "--help")))


def test_paths_exist(page):
    paths = {code for code in inline_code(page) if re.fullmatch(r"(lib|recipes|stages|tests|docs)/[\w./-]*", code)}
    assert [path for path in sorted(paths - EXAMPLES) if not (ROOT / path).exists()] == []
