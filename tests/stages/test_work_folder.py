"""The names of the work folders of train and finetune depend on all data that training reads."""

import pytest

from stages.common.checkpoints import work_folder
from stages.common.training import training_inputs

INPUTS = [
    "data/captions/captions.parquet", "data/captions/vocabulary.json",
    "data/features/images.parquet", "data/features/features-00000.npy",
]  # fmt: skip


@pytest.mark.parametrize("changed", INPUTS)
def test_other_data_has_another_work_folder(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"data")

    def folder():
        with work_folder("train", {"epochs": 1}, *training_inputs()) as path:
            return path

    before = folder()
    assert folder() == before
    (tmp_path / changed).write_bytes(b"other")
    assert folder() != before
