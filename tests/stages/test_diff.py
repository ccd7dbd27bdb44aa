"""`make diff` reads runs from revisions, experiments and folders, and rejects runs that are not comparable."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from lib.core.errors import UserError
from lib.core.tables import write_table
from lib.scoring import score
from lib.text.tokenizer import tokenize
from stages.tools import significance
from tests.commands import command, commit
from tests.stages.imports import ROOT

FILES = ["metrics/captions.json", "metrics/per_image.parquet", "data/captions/captions.parquet"]
REFERENCES = {i: [f"a {colour} dog on the grass", "a dog"] for i, colour in enumerate(["red", "blue", "big"] * 10)}
POOR = dict.fromkeys(REFERENCES, "a cat on a mat")
GOOD = {i: references[0] for i, references in REFERENCES.items()}


def write(folder: Path, captions: dict[int, str], references: dict[int, list[str]] = REFERENCES) -> None:
    rows = [(image_id, caption) for image_id, own in references.items() for caption in own]
    write_table(pd.DataFrame(rows, columns=["image_id", "caption"]), folder / "data/captions/captions.parquet")
    results = [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]
    (folder / "metrics").mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    (folder / "metrics/captions.json").write_text(json.dumps(results))
    each = {"image_id": list(captions), "true": [caption == GOOD.get(i) for i, caption in captions.items()]}
    write_table(pd.DataFrame(each), folder / "metrics/per_image.parquet")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with poor captions in the tag `poor` and the workspace, and good captions in the experiment `good`."""
    folder = tmp_path_factory.mktemp("project")
    command(folder, "git", "init", "-q")
    command(folder, "dvc", "init", "-q")
    write(folder, POOR)
    command(folder, "dvc", "add", *FILES)
    commit(folder, "poor")
    command(folder, "git", "tag", "poor")
    write(folder, GOOD)
    command(folder, "dvc", "add", *FILES)
    command(folder, "dvc", "exp", "save", "-q", "--name", "good")
    write(folder, POOR)
    return folder


@pytest.fixture
def diff(project, monkeypatch, capsys):
    """Run `python -m stages.tools.significance A B` in the project; return what it prints."""

    def run(a: str, b: str) -> str:
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["diff", a, b])
        significance.main()
        return capsys.readouterr().out

    return run


def columns(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:8]}


def test_a_revision_and_an_experiment_get_the_scores_of_evaluate(diff):
    rows = columns(diff("poor", "good"))
    tokens = {i: [tokenize(caption) for caption in own] for i, own in REFERENCES.items()}
    for position, captions in enumerate([POOR, GOOD]):
        expected = {**score(tokens, {i: tokenize(caption) for i, caption in captions.items()}), "truth": position}
        assert {name: row[position] for name, row in rows.items()} == {k: f"{v:.4f}" for k, v in expected.items()}
    assert all(row[-1] == "yes" and row[2].startswith("+") for row in rows.values())


def test_a_run_does_not_differ_from_itself(diff):
    table = diff("poor", "workspace")
    for row in columns(table).values():
        assert row[2:] == ["+0.0000", "+0.0000", "to", "+0.0000", "may", "be", "chance"]
    assert "30 images" in table


def test_a_folder_is_a_run_and_the_order_of_its_captions_does_not_matter(diff, tmp_path):
    write(tmp_path, dict(reversed(GOOD.items())))
    assert columns(diff("poor", str(tmp_path))) == columns(diff("poor", "good"))


@pytest.mark.parametrize(
    ("captions", "references"), [(dict.fromkeys(range(20), "a dog"), REFERENCES), (GOOD, {**REFERENCES, 3: ["a cat"]})]
)
def test_runs_on_other_images_or_references_are_not_compared(diff, tmp_path, captions, references):
    write(tmp_path, captions, references)
    with pytest.raises(UserError, match="different test images or reference captions"):
        diff("poor", str(tmp_path))


def test_captions_of_photographs_are_not_judged(diff, tmp_path):
    write(tmp_path, GOOD)
    write_table(pd.DataFrame({"image_id": list(GOOD)}), tmp_path / "metrics/per_image.parquet")
    assert "truth" not in diff("poor", str(tmp_path))


def test_an_unknown_run_is_named(diff, tmp_path):
    with pytest.raises(UserError, match=r"^nosuch: .*unknown Git revision"):
        diff("poor", "nosuch")
    (tmp_path / "metrics").mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path}: cannot read metrics/captions\.json"):
        diff("poor", str(tmp_path))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'[{"image_id": 1}]', b"[1]"])
def test_a_damaged_file_of_a_run_is_named(diff, tmp_path, name, damage):
    write(tmp_path, GOOD)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(UserError, match=f"^{tmp_path}:{name} is damaged"):
        diff("poor", str(tmp_path))


def test_a_run_that_is_missing_from_the_cache_is_named(project, diff, tmp_path):
    cache = project / ".dvc/cache"
    shutil.move(cache, tmp_path / "cache")
    try:
        with pytest.raises(UserError, match=r"^good: cannot read metrics/captions\.json"):
            diff("workspace", "good")
    finally:
        shutil.move(tmp_path / "cache", cache)


def test_two_runs_are_needed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["diff", "HEAD"])
    with pytest.raises(UserError, match="two runs"):
        significance.main()
