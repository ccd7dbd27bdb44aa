"""The learning curves are written while the run trains, and a few captions are printed after each epoch."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from lib.core.errors import UserError
from lib.training import loop
from lib.training.cross_entropy import CrossEntropy
from lib.training.loop import train_decoder
from lib.training.recorder import Recorder
from tests.lib.small_training import CROSS_ENTROPY, MAX_LENGTH, VOCABULARY, WORDS, data, decoder

EPOCHS = CROSS_ENTROPY.epochs
BATCHES = len(data().captions.batches(CROSS_ENTROPY.batch_size))


def objective(**changes) -> CrossEntropy:
    return CrossEntropy(decoder(), VOCABULARY, data(), data(), replace(CROSS_ENTROPY, **changes), MAX_LENGTH)


def test_the_files_grow_while_the_run_trains(tmp_path, monkeypatch):
    rows = []

    def seed_dropout(_):
        """Look at the files before each batch, as a user might."""
        paths = [tmp_path / name for name in ("curves.csv", "steps.csv")]
        rows.append([len(pd.read_csv(path)) if path.exists() else 0 for path in paths])

    monkeypatch.setattr(loop, "seed_dropout", seed_dropout)
    monkeypatch.setattr(loop, "_RECORD_SECONDS", 0.0)
    curve = train_decoder(objective(), recorder=Recorder(tmp_path))
    assert rows == [[step // BATCHES, step] for step in range(EPOCHS * BATCHES)]
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "curves.csv"), pd.DataFrame(curve), check_dtype=False, rtol=1e-5
    )
    best = loop.best_epoch(curve, CROSS_ENTROPY.monitor)
    assert json.loads((tmp_path / "summary.json").read_text()).items() <= {"best_epoch": best["epoch"], **best}.items()


@pytest.mark.parametrize(("limit", "size"), [(1, EPOCHS * BATCHES), (EPOCHS, BATCHES), (8, 3), (10**6, 1)])
def test_a_row_of_steps_is_the_mean_of_an_interval(tmp_path, monkeypatch, limit, size):
    monkeypatch.setattr(loop, "_STEP_ROWS", limit)
    curve = train_decoder(objective(), recorder=Recorder(tmp_path))
    steps = pd.read_csv(tmp_path / "steps.csv")
    assert steps["step"].tolist() == list(range(size, EPOCHS * BATCHES + 1, size))
    if size == BATCHES:
        assert steps["train_loss"].tolist() == pytest.approx([row["train_loss"] for row in curve], rel=1e-5)


def test_without_steps_the_table_has_only_a_header(tmp_path):
    Recorder(tmp_path).write_steps([], "reward")
    assert (tmp_path / "steps.csv").read_text() == "step,reward\n"


def test_captions_of_the_same_three_images_are_printed_after_each_epoch(monkeypatch, capsys):
    decoded = []

    def greedy_captions(*_):
        decoded.append([[WORDS[len(decoded)], WORDS[row % 20]] for row in range(23)])
        return decoded[-1]

    monkeypatch.setattr(loop, "greedy_captions", greedy_captions)
    train_decoder(objective(epochs=2))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    references = [captions[0] for captions in data().references.values()]
    assert lines == [
        f"image {row}{label}: {' '.join(captions[row])}"
        for label, captions in ((", reference", references), ("", decoded[0]), ("", decoded[1]))
        for row in (0, 7, 15)
    ]
    assert len(decoded) == 2  # once per epoch, for the scores and for printing


class Writer:
    """Stands in for SummaryWriter; `sent` has the scalars of all writers of a folder."""

    def __init__(self, folder: str, purge_step: int):
        assert purge_step == 0
        self.sent: list[tuple[str, int]] = []
        self.folders.append(folder)
        self.writers.append(self)

    folders: list[str] = []  # noqa: RUF012
    writers: list["Writer"] = []  # noqa: RUF012

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert value == value
        self.sent.append((tag, step))

    def flush(self) -> None:
        pass


def test_tensorboard_gets_every_row_once_and_the_files_do_not_change(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_RECORD_SECONDS", 0.0)
    train_decoder(objective(), recorder=Recorder(tmp_path / "without"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    for _ in range(2):  # the second run resumes after the last epoch
        recorder = Recorder(tmp_path / "with", tmp_path / "events")
        train_decoder(objective(), tmp_path / "checkpoint", recorder)
    assert Writer.folders == 2 * [str(tmp_path / "events")]
    for writer in Writer.writers:
        assert len(set(writer.sent)) == len(writer.sent)
        assert {("step/train_loss", EPOCHS * BATCHES), ("epoch/val_loss", 1)} < set(writer.sent)
    assert set(Writer.writers[0].sent) == set(Writer.writers[1].sent)
    for file in (tmp_path / "without").iterdir():
        assert file.read_bytes() == (tmp_path / "with" / file.name).read_bytes()


def test_tensorboard_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"^CAPTION_TENSORBOARD"):
        Recorder(tmp_path, tmp_path / "events")
