"""params.yaml: whatever stands in it is taken, or told in one line that names the key."""

import copy

import pytest
import yaml
from hypothesis import strategies as st

from stages.params import PARAMS_FILE, read_params
from stages.params.dataset import DatasetParams
from tests.fuzz.wild import TEXTS, VALUES, damaged, fuzz, told
from tests.stages.imports import ROOT

TEXT = (ROOT / PARAMS_FILE).read_bytes()
CONTENT = yaml.safe_load(TEXT)


def leaves(section: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every key, sections included."""
    below = [leaf for key, value in section.items() if isinstance(value, dict) for leaf in leaves(value, (*path, key))]
    return [*((*path, key) for key in section), *below]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("params") / "params.yaml"


ODDITIES = [
    *(
        "1e-3",
        "1e400",
        "1e-320",
        ".inf",
        ".nan",
        "0x10",
        "1:60",
        "2024-99-99",
        "2024-01-01",
        "~",
        "yes",
        "*x",
        "&a [*a]",
    ),
    *(
        "[[[[]]]]",
        "{[1]: 2}",
        "!!set {a}",
        "!!binary x",
        "!!timestamp x",
        "!!int x",
        "!!bool x",
        "!!python/name:os.system",
    ),
]
YAML = st.one_of(
    VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True, allow_unicode=False).partition("\n...")[0]),
    TEXTS.map(lambda text: text.encode(errors="replace").decode()),
    st.sampled_from(ODDITIES),
)


@fuzz("params, key by key", path=st.sampled_from(leaves(CONTENT)), value=VALUES)
def test_a_value_of_any_key(file, path, value):
    content = copy.deepcopy(CONTENT)
    section = content
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    file.write_text(yaml.safe_dump(content, allow_unicode=False))
    told(lambda: read_params(DatasetParams, file), file, path[0])


@fuzz("params, as YAML writes a value", path=st.sampled_from(leaves(CONTENT)), text=YAML)
def test_yaml_of_any_key(file, path, text):
    lines = TEXT.decode().splitlines()
    depth, place = 0, None
    for i, line in enumerate(lines):
        if depth < len(path) and line.startswith(f"{'  ' * depth}{path[depth]}:"):
            depth, place = depth + 1, i
    lines[place] = f"{'  ' * (len(path) - 1)}{path[-1]}: {text}"
    file.write_bytes("\n".join(lines).encode(errors="replace"))
    told(lambda: read_params(DatasetParams, file), file)


@fuzz(
    "params, as bytes",
    content=st.one_of(damaged(TEXT), st.binary(max_size=50), TEXTS.map(lambda t: t.encode(errors="replace"))),
)
def test_a_file_of_any_bytes(file, content):
    file.write_bytes(content)
    told(lambda: read_params(DatasetParams, file), file)
