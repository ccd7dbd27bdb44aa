"""dvc.yaml: each stage depends on exactly the code and the params that it uses."""

import ast
import re

import pytest
import yaml

from stages.params import PARAMS_FILE
from tests.stages.imports import ROOT, imported_files

DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DAG["stages"]
CODE = ("lib/", "stages/")
COMPARISONS = "metrics/compare"  # a folder in Git, which `make compare` fills: no stage's output
PARAMS = yaml.safe_load((ROOT / PARAMS_FILE).read_text())


def outputs(stage: dict) -> set[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def test_the_main_line_is_whole_and_in_order():
    order = [
        "download", "captions", "backbone", "features", "train",
        "finetune", "generate", "evaluate", "gradients", "report",
    ]  # fmt: skip
    assert list(STAGES) == order
    assert all(stage["cmd"] == f"python -m stages.{name}" for name, stage in STAGES.items())
    assert all(stage["desc"] for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_imports(name):
    declared = {dep for dep in STAGES[name]["deps"] if dep.startswith(CODE)}
    assert declared == imported_files(f"stages.{name}")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_files_not_on_rooms(name):
    for dep in STAGES[name]["deps"]:
        assert not (ROOT / dep).is_dir() or dep.startswith("data/") or dep == COMPARISONS, dep


@pytest.mark.parametrize("name", STAGES)
def test_every_data_dep_is_made_by_an_earlier_stage(name):
    earlier = {out for other in list(STAGES)[: list(STAGES).index(name)] for out in outputs(STAGES[other])}
    data = {dep for dep in STAGES[name]["deps"] if not dep.startswith((*CODE, "$"))}
    assert data <= {*earlier, COMPARISONS}


@pytest.mark.parametrize("name", STAGES)
def test_dvc_can_look_up_what_a_stage_once_made(name):
    # An uncached entry of `outs` takes a stage out of DVC's run cache; those of `metrics` and `plots` do not.
    assert all(isinstance(out, str) for out in STAGES[name].get("outs", []))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_params_that_exist_of_the_sections_that_it_reads(name):
    source = ast.parse((ROOT / f"stages/{name}.py").read_text())
    read = {
        node.module.rpartition(".")[2]
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stages.params.")
    }
    assert {key.split(".")[0] for key in STAGES[name]["params"]} == read
    for key in STAGES[name]["params"]:
        value = PARAMS
        for part in key.split("."):
            value = value[part]


def test_every_param_is_used_by_a_stage():
    def leaves(section: dict, prefix: str = "") -> list[str]:
        return [
            leaf
            for key, value in section.items()
            for leaf in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
        ]

    named = [key for stage in STAGES.values() for key in stage["params"]]
    named.append("dataset.mirror")  # from where does not matter: files go by their md5
    unused = [leaf for leaf in leaves(PARAMS) if not any(leaf == key or leaf.startswith(f"{key}.") for key in named)]
    assert not unused


def test_most_params_have_a_comment():
    lines = (ROOT / PARAMS_FILE).read_text().splitlines()
    assert sum("#" in line for line in lines) > len(lines) / 2


def test_nothing_of_the_library_knows_params_or_dvc():
    for path in (ROOT / "lib").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(from|import) (stages|dvc)\b", text, re.MULTILINE), path


ORDER = ["text", "cells", "scoring", "datasets", "vision", "captioner", "training", "report", "cli"]


def test_imports_between_the_librarys_rooms_go_one_way():
    for path in (ROOT / "lib").rglob("*.py"):
        room = path.relative_to(ROOT / "lib").parts[0]
        if room not in ORDER:
            continue
        for imported in re.findall(r"^\s*from lib\.(\w+)", path.read_text(), re.MULTILINE):
            if imported in ORDER:
                assert ORDER.index(imported) <= ORDER.index(room), f"{path} imports {imported}"
