"""The wheel that other projects install."""

import shutil
import zipfile

import pytest

from tests.commands import command
from tests.stages.imports import ROOT


@pytest.mark.skipif(not shutil.which("uv"), reason="needs uv, which make setup installs")
def test_the_wheel_has_the_type_marker_and_the_files_of_the_pages(tmp_path):
    command(ROOT, "uv", "build", "--offline", "--quiet", "--wheel", "--out-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {"lib/py.typed", "lib/report/page.html", "lib/app/page/page.js"} <= set(archive.namelist())
