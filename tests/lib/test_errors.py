"""Errors are one short line for any input. If a file has no read permission, the error says so."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from lib.app.caption import load_captioner
from lib.core.errors import UserError, readable_errors
from lib.features.pca import PCA, pca_path
from lib.model.saved import load_decoder, save_decoder, weights_path
from lib.vision.backbones import random_init
from tests.lib.small_training import VOCABULARY, decoder

NOBODY = 65534  # the id of a user without permissions, for tests that run as root, who may read everything


@given(st.text(max_size=2000))
def test_a_message_is_one_printable_line_of_less_than_500_characters(value):
    text = str(UserError(f"train.seed={value}: is wrong; fix it"))
    assert len(f"error: {text}") < 500
    assert text.isprintable()
    assert text.startswith("train.seed=")
    assert text.endswith("fix it")


def test_a_short_message_is_unchanged():
    assert str(UserError("a  b: é, 犬")) == "a  b: é, 犬"


@pytest.fixture
def folder():
    """A folder that other users may enter, unlike tmp_path."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def other_user():
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.fixture
def unreadable(folder):
    save_decoder(folder, decoder(), VOCABULARY)
    weights_path(folder).chmod(0)
    return folder


def test_weights_that_this_user_may_not_read_are_named(unreadable, other_user):
    with pytest.raises(UserError, match=r"decoder\.safetensors: permission denied"):
        load_decoder(unreadable)


@pytest.fixture
def closed(folder):
    (folder / "closed").mkdir()
    (folder / "closed/file").touch()
    (folder / "closed").chmod(0)
    yield folder / "closed"
    (folder / "closed").chmod(0o700)


def test_a_folder_that_this_user_may_not_enter_is_named(closed, other_user):
    with pytest.raises(UserError, match=r"closed/file: permission denied"), readable_errors(closed / "file"):
        (closed / "file").read_bytes()
    with pytest.raises(UserError, match=r"closed/model: permission denied"):
        load_captioner([closed / "model"])


def test_files_are_readable_by_the_umask(tmp_path):
    backbone, pca = random_init("small_net"), PCA(torch.zeros(2), torch.eye(2))
    for umask, mode in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        folder = tmp_path / str(umask)
        before = os.umask(umask)
        try:
            save_decoder(folder, decoder(), VOCABULARY)
            backbone.save(folder)
            pca.save(folder)
        finally:
            os.umask(before)
        assert pca_path(folder).exists()
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
            path.name: oct(mode) for path in folder.iterdir()
        }
