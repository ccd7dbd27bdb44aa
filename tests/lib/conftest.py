"""Fixtures that several of these modules use."""

import pytest

from tests.lib.tiny import write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A captioner's folder by the kind of attention; not to be written to."""
    folder = tmp_path_factory.mktemp("models")
    return {attention: write_model(folder / attention, attention) for attention in ("additive", "none")}
