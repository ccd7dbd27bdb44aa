"""The decoder and its searches, against brute force and against themselves."""

import itertools

import pytest
import torch

from lib.captioner.beam import beam_search
from lib.captioner.decoder import Decoder, DecoderConfig
from lib.captioner.greedy import greedy
from lib.text.vocabulary import END, PAD, START, UNKNOWN

KINDS = list(itertools.product(["lstm", "rnn"], ["scratch", "torch"], ["none", "additive"]))


def decoder(cell="lstm", implementation="scratch", attention="additive", vocabulary=9, places=4, seed=0) -> Decoder:
    torch.manual_seed(seed)
    config = DecoderConfig(places, 6, vocabulary, cell, implementation, attention, 8, 8, 0.5)
    made = Decoder(config).double().eval()
    for parameter in made.parameters():  # far from uniform predictions
        parameter.data.mul_(3)
    return made


def features(images=7, places=4):
    torch.manual_seed(1)
    return torch.randn(images, places, 6, dtype=torch.float64)


@pytest.mark.parametrize(("cell", "implementation", "attention"), KINDS)
def test_steps_give_what_teacher_forcing_gives(cell, implementation, attention):
    model, pictures = decoder(cell, implementation, attention), features(2)
    captions = torch.tensor([[START, 4, 5, 6, END], [START, 7, END, PAD, PAD]])
    rows = torch.tensor([1, 0])
    scores = torch.log_softmax(model(pictures, rows, captions), dim=1)
    expected, state = [], model.start(pictures[rows])
    for t in range(4):
        log_p, state = model.step(captions[:, t], state)
        expected.append(log_p)
    by_step = torch.stack(expected, dim=1)[captions[:, 1:] != PAD]
    allowed = torch.isfinite(by_step)
    assert torch.allclose(scores[allowed], by_step[allowed])
    assert (~allowed).nonzero()[:, 1].unique().tolist() == [PAD, START, UNKNOWN]


@pytest.mark.parametrize("attention", ["none", "additive"])
def test_scratch_and_torch_cells_write_the_same_captions_with_the_same_weights(attention):
    for cell in ("lstm", "rnn"):
        scratch, reference = decoder(cell, "scratch", attention), decoder(cell, "torch", attention, seed=5)
        reference.load_state_dict(scratch.state_dict())
        found = beam_search(scratch, features(), 3, 8, 0.7)
        assert found == beam_search(reference, features(), 3, 8, 0.7)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed):
    model = decoder(seed=seed)
    for ours, theirs in zip(beam_search(model, features(), 1, 6, 0.7), greedy(model, features(), 6), strict=True):
        end = theirs.index(END) + 1 if END in theirs else len(theirs)
        assert ours[:end] == theirs[:end]


@pytest.mark.parametrize("search", [lambda m, f: greedy(m, f, 6), lambda m, f: beam_search(m, f, 3, 6, 0.7)])
def test_a_caption_does_not_depend_on_its_batch(search):
    model, pictures = decoder(), features()

    def until_end(ids):
        return ids[: ids.index(END)] if END in ids else ids

    together = [until_end(ids) for ids in search(model, pictures)]
    alone = [until_end(search(model, picture[None])[0]) for picture in pictures]
    shuffled = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert together == alone
    assert [until_end(ids) for ids in search(model, pictures[shuffled])] == [together[i] for i in shuffled]


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_caption_of_all(length_penalty, seed):
    model, picture, longest = decoder(vocabulary=7, seed=seed), features(1), 3
    words = [i for i in range(7) if i not in (PAD, START, UNKNOWN, END)]
    captions = [(*body, END) for n in range(longest) for body in itertools.product(words, repeat=n)]
    captions += list(itertools.product(words, repeat=longest))

    def rank(caption):
        log_p, state, word = 0.0, model.start(picture), START
        for following in caption:
            scores, state = model.step(torch.tensor([word]), state)
            log_p, word = log_p + scores[0, following].item(), following
        return log_p / len(caption) ** length_penalty

    with torch.inference_mode():
        best = max(captions, key=rank)
    (found,) = beam_search(model, picture, 200, longest, length_penalty)
    assert tuple(i for i in found if i != PAD) == best


def test_a_caption_that_never_ends_is_given_as_it_stands():
    model = decoder()
    model.output.bias.data[END] = -1e9
    for found in (greedy(model, features(), 5), beam_search(model, features(), 3, 5, 0.7)):
        assert all(len(ids) == 5 for ids in found)


def test_only_words_are_written():
    model = decoder()
    model.output.bias.data[[PAD, START, UNKNOWN]] = 1e3
    for found in (greedy(model, features(), 5), beam_search(model, features(), 3, 5, 0.7)):
        for ids in found:
            until_end = ids[: ids.index(END)] if END in ids else ids
            assert not {PAD, START, UNKNOWN} & set(until_end)
