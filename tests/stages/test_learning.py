"""What train and finetune share."""

import pytest

from stages.common import learning

READ = [
    "data/captions/images.parquet", "data/captions/captions.parquet", "data/captions/vocabulary.json",
    "data/features/index.parquet", "data/features/features-00000.npy",
]  # fmt: skip


@pytest.mark.parametrize("changed", READ)
def test_a_run_does_not_go_on_from_one_on_other_data(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in READ:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"data")

    def folder():
        with learning.run_folder("train", {"epochs": 1}) as found:
            return found

    before = folder()
    assert folder() == before
    (tmp_path / changed).write_bytes(b"other")
    assert folder() != before
