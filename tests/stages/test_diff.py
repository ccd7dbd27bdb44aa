"""Two runs side by side: read from wherever they are, and what cannot be compared refused in a line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lib.core.errors import UserError
from lib.core.tables import write_table
from lib.scoring import score
from lib.text.tokenizer import tokenize
from stages.tools import significance as diff

REFERENCES = {i: [f"a {colour} dog on the grass", "a dog"] for i, colour in enumerate(["red", "blue", "big"] * 10)}
POOR = dict.fromkeys(REFERENCES, "a cat on a mat")
GOOD = {i: references[0] for i, references in REFERENCES.items()}


def write(folder: Path, captions: dict[int, str], references: dict[int, list[str]] = REFERENCES) -> None:
    rows = [(image_id, caption) for image_id, own in references.items() for caption in own]
    write_table(pd.DataFrame(rows, columns=["image_id", "caption"]), folder / "data/captions/captions.parquet")
    results = [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/captions.json").write_text(json.dumps(results))
    each = {"image_id": list(captions), "true": [caption == GOOD.get(i) for i, caption in captions.items()]}
    write_table(pd.DataFrame(each), folder / "metrics/per_image.parquet")


def command(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", *words] if words[0] == "dvc" else words, cwd=folder, check=True)


def add(folder: Path) -> None:
    command(
        folder,
        "dvc",
        "add",
        "-q",
        "metrics/captions.json",
        "metrics/per_image.parquet",
        "data/captions/captions.parquet",
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Poor captions committed and tagged, good ones in an experiment, and poor ones again in the workspace."""
    folder = tmp_path_factory.mktemp("project")
    command(folder, "git", "init", "-q")
    command(folder, "git", "config", "user.email", "t@example.org")
    command(folder, "git", "config", "user.name", "t")
    command(folder, "dvc", "init", "-q")
    write(folder, POOR)
    add(folder)
    command(folder, "git", "add", "-A")
    command(folder, "git", "commit", "-qm", "poor")
    command(folder, "git", "tag", "poor")
    write(folder, GOOD)
    add(folder)
    command(folder, "dvc", "exp", "save", "-q", "--name", "good")
    write(folder, POOR)
    return folder


@pytest.fixture
def told(project, monkeypatch, capsys):
    """What `python -m stages.tools.significance A B` prints, in the project."""

    def tell(a: str, b: str) -> str:
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["diff", a, b])
        diff.main()
        return capsys.readouterr().out

    return tell


def columns(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:8]}


def test_a_revision_and_an_experiment_are_scored_as_evaluate_would(told):
    rows = columns(told("poor", "good"))
    tokens = {i: [tokenize(caption) for caption in own] for i, own in REFERENCES.items()}
    for position, captions in enumerate([POOR, GOOD]):
        expected = {**score(tokens, {i: tokenize(caption) for i, caption in captions.items()}), "truth": position}
        assert {name: row[position] for name, row in rows.items()} == {k: f"{v:.4f}" for k, v in expected.items()}
    assert all(row[-1] == "yes" and row[2].startswith("+") for row in rows.values())


def test_a_run_and_itself_differ_by_nothing(told):
    table = told("poor", "workspace")
    for row in columns(table).values():
        assert row[2:] == ["+0.0000", "+0.0000", "to", "+0.0000", "may", "be", "chance"]
    assert "30 images" in table


def test_a_folder_is_a_run_and_the_order_of_its_captions_is_no_matter(told, tmp_path):
    write(tmp_path, dict(reversed(GOOD.items())))
    assert columns(told("poor", str(tmp_path))) == columns(told("poor", "good"))


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [
        (dict.fromkeys(range(20), "a dog"), REFERENCES, "captions 30 images .* 20, 20 of them the same"),
        (GOOD, {**REFERENCES, 3: ["a cat"]}, "different reference captions"),
    ],
)
def test_runs_on_other_images_or_references_are_not_compared(told, tmp_path, captions, references, message):
    write(tmp_path, captions, references)
    with pytest.raises(UserError, match=message):
        told("poor", str(tmp_path))


def test_captions_of_photographs_are_not_judged(told, tmp_path):
    write(tmp_path, GOOD)
    write_table(pd.DataFrame({"image_id": list(GOOD)}), tmp_path / "metrics/per_image.parquet")
    assert "truth" not in told("poor", str(tmp_path))


def test_what_is_no_run_is_named(told, tmp_path):
    with pytest.raises(UserError, match="nosuch: unknown Git revision"):
        told("poor", "nosuch")
    (tmp_path / "metrics").mkdir()
    with pytest.raises(UserError, match=r"has no metrics/captions\.json"):
        told("poor", str(tmp_path))


@pytest.mark.parametrize(
    "name", ["metrics/captions.json", "metrics/per_image.parquet", "data/captions/captions.parquet"]
)
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'[{"image_id": 1}]', b"[1]"])
def test_a_damaged_file_of_a_run_is_named(told, tmp_path, name, damage):
    write(tmp_path, GOOD)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(UserError, match=f"^{tmp_path}:{name} is damaged, or of another version: "):
        told("poor", str(tmp_path))


def test_a_run_that_is_not_in_the_cache_is_named(project, told, tmp_path):
    cache = project / ".dvc/cache"
    shutil.move(cache, tmp_path / "cache")
    try:
        with pytest.raises(UserError, match=r"good has no metrics/captions\.json, here or in DVC's cache"):
            told("workspace", "good")
    finally:
        shutil.move(tmp_path / "cache", cache)


def test_two_runs_are_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["diff", "HEAD"])
    with pytest.raises(UserError, match="two runs"):
        diff.main()
