"""Fixtures that several test modules share."""

import pytest

from tests.lib.tiny import write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return the model folder for each kind of attention. Tests must not write to these folders."""
    folder = tmp_path_factory.mktemp("models")
    return {attention: write_model(folder / attention, attention) for attention in ("additive", "none")}
