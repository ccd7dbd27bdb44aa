"""dvc.yaml: each stage depends on the rooms that its imports reach, and on the params that it reads."""

import ast
import re
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import yaml
from pydantic import BaseModel

from stages.common.checkpoints import stage_code
from stages.params import PARAMS_FILE, SECTIONS
from tests.stages.imports import ROOT, imported_files, imports_of

DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DAG["stages"]
COMPARISONS = "metrics/compare"  # written by `make compare`, not by a stage; tracked by Git
PARAMS = yaml.safe_load((ROOT / PARAMS_FILE).read_text())
COMMON = "stages/common"
# A room may import only rooms that come before it in this list.
ROOMS = [
    "core", "runtime", "fetch", "datasets", "scenes", "text", "vision", "features", "extraction", "cells", "scoring",
    "evaluation", "optim", "pretraining", "gradients", "model", "training", "finetuning", "search", "report", "app",
]  # fmt: skip


def outputs(stage: dict) -> set[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def code_deps(name: str) -> set[str]:
    return {dep for dep in STAGES[name]["deps"] if dep.startswith(("lib/", "stages/"))}


def test_dvc_yaml_is_short_and_its_stages_are_in_order_and_have_a_description():
    order = "download captions backbone features train finetune generate evaluate gradients report"
    assert list(STAGES) == order.split()
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 310
    assert all(stage["cmd"] == f"python -m stages.{name}" for name, stage in STAGES.items())
    assert all(stage["desc"] for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_rooms_that_its_imports_reach_and_on_no_other(name):
    imported = imported_files(f"stages.{name}")
    # Schemas are not a dependency: they have no defaults (see below), so DVC tracks every value as a param.
    imported = {file for file in imported if not file.startswith("stages/params/")}
    reached = {"/".join(file.split("/")[:2]) for file in imported if file.count("/") > 1}
    assert code_deps(name) == {*reached, f"stages/{name}.py"}
    assert imported == {file for file in imported if any(file.startswith(dep) for dep in code_deps(name))}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_at_most_ten_rooms_and_on_no_file_but_its_script(name):
    assert sum(dep.startswith("lib/") for dep in code_deps(name)) <= 10
    assert all((ROOT / dep).is_dir() for dep in code_deps(name) - {f"stages/{name}.py"})


@pytest.mark.parametrize("name", STAGES)
def test_checkpoints_count_the_code_that_dvc_counts(name):
    files = {path.relative_to(ROOT).as_posix() for path in stage_code(name)}
    imported = {file for file in imported_files(f"stages.{name}") if file.startswith("lib/") and file.endswith(".py")}
    assert files >= imported
    assert all(any(file.startswith(dep) for dep in code_deps(name)) for file in files)


def test_an_edit_of_a_room_reruns_only_these_stages():
    expected = {"search": "generate", "finetuning": "finetune generate", "evaluation": "evaluate", "report": "report"}
    for room, stages in {**expected, "app": ""}.items():
        assert [name for name in STAGES if f"lib/{room}" in STAGES[name]["deps"]] == stages.split(), room


@pytest.mark.parametrize("name", STAGES)
def test_every_data_dep_is_an_output_of_an_earlier_stage(name):
    earlier = {out for other in list(STAGES)[: list(STAGES).index(name)] for out in outputs(STAGES[other])}
    data = {dep for dep in STAGES[name]["deps"] if not dep.startswith(("lib/", "stages/", "$"))}
    assert data <= {*earlier, COMPARISONS}


@pytest.mark.parametrize("name", STAGES)
def test_dvc_can_restore_the_outputs_of_a_stage(name):
    # DVC's run cache omits a stage with an uncached entry in `outs`. It allows uncached `metrics` and `plots`.
    assert all(isinstance(out, str) for out in STAGES[name].get("outs", []))


def section_names(path: Path) -> set[str]:
    """Return the sections whose classes a file imports from stages.params; all of them if it imports SECTIONS."""
    names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "stages.params"
        for alias in node.names
    }
    if "SECTIONS" in names:
        return set(SECTIONS) - {"generate"}
    return {section for section, schema in SECTIONS.items() if schema.__name__ in names}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_existing_params_of_the_sections_that_it_reads(name):
    assert {key.split(".")[0] for key in STAGES[name]["params"]} == section_names(ROOT / f"stages/{name}.py")
    for key in STAGES[name]["params"]:
        value = PARAMS
        for part in key.split("."):
            value = value[part]


def test_every_param_is_used_by_a_stage():
    named = {key for stage in STAGES.values() for key in stage["params"]}
    named.add("dataset.mirror")  # no stage depends on it, because files are verified by MD5
    assert [
        leaf for leaf in pd.json_normalize(PARAMS) if not any(f"{leaf}.".startswith(f"{key}.") for key in named)
    ] == []


def test_dvc_sees_every_value_of_the_schemas():
    def check(schema: type[BaseModel]) -> None:
        assert schema.model_config["frozen"] is schema.model_config["strict"] is True
        assert schema.model_config["extra"] == "forbid"
        for field in schema.model_fields.values():
            assert field.is_required(), f"{schema.__name__} has a default"
            for part in (field.annotation, *get_args(field.annotation)):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    check(part)

    for schema in SECTIONS.values():
        check(schema)


def test_the_library_knows_neither_params_nor_dvc():
    for path in (ROOT / "lib").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (stages|dvc)\b", path.read_text(), re.MULTILINE), path


def test_rooms_import_one_another_in_one_direction():
    assert {path.name for path in (ROOT / "lib").iterdir() if path.is_dir()} - {"__pycache__"} == set(ROOMS)
    for room in ROOMS:
        for path in (ROOT / "lib" / room).rglob("*.py"):
            for module in imports_of(path):
                if module.startswith("lib.") and (imported := module.split(".")[1]) in ROOMS:
                    assert ROOMS.index(imported) <= ROOMS.index(room), f"{path} imports {module}"


def test_no_stage_imports_a_tool_and_no_tool_imports_a_stage():
    scripts = {f"stages.{name}" for name in STAGES}
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "stages/common").glob("*.py")]:
        assert not any(module.startswith("stages.tools") for module in imports_of(path)), path
    for path in (ROOT / "stages/tools").glob("*.py"):
        assert scripts.isdisjoint(imports_of(path)), path
