"""The decoder and the search methods, against brute force and against each other."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lib.finetuning.sampling import SamplingConfig, sample
from lib.model.decoding import Hypothesis, greedy
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.search.ensemble import Ensemble
from lib.text.vocabulary import END, PAD, SPECIALS, START, SUPPRESSED_TOKENS
from tests.lib.models import Table, caption_batch, decoder, features

KINDS = [
    *itertools.product(["lstm", "rnn"], ["scratch", "torch"], ["none", "additive"]),
    *(("transformer", "scratch", attention) for attention in ("none", "additive")),
]
CONSTRAINTS = [DecodingConstraints(*sizes) for sizes in [(0, 0), (2, 0), (0, 1), (0, 2), (3, 2), (4, 1)]]
UNCONSTRAINED = CONSTRAINTS[0]


def search_beams(model, images, constraints=UNCONSTRAINED) -> list[list[Hypothesis]]:
    return beam_search(model, images, 3, 6, 0.7, constraints.apply)


def search_greedily(model, images) -> list[list[Hypothesis]]:
    return [[hypothesis] for hypothesis in greedy(model, images, 6)]


def draw_samples(model, images, constraints=UNCONSTRAINED) -> list[list[Hypothesis]]:
    """Draw samples with the same random numbers for each image."""
    config, generator = SamplingConfig(1.5), torch.Generator()
    return [sample(model, x[None], 3, 6, config, generator.manual_seed(3), constraints.apply)[0] for x in images]


every_search = pytest.mark.parametrize("search", [search_greedily, search_beams, draw_samples])


def token_ids(results: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[hypothesis.token_ids for hypothesis in image] for image in results]


def read_again(model, image, hypothesis: Hypothesis):
    """Return the log-probability (T,) of each token, and the attention weights (T, P), step by step."""
    state, last, log_probs, attention = model.init_state(image[None]), START, [], []
    for token in hypothesis.token_ids:
        step_log_probs, state = model.step(torch.tensor([last]), state)
        log_probs.append(step_log_probs[0, token])
        attention.append(state.attention_weights[0])
        last = token
    return torch.stack(log_probs), torch.stack(attention)


@pytest.mark.parametrize(("cell", "implementation", "attention"), KINDS)
def test_steps_equal_teacher_forcing(cell, implementation, attention):
    model, images = decoder(cell, implementation, attention), features(2)
    captions = torch.tensor([[START, 4, 5, 6, END], [START, 7, END, PAD, PAD]])
    image_index = torch.tensor([1, 0])
    scores = torch.log_softmax(model(images, caption_batch(image_index, captions)), dim=1)
    steps, state = [], model.init_state(images[image_index])
    for t in range(4):
        log_probs, state = model.step(captions[:, t], state)
        steps.append(log_probs)
    by_step = torch.stack(steps, dim=1)[captions[:, 1:] != PAD]
    allowed = torch.isfinite(by_step)
    assert torch.allclose(scores[allowed], by_step[allowed])
    assert (~allowed).nonzero()[:, 1].unique().tolist() == SUPPRESSED_TOKENS


@pytest.mark.parametrize("attention", ["none", "additive"])
def test_scratch_and_torch_cells_give_the_same_captions_with_the_same_weights(attention):
    for cell in ("lstm", "rnn"):
        scratch, reference = decoder(cell, "scratch", attention), decoder(cell, "torch", attention, seed=5)
        reference.load_state_dict(scratch.state_dict())
        assert token_ids(search_beams(scratch, features())) == token_ids(search_beams(reference, features()))


@pytest.mark.parametrize(
    "search", [search_greedily, *(partial(search_beams, constraints=constraints) for constraints in CONSTRAINTS)]
)
@pytest.mark.parametrize("cell", ["lstm", "transformer"])
def test_a_caption_does_not_depend_on_its_batch(search, cell):
    model, images = decoder(cell), features()
    whole = token_ids(search(model, images))
    assert whole == [token_ids(search(model, image[None]))[0] for image in images]
    shuffled = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    assert token_ids(search(model, images[shuffled])) == [whole[i] for i in shuffled]


def all_captions(model, image, max_length: int, constraints: DecodingConstraints) -> list[tuple[float, list[int]]]:
    """Return (log-probability, token ids) of every caption that the constraints allow, by recursion."""

    def extend(last: int, state, log_prob: float, tokens: list[int]):
        if last == END or len(tokens) == max_length:
            yield log_prob, tokens
            return
        log_probs, state = model.step(torch.tensor([last]), state)
        possible = (log_probs[0] > float("-inf")).nonzero()[:, 0].tolist()
        allowed = [token for token in possible if token != END and not repeats([*tokens, token])]
        if not allowed or (END in possible and len(tokens) >= constraints.min_length):
            allowed.append(END)
        for token in allowed:
            yield from extend(token, state, log_prob + log_probs[0, token].item(), [*tokens, token])

    def repeats(tokens: list[int]) -> bool:
        n = constraints.no_repeat_ngram_size
        ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] if n else []
        return len(set(ngrams)) < len(ngrams)

    with torch.inference_mode():
        return list(extend(START, model.init_state(image), 0.0, []))


@pytest.mark.parametrize("constraints", CONSTRAINTS)
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_wide_beam_finds_all_captions_in_order(length_penalty, seed, constraints):
    model, image, max_length = decoder(vocabulary=7, seed=seed), features(1), 4
    if seed == 1:
        model = Ensemble([model, decoder("rnn", vocabulary=7, seed=9)])
    expected = all_captions(model, image, max_length, constraints)
    expected.sort(key=lambda caption: caption[0] / len(caption[1]) ** length_penalty, reverse=True)
    (beam,) = beam_search(model, image, 200, max_length, length_penalty, constraints.apply)
    assert [hypothesis.token_ids for hypothesis in beam] == [tokens for _, tokens in expected]
    assert [hypothesis.log_prob for hypothesis in beam] == pytest.approx([log_prob for log_prob, _ in expected])


@every_search
@pytest.mark.parametrize("cell", ["lstm", "transformer"])
@pytest.mark.parametrize("attention", ["none", "additive"])
def test_log_prob_and_attention_are_those_of_the_model(search, cell, attention):
    model, images = decoder(cell, attention=attention), features()
    for image, hypotheses in zip(images, search(model, images), strict=True):
        for hypothesis in hypotheses:
            log_probs, weights = read_again(model, image, hypothesis)
            assert hypothesis.log_prob == pytest.approx(log_probs.sum().item())
            assert hypothesis.attention.shape == (len(log_probs), 4 if attention == "additive" else 0)
            assert torch.allclose(hypothesis.attention, weights)
            if attention == "additive":
                assert hypothesis.attention.sum(dim=1).tolist() == pytest.approx([1] * len(log_probs))


@st.composite
def tables(draw):
    """Generate a `Table` with ties, zero probabilities and captions that never end."""
    words = draw(st.integers(1, 4))
    vocabulary = len(SPECIALS) + words
    values = st.sampled_from([float("-inf"), -1e30, -700.0, -2.0, -1.0, -0.5, 0.0])
    log_probs = torch.tensor([[draw(values) for _ in range(vocabulary)] for _ in range(vocabulary)])
    log_probs[:, draw(st.integers(len(SPECIALS), vocabulary - 1))] = -1.0  # so that one word is always possible
    return Table(log_probs)


@settings(max_examples=200)
@given(
    tables(), st.integers(1, 12), st.integers(1, 6), st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    st.builds(DecodingConstraints, st.integers(0, 4), st.integers(0, 3)), st.integers(1, 3),
)  # fmt: skip
def test_any_model_gives_captions_within_the_constraints(model, beam_size, max_length, penalty, constraints, count):
    images, constrain = torch.zeros(count, 1, 1), constraints.apply
    beams = beam_search(model, images, beam_size, max_length, penalty, constrain)
    samples = sample(model, images, 2, max_length, SamplingConfig(2.0, 3, 0.9), torch.Generator(), constrain)
    beams_of_one = beam_search(model, images, 1, max_length, penalty, UNCONSTRAINED.apply)
    assert token_ids(beams_of_one) == [[hypothesis.token_ids] for hypothesis in greedy(model, images, max_length)]
    for beam in beams:
        assert 1 <= len(beam) <= beam_size
        assert len({tuple(hypothesis.token_ids) for hypothesis in beam}) == len(beam)
        scores = [hypothesis.log_prob / len(hypothesis.token_ids) ** penalty for hypothesis in beam]
        assert all(first >= second or first == pytest.approx(second) for first, second in itertools.pairwise(scores))
    allowed = {tuple(tokens) for _, tokens in all_captions(model, images[:1], max_length, constraints)}
    for hypothesis in itertools.chain(*beams, *samples):
        assert tuple(hypothesis.token_ids) in allowed
        assert hypothesis.attention.shape == (len(hypothesis.token_ids), 0)


def test_an_ensemble_averages_probabilities_and_attention_weights():
    models = [decoder(seed=seed, cell=cell) for seed, cell in enumerate(["lstm", "rnn", "transformer"])]
    ensemble, images = Ensemble(models), features()
    state, states = ensemble.init_state(images), [model.init_state(images) for model in models]
    rows = torch.tensor([2, 0, 0, 6])
    for token in (START, 4, 7):
        tokens = torch.full((len(images),), token)
        log_probs, state = ensemble.step(tokens, state)
        steps = [model.step(tokens, part) for model, part in zip(models, states, strict=True)]
        assert torch.allclose(log_probs.exp(), sum(part.exp() for part, _ in steps) / 3)
        states = [part for _, part in steps]
        assert torch.allclose(state.attention_weights, sum(part.attention_weights for part in states) / 3)
        images, state = images[rows], state.select(rows)
        states = [part.select(rows) for part in states]
        rows = torch.arange(4)


def test_an_ensemble_of_mixed_attention_gives_no_attention_weights():
    models = [decoder(attention=attention) for attention in ("none", "additive")]
    for hypothesis in itertools.chain(*search_beams(Ensemble(models), features())):
        assert hypothesis.attention.shape == (len(hypothesis.token_ids), 0)
