"""docs/tour.ipynb: the committed outputs are clean, and all cells run on the outputs of the pipeline."""

import json
import re

import pytest

from tests.stages.imports import ROOT
from tests.test_docs import anchors

NOTEBOOK = ROOT / "docs/tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_the_committed_notebook_is_the_result_of_one_run():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    silent = [cell for cell in CODE if not cell["outputs"]]
    printing = re.compile(r"^(?:print|show|plt\.show|display|pd\.DataFrame)\(", re.MULTILINE)
    assert [cell["id"] for cell in silent if printing.search("".join(cell["source"]))] == []
    assert not any("execution" in cell["metadata"] for cell in CODE)  # times


def test_the_committed_outputs_are_small_and_have_no_errors_and_paths():
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert NOTEBOOK.stat().st_size < 500_000
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    for output in outputs:
        images = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
        text = json.dumps({**output, "data": {k: v for k, v in output.get("data", {}).items() if k not in images}})
        assert re.findall(r"(?<![\w<.])/\w[\w.-]*/\w|[A-Z]:\\\\| at 0x", text) == []


def test_links_point_to_existing_files_and_headings():
    text = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (NOTEBOOK.parent / path).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.slow
def test_all_cells_run_on_the_outputs_of_the_pipeline(clone, monkeypatch):
    fix = "needs Jupyter, which make tour installs"
    nbformat, nbclient = (pytest.importorskip(name, reason=fix) for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel", reason=fix)
    monkeypatch.setenv("PYTHONPATH", str(clone))  # the notebook finds the data relative to lib
    notebook = nbformat.read(clone / "docs/tour.ipynb", as_version=4)
    resources = {"metadata": {"path": str(clone / "docs")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
