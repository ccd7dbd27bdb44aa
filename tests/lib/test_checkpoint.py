"""Checkpoints: a training that is killed at any moment, and started again, ends in the same weights."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib.training.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
# Trains a small decoder with dropout and averaging; a checkpoint after each batch. Arguments: checkpoint, result, how.
TRAINING = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from lib.captioner.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary
from lib.training import loop
from lib.training.batches import caption_set
from lib.training.cross_entropy import Recipe, train_decoder
from lib.training.optimisation import make_deterministic
from lib.training.self_critical import Recipe as SelfCritical, finetune_decoder
from lib.training.split import Split

loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
torch.set_num_threads(1)
words = [chr(97 + i) for i in range(20)]
captions = [[[words[(i + j + k) % 20] for k in range(3 + j)] for j in range(3)] for i in range(40)]
vocabulary = Vocabulary(words)
torch.manual_seed(0)
features = torch.randn(40, 4, 8).half()
split = Split(features, dict(enumerate(captions)), caption_set(captions, vocabulary, 20))
make_deterministic(1)
model = Decoder(DecoderConfig(4, 8, len(vocabulary), "lstm", "scratch", "additive", 16, 16, 0.3))
common = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "seed": 1, "averaging": 0.9}
if sys.argv[3] == "cross-entropy":
    train, recipe = train_decoder, Recipe(**common, best_by="val_loss", label_smoothing=0.1)
else:
    train, recipe = finetune_decoder, SelfCritical(**common, best_by="val_cider_d", samples=2, baseline="greedy")
progress = None if sys.argv[1] == "none" else Path(sys.argv[1])
curve = train(model, vocabulary, split, split, recipe, 10, progress)
save_file(model.state_dict(), sys.argv[2], {"curve": repr(curve)})
"""


@pytest.mark.parametrize("how", ["cross-entropy", "self-critical"])
def test_killed_again_and_again_it_ends_in_the_same_weights(tmp_path, how):
    def training(checkpoint: Path | str, result: Path) -> subprocess.Popen:
        words = [sys.executable, "-c", TRAINING, str(checkpoint), str(result), how]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    assert training("none", tmp_path / "expected").wait() == 0
    moments, kills, at_work = random.Random(0), 0, 0.0
    while not (tmp_path / "result").exists():
        before = (tmp_path / "checkpoint").stat().st_mtime_ns if (tmp_path / "checkpoint").exists() else 0
        process = training(tmp_path / "checkpoint", tmp_path / "result")
        # Not before it has gone on by a batch, or it might be killed in its imports for ever.
        while process.poll() is None and (
            not (tmp_path / "checkpoint").exists() or (tmp_path / "checkpoint").stat().st_mtime_ns == before
        ):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.3))
        at_work += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if kills > 8:
            assert training(tmp_path / "checkpoint", tmp_path / "result").wait() == 0
    assert at_work >= 2
    assert (tmp_path / "result").read_bytes() == (tmp_path / "expected").read_bytes()


def test_what_was_saved_comes_back(tmp_path):
    shared = torch.randn(3, 4)
    save_checkpoint(tmp_path / "c", {"a": {"w.x": shared, "n": torch.tensor(3)}, "b": {"w": shared.T}}, [{"epoch": 1}])
    parts, position = load_checkpoint(tmp_path / "c", CPU)
    assert position == [{"epoch": 1}]
    assert torch.equal(parts["a"]["w.x"], shared)
    assert parts["a"]["n"].item() == 3
    assert torch.equal(parts["b"]["w"], shared.T)


@pytest.mark.parametrize("kept", [1, 5, 100])
def test_a_damaged_checkpoint_is_told_of_and_left(tmp_path, capsys, kept):
    save_checkpoint(tmp_path / "c", {"a": {"w": torch.randn(3, 4)}}, None)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:kept])
    assert load_checkpoint(tmp_path / "c", CPU) is None
    assert "damaged" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "absent", CPU) is None
