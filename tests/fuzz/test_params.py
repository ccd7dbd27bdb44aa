"""A malformed params.yaml is accepted, or rejected with a one-line error that names the file and the key."""

import copy

import pytest
import yaml
from hypothesis import strategies as st

from stages.params import PARAMS_FILE, DatasetParams, read_params
from tests.fuzz.strategies import ENCODED_TEXTS, VALUES, corrupted, fuzz, parse_or_reject
from tests.stages.imports import ROOT

TEXT = (ROOT / PARAMS_FILE).read_bytes()
CONTENT = yaml.safe_load(TEXT)


def keys(section: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every key, including the sections."""
    inner = [found for key, value in section.items() if isinstance(value, dict) for found in keys(value, (*path, key))]
    return [*((*path, key) for key in section), *inner]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("params") / "params.yaml"


SPECIAL_YAML = [
    "1e-3", "1e400", "1e-320", ".inf", ".nan", "0x10", "1:60", "2024-99-99", "2024-01-01", "~", "yes", "*x", "&a [*a]",
    "[[[[]]]]", "{[1]: 2}", "!!set {a}", "!!binary x", "!!timestamp x", "!!int x", "!!bool x", "!!python/name:os.x",
]  # fmt: skip
YAML = st.one_of(ENCODED_TEXTS.map(bytes.decode), st.sampled_from(SPECIAL_YAML))


@fuzz(path=st.sampled_from(keys(CONTENT)), value=VALUES)
def test_values(file, path, value):
    section = content = copy.deepcopy(CONTENT)
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    file.write_text(yaml.safe_dump(content, allow_unicode=False))
    parse_or_reject(lambda: read_params(DatasetParams, file), file, path[0])


@fuzz(path=st.sampled_from(keys(CONTENT)), text=YAML)
def test_yaml(file, path, text):
    lines = TEXT.decode().splitlines()
    depth, number = 0, None
    for i, line in enumerate(lines):
        if depth < len(path) and line.startswith(f"{'  ' * depth}{path[depth]}:"):
            depth, number = depth + 1, i
    lines[number] = f"{'  ' * (len(path) - 1)}{path[-1]}: {text}"
    file.write_bytes("\n".join(lines).encode(errors="replace"))
    parse_or_reject(lambda: read_params(DatasetParams, file), file)


@fuzz(content=st.one_of(corrupted(TEXT), st.binary(max_size=50), ENCODED_TEXTS))
def test_bytes(file, content):
    file.write_bytes(content)
    parse_or_reject(lambda: read_params(DatasetParams, file), file)
