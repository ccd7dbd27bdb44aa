"""The decoder and its searches, against brute force and against themselves."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lib.core.errors import UserError
from lib.finetuning.sampling import SamplingConfig, sample
from lib.model.decoding import Hypothesis
from lib.model.greedy import greedy
from lib.search.beam import beam_search
from lib.search.constraints import NO_CONSTRAINTS, DecodingConstraints
from lib.search.ensemble import Ensemble
from lib.text.vocabulary import END, PAD, SPECIALS, START, UNKNOWN
from tests.lib.models import Table, decoder, features, taught

KINDS = list(itertools.product(["lstm", "rnn"], ["scratch", "torch"], ["none", "additive"]))
RULES = [
    NO_CONSTRAINTS,
    DecodingConstraints(min_length=2),
    DecodingConstraints(no_repeat_ngram_size=1),
    DecodingConstraints(no_repeat_ngram_size=2),
    DecodingConstraints(3, 2),
    DecodingConstraints(4, 1),
]


def all_beams(model, pictures, rules=NO_CONSTRAINTS) -> list[list[Hypothesis]]:
    return beam_search(model, pictures, 3, 6, 0.7, rules)


def greedily(model, pictures, rules=NO_CONSTRAINTS) -> list[list[Hypothesis]]:
    return [[caption] for caption in greedy(model, pictures, 6, rules)]


def drawn(model, pictures, rules=NO_CONSTRAINTS) -> list[list[Hypothesis]]:
    """Each picture with the same numbers, whatever its batch."""
    return [
        sample(model, picture[None], 3, 6, SamplingConfig(1.5), torch.Generator().manual_seed(3), rules.apply)[0]
        for picture in pictures
    ]


def ids(written: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[caption.token_ids for caption in captions] for captions in written]


def read_again(model, picture, caption: Hypothesis):
    """log_p of each word of the caption (T,), and what was looked at for each (T, P), fed word by word."""
    state, word, log_p, looked = model.init_state(picture[None]), START, [], []
    for following in caption.token_ids:
        scores, state = model.step(torch.tensor([word]), state)
        log_p.append(scores[0, following])
        looked.append(state.attention_weights[0])
        word = following
    return torch.stack(log_p), torch.stack(looked)


@pytest.mark.parametrize(("cell", "implementation", "attention"), KINDS)
def test_steps_give_what_teacher_forcing_gives(cell, implementation, attention):
    model, pictures = decoder(cell, implementation, attention), features(2)
    captions = torch.tensor([[START, 4, 5, 6, END], [START, 7, END, PAD, PAD]])
    rows = torch.tensor([1, 0])
    scores = torch.log_softmax(model(pictures, taught(rows, captions)), dim=1)
    expected, state = [], model.init_state(pictures[rows])
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
        assert ids(all_beams(scratch, features())) == ids(all_beams(reference, features()))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed, rules):
    model = decoder(seed=seed)
    beams, words = beam_search(model, features(), 1, 6, 0.7, rules), greedy(model, features(), 6, rules)
    assert ids(beams) == [[caption.token_ids] for caption in words]
    assert [beam.log_prob for (beam,) in beams] == pytest.approx([caption.log_prob for caption in words])


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("search", [greedily, all_beams])
def test_a_caption_does_not_depend_on_its_batch(search, rules):
    model, pictures = decoder(), features()
    together = ids(search(model, pictures, rules))
    alone = [ids(search(model, picture[None], rules))[0] for picture in pictures]
    shuffled = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert together == alone
    assert ids(search(model, pictures[shuffled], rules)) == [together[i] for i in shuffled]


@pytest.mark.parametrize("search", [greedily, all_beams])
def test_in_float32_it_depends_on_its_batch_by_a_tie_at_most(search):
    model, pictures = decoder(vocabulary=200).float(), features(40).float()

    def rank(caption: Hypothesis) -> float:
        return caption.log_prob / len(caption.token_ids) ** 0.7

    for picture, (best, *_) in zip(pictures, search(model, pictures), strict=True):
        ((alone, *_),) = search(model, picture[None])
        assert alone.token_ids == best.token_ids or abs(rank(alone) - rank(best)) < 1e-5


def everything(model, picture, longest: int, rules: DecodingConstraints) -> list[tuple[float, list[int]]]:
    """(log-probability, ids) of all captions that the rules allow, word by word and one by one."""

    def follow(word: int, state, log_p: float, written: list[int]):
        if word == END or len(written) == longest:
            yield log_p, written
            return
        scores, state = model.step(torch.tensor([word]), state)
        possible = (scores[0] > float("-inf")).nonzero()[:, 0].tolist()
        allowed = [word for word in possible if word != END and not repeats([*written, word])]
        if not allowed or (END in possible and len(written) >= rules.min_length):
            allowed.append(END)
        for following in allowed:
            yield from follow(following, state, log_p + scores[0, following].item(), [*written, following])

    def repeats(written: list[int]) -> bool:
        n = rules.no_repeat_ngram_size
        phrases = [tuple(written[i : i + n]) for i in range(len(written) - n + 1)] if n else []
        return len(set(phrases)) < len(phrases)

    with torch.inference_mode():
        return list(follow(START, model.init_state(picture), 0.0, []))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_wide_beam_finds_all_captions_in_their_order(length_penalty, seed, rules):
    model, picture, longest = decoder(vocabulary=7, seed=seed), features(1), 4
    if seed == 1:
        model = Ensemble([model, decoder("rnn", vocabulary=7, seed=9)])
    expected = everything(model, picture, longest, rules)
    expected.sort(key=lambda caption: caption[0] / len(caption[1]) ** length_penalty, reverse=True)
    (found,) = beam_search(model, picture, 200, longest, length_penalty, rules)
    assert [caption.token_ids for caption in found] == [written for _, written in expected]
    assert [caption.log_prob for caption in found] == pytest.approx([log_p for log_p, _ in expected])


@pytest.mark.parametrize("search", [greedily, all_beams, drawn])
@pytest.mark.parametrize("attention", ["none", "additive"])
def test_captions_come_with_what_the_model_gives_when_it_reads_them_again(search, attention):
    model, pictures = decoder(attention=attention), features()
    for picture, captions in zip(pictures, search(model, pictures), strict=True):
        for caption in captions:
            log_p, looked = read_again(model, picture, caption)
            assert caption.log_prob == pytest.approx(log_p.sum().item())
            assert caption.attention.shape == (len(caption.token_ids), 4 if attention == "additive" else 0)
            assert torch.allclose(caption.attention, looked)
            if attention == "additive":
                assert torch.allclose(
                    caption.attention.sum(dim=1), torch.ones(len(caption.token_ids), dtype=torch.float64)
                )


@pytest.mark.parametrize("search", [greedily, all_beams, drawn])
def test_a_caption_that_never_ends_is_given_as_it_stands(search):
    for weight in (-1e9, float("-inf")):
        model = decoder()
        model.output.bias.data[END] = weight
        for caption in itertools.chain(*search(model, features())):
            assert len(caption.token_ids) == 6
            assert END not in caption.token_ids


@pytest.mark.parametrize("search", [greedily, all_beams, drawn])
def test_only_words_are_written(search):
    model = decoder()
    model.output.bias.data[[PAD, START, UNKNOWN]] = 1e3
    for caption in itertools.chain(*search(model, features())):
        assert not {PAD, START, UNKNOWN} & set(caption.token_ids)


@st.composite
def tables(draw):
    """A model of a few words with any probabilities, ties, zeros and captions without end among them."""
    words = draw(st.integers(1, 4))
    vocabulary = len(SPECIALS) + words
    weight = st.sampled_from([float("-inf"), -1e30, -700.0, -2.0, -1.0, -0.5, 0.0])
    log_p = torch.tensor([[draw(weight) for _ in range(vocabulary)] for _ in range(vocabulary)])
    log_p[:, draw(st.integers(len(SPECIALS), vocabulary - 1))] = -1.0  # some word can always be written
    return Table(log_p)


@settings(max_examples=200)
@given(
    tables(),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    st.builds(DecodingConstraints, st.integers(0, 4), st.integers(0, 3)),
    st.integers(1, 3),
)
def test_whatever_the_model_captions_are_words_within_the_rules(model, beam, longest, penalty, rules, images):
    pictures = torch.zeros(images, 1, 1)
    by_beam = beam_search(model, pictures, beam, longest, penalty, rules)
    one_by_one = greedy(model, pictures, longest, rules)
    random = sample(model, pictures, 2, longest, SamplingConfig(2.0, 3, 0.9), torch.Generator(), rules.apply)
    assert ids(beam_search(model, pictures, 1, longest, penalty, rules)) == [
        [caption.token_ids] for caption in one_by_one
    ]
    for captions in by_beam:
        assert 1 <= len(captions) <= beam
        assert len({tuple(caption.token_ids) for caption in captions}) == len(captions)
        ranks = [caption.log_prob / len(caption.token_ids) ** penalty for caption in captions]
        assert all(first >= second or first == pytest.approx(second) for first, second in itertools.pairwise(ranks))
    allowed = {tuple(written) for _, written in everything(model, pictures[:1], longest, rules)}
    for caption in itertools.chain(*by_beam, one_by_one, *random):
        assert tuple(caption.token_ids) in allowed
        assert caption.attention.shape == (len(caption.token_ids), 0)


def test_an_ensemble_of_one_is_the_model():
    model, pictures = decoder(), features()
    for search in (greedily, all_beams, drawn):
        expected, found = (search(each, pictures) for each in (model, Ensemble([model])))
        assert ids(found) == ids(expected)
        for ours, theirs in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
            assert ours.log_prob == theirs.log_prob
            assert torch.equal(ours.attention, theirs.attention)


def test_an_ensemble_has_the_mean_of_probabilities_and_of_weights():
    models, pictures = [decoder(seed=seed, cell=cell) for seed, cell in enumerate(["lstm", "rnn", "lstm"])], features()
    together = Ensemble(models)
    state, states = together.init_state(pictures), [model.init_state(pictures) for model in models]
    rows = torch.tensor([2, 0, 0, 6])
    for word in (START, 4, 7):
        words = torch.full((len(pictures),), word)
        log_p, state = together.step(words, state)
        steps = [model.step(words, own) for model, own in zip(models, states, strict=True)]
        assert torch.allclose(log_p.exp(), sum(own.exp() for own, _ in steps) / 3)
        states = [own for _, own in steps]
        assert torch.allclose(state.attention_weights, sum(own.attention_weights for own in states) / 3)
        pictures, state = pictures[rows], state.select(rows)
        states = [own.select(rows) for own in states]
        rows = torch.arange(4)


def test_an_ensemble_that_does_not_look_at_the_same_places_gives_no_weights():
    models = [decoder(attention=attention) for attention in ("none", "additive")]
    for caption in itertools.chain(*all_beams(Ensemble(models), features())):
        assert caption.attention.shape == (len(caption.token_ids), 0)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: [decoder(vocabulary=9), decoder(vocabulary=8)], "vocabulary_size is 9, 8"),
        (lambda: [decoder(places=4), decoder(places=9)], "places is 4, 9"),
    ],
)
def test_models_of_other_words_or_features_are_refused(models, message):
    with pytest.raises(UserError, match=message):
        Ensemble(models())
