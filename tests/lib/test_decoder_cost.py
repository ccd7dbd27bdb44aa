"""What a decoder costs: parameters are counted, sizes are made equal, and speeds are measured without changing it."""

from dataclasses import replace

import pytest
import torch

from lib.app import decoder_cost
from lib.app.decoder_cost import equal_size, measure_speeds, num_parameters
from lib.model.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["a", "dog", "runs"])
CONFIG = DecoderConfig(4, 6, len(VOCABULARY), "lstm", "scratch", "additive", 16, 64, 0.1)


@pytest.mark.parametrize("attention", ["none", "additive"])
@pytest.mark.parametrize("cell", ["lstm", "rnn", "transformer"])
def test_another_cell_gets_about_the_same_number_of_parameters(cell, attention):
    config = replace(CONFIG, attention=attention)
    found = equal_size(config, cell)
    assert replace(found, cell="lstm", hidden_size=64) == config
    assert found.hidden_size == 64 or cell != "lstm"
    counts = [sum(parameter.numel() for parameter in Decoder(each).parameters()) for each in (config, found)]
    assert counts == [num_parameters(config), num_parameters(found)]
    assert counts[1] == pytest.approx(counts[0], rel=0.2)
    for change in (-8, 8):  # the neighbours are not nearer
        other = num_parameters(replace(found, hidden_size=found.hidden_size + change))
        assert abs(other - counts[0]) >= abs(counts[1] - counts[0])


def test_speeds_are_measured_and_the_decoders_do_not_change(monkeypatch):
    monkeypatch.setattr(decoder_cost, "_ROUNDS", 1)
    torch.manual_seed(0)
    decoders = {cell: Decoder(replace(CONFIG, cell=cell)).eval() for cell in ("rnn", "lstm", "transformer")}
    before = {name: parameter.clone() for name, parameter in decoders["transformer"].named_parameters()}
    captions = [[["a", "dog"], ["dog", "runs"]]] * 8
    speeds = measure_speeds(decoders, VOCABULARY, captions, batch_size=4, beam_size=2)
    assert list(speeds) == list(decoders)
    assert all(speed.training > 0 and speed.decoding > 0 for speed in speeds.values())
    assert all(torch.equal(before[name], p) for name, p in decoders["transformer"].named_parameters())
