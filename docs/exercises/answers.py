"""The right results of each exercise, and the results of typical mistakes. The checker compares a student's with both.

A mistake in a backward pass is written as a forward pass with right values, from which autograd computes the wrong
gradients of this mistake. For example, `h.detach()` stops the gradient to the step before, and a tanh with derivative 1
is a missing derivative.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from math import exp, prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from lib import cells
from lib.scoring import score

Values = tuple[Any, ...] | list[Any]
Function = Callable[..., Values]
Mistake = tuple[str, Function]  # the hint, and a function that makes the mistake

SIZES = {"N": 3, "T": 4, "D": 5, "H": 6, "F": 4 * 6, "V": 7}  # all different, so that every wrong shape is noticed
START, END = 1, 2


@dataclass(frozen=True)
class Case:
    """The arguments of a function and, for a backward function, the gradients of the outputs."""

    arguments: dict[str, Any]
    upstream: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Exercise:
    """An exercise. For a backward function, `answer` and `mistakes` are forward functions, for autograd."""

    name: str
    returns: tuple[str, ...]
    cases: list[Case]
    answer: Function
    mistakes: list[Mistake]
    needs: tuple[str, ...] = ()  # the exercises whose functions this one may call
    forward: str = ""  # for a backward function: the function that makes its cache


def results(function: Function, case: Case) -> Values:
    """Return the values of a function or, if there are upstream gradients, the gradients of its arguments."""
    if not case.upstream:
        return function(*copy.deepcopy(case).arguments.values())
    inputs = [value.clone().requires_grad_() for value in case.arguments.values()]
    outputs = zip(case.upstream.values(), function(*inputs), strict=True)
    loss = torch.stack([(gradient * output).sum() for gradient, output in outputs]).sum()
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def draw(shapes: str) -> dict[str, Tensor]:
    """Return random tensors: "x ND, b H" gives x (N, D) and b (H,)."""
    generator = torch.Generator().manual_seed(0)
    pairs = [part.split() for part in shapes.split(", ")]
    return {name: torch.randn([SIZES[size] for size in sizes], generator=generator) * 0.7 for name, sizes in pairs}


# ---- RNN and LSTM ----


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """Return `value`, but let autograd compute the gradient of `surrogate`."""
    return surrogate + (value - surrogate).detach()


def without_derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda a: with_gradient_of(a, function(a))


def untransposed(x: Tensor, W: Tensor) -> Tensor:
    """Return x W with the gradient da W of x instead of da W^T. Only a square W allows this mistake."""
    return with_gradient_of(x @ W.detach().T + x.detach() @ W, x @ W) if W.shape[0] == W.shape[1] else x @ W


def rnn_step(
    x: Tensor, h: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor, *, tanh: Any = torch.tanh, product: Any = torch.matmul
) -> tuple[Tensor]:
    return (tanh(product(x, Wx) + product(h, Wh) + b),)


def lstm_step(
    x: Tensor, h: Tensor, c: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor, *, order: Any = "ifgo", joined: Any = "ifgo",
    sigmoid: Any = torch.sigmoid, tanh_g: Any = torch.tanh, tanh_c: Any = torch.tanh,
    memory: Any = lambda i, f, g, c: f * c + i * g,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run a step. `order` is that of the gates in the forward pass, `joined` that in the backward pass."""
    blocks = (x @ Wx + h @ Wh + b).chunk(4, dim=1)
    read, write = dict(zip(order, blocks, strict=True)), dict(zip(joined, blocks, strict=True))
    i, f, g, o = (with_gradient_of(write[gate], read[gate]) for gate in "ifgo")
    next_c = memory(sigmoid(i), sigmoid(f), tanh_g(g), c)
    return sigmoid(o) * tanh_c(next_c), next_c


def unroll(
    step: Function, x: Tensor, first: Values, weights: Values,
    carry: Any = lambda state, first: state, trains: Any = lambda t: True,
) -> tuple[Tensor]:  # fmt: skip
    """Run a cell. `carry` makes the state that the next step gets; `trains` tells which steps give weight gradients."""
    hs, state = [], first
    for t, x_t in enumerate(x.unbind(1)):
        state = step(x_t, *(carry(state, first) if t else first), *(w if trains(t) else w.detach() for w in weights))
        hs.append(state[0])
    return (torch.stack(hs, dim=1),)


def rnn(x: Tensor, h0: Tensor, *weights: Tensor, **mistake: Any) -> tuple[Tensor]:
    return unroll(rnn_step, x, (h0,), weights, **mistake)


def lstm(x: Tensor, h0: Tensor, *weights: Tensor, **mistake: Any) -> tuple[Tensor]:
    return unroll(lstm_step, x, (h0, torch.zeros_like(h0)), weights, **mistake)


def without_cache(forward: Callable[..., Any]) -> Function:
    return lambda *arguments: forward(*arguments)[:-1]


NO_TANH, NO_BIAS = "tanh is missing.", "the bias b is missing."
NO_DERIVATIVE = "the derivative of {} is missing."
NO_TRANSPOSE = "a weight matrix must be transposed in the backward pass."
NO_STATE = "a step does not get the state of the step before."
NO_H0 = "h0 is not used."
NO_LATER_STEPS = "{} of step t also changes the loss through step t + 1. The gradient from there is missing."
ONE_STEP = "the gradients of the weights are those of one step only. All steps use the same weights."
ORDER = "the gates are in the order {}, {}, {}, {}. The order of this exercise is i, f, g, o."
ORDERS = [order for order in permutations("ifgo") if "".join(order) != "ifgo"]

RNN_STEP = draw("x ND, prev_h NH, Wx DH, Wh HH, b H")
RNN = draw("x NTD, h0 NH, Wx DH, Wh HH, b H")
LSTM_STEP = draw("x ND, prev_h NH, prev_c NH, Wx DF, Wh HF, b F")
LSTM = draw("x NTD, h0 NH, Wx DF, Wh HF, b F")


def sequence_mistakes(run: Any) -> tuple[list[Mistake], list[Mistake]]:
    """Return the mistakes that both cells allow, forward and backward."""
    return [
        (NO_H0, lambda x, h0, *weights: run(x, 0 * h0, *weights)),
        (NO_STATE, partial(run, carry=lambda state, first: first)),
    ], [
        (NO_LATER_STEPS.format("h"), partial(run, carry=lambda state, first: (state[0].detach(), *state[1:]))),
        (ONE_STEP, partial(run, trains=lambda t: t == 0)),
        (ONE_STEP, partial(run, trains=lambda t: t == SIZES["T"] - 1)),
    ]  # fmt: skip


RNN_FORWARD_MISTAKES, RNN_BACKWARD_MISTAKES = sequence_mistakes(rnn)
LSTM_FORWARD_MISTAKES, LSTM_BACKWARD_MISTAKES = sequence_mistakes(lstm)

CELLS = [
    Exercise(
        "rnn_step_forward", ("next_h", "cache"), [Case(RNN_STEP)], without_cache(cells.rnn_step_forward),
        [
            (NO_TANH, partial(rnn_step, tanh=lambda a: a)),
            (NO_BIAS, lambda x, h, Wx, Wh, b: rnn_step(x, h, Wx, Wh, 0 * b)),
            ("prev_h is not used.", lambda x, h, *weights: rnn_step(x, 0 * h, *weights)),
            ("Wh is transposed.", lambda x, h, Wx, Wh, b: rnn_step(x, h, Wx, Wh.T, b)),
        ],
    ),
    Exercise(
        "rnn_step_backward", ("dx", "dprev_h", "dWx", "dWh", "db"), [Case(RNN_STEP, draw("dnext_h NH"))],
        without_cache(cells.rnn_step_forward),
        [
            (NO_DERIVATIVE.format("tanh"), partial(rnn_step, tanh=without_derivative(torch.tanh))),
            (NO_TRANSPOSE, partial(rnn_step, product=untransposed)),
        ],
        needs=("rnn_step_forward",), forward="rnn_step_forward",
    ),
    Exercise(
        "rnn_forward", ("h", "cache"), [Case(RNN)], without_cache(cells.rnn_forward), RNN_FORWARD_MISTAKES,
        needs=("rnn_step_forward",),
    ),
    Exercise(
        "rnn_backward", ("dx", "dh0", "dWx", "dWh", "db"), [Case(RNN, draw("dh NTH"))],
        without_cache(cells.rnn_forward), RNN_BACKWARD_MISTAKES,
        needs=("rnn_step_forward", "rnn_step_backward", "rnn_forward"), forward="rnn_forward",
    ),
    Exercise(
        "lstm_step_forward", ("next_h", "next_c", "cache"), [Case(LSTM_STEP)], without_cache(cells.lstm_step_forward),
        [
            *((ORDER.format(*order), partial(lstm_step, order=order)) for order in ORDERS),
            ("the old memory prev_c does not reach next_c.", partial(lstm_step, memory=lambda i, f, g, c: i * g)),
            ("the old memory prev_c does not reach next_c.", partial(lstm_step, memory=lambda i, f, g, c: f + i * g)),
            ("the forget gate is not used.", partial(lstm_step, memory=lambda i, f, g, c: c + i * g)),
            ("the input gate is not used.", partial(lstm_step, memory=lambda i, f, g, c: f * c + g)),
            ("g has a sigmoid instead of a tanh.", partial(lstm_step, tanh_g=torch.sigmoid)),
            ("the tanh of next_c is missing.", partial(lstm_step, tanh_c=lambda c: c)),
            (NO_BIAS, lambda x, h, c, Wx, Wh, b: lstm_step(x, h, c, Wx, Wh, 0 * b)),
        ],
    ),
    Exercise(
        "lstm_step_backward", ("dx", "dprev_h", "dprev_c", "dWx", "dWh", "db"),
        [Case(LSTM_STEP, draw("dnext_h NH, dnext_c NH"))], without_cache(cells.lstm_step_forward),
        [
            ("the gradient reaches next_c through two paths. The path through next_h is missing.",
             partial(lstm_step, tanh_c=lambda c: torch.tanh(c.detach()))),
            ("the gradient reaches next_c through two paths. The path through dnext_c is missing.",
             lambda *arguments: (lstm_step(*arguments)[0], lstm_step(*arguments)[1].detach())),
            (NO_DERIVATIVE.format("tanh(next_c)"), partial(lstm_step, tanh_c=without_derivative(torch.tanh))),
            (NO_DERIVATIVE.format("the tanh of g"), partial(lstm_step, tanh_g=without_derivative(torch.tanh))),
            (NO_DERIVATIVE.format("the sigmoid"), partial(lstm_step, sigmoid=without_derivative(torch.sigmoid))),
            *((ORDER.format(*order), partial(lstm_step, joined=order)) for order in ORDERS),
        ],
        needs=("lstm_step_forward",), forward="lstm_step_forward",
    ),
    Exercise(
        "lstm_forward", ("h", "cache"), [Case(LSTM)], without_cache(cells.lstm_forward),
        [*LSTM_FORWARD_MISTAKES, ("a step does not get the c of the step before.",
                                  partial(lstm, carry=lambda state, first: (state[0], first[1])))],
        needs=("lstm_step_forward",),
    ),
    Exercise(
        "lstm_backward", ("dx", "dh0", "dWx", "dWh", "db"), [Case(LSTM, draw("dh NTH"))],
        without_cache(cells.lstm_forward),
        [*LSTM_BACKWARD_MISTAKES,
         (NO_LATER_STEPS.format("c"), partial(lstm, carry=lambda state, first: (state[0], state[1].detach())))],
        needs=("lstm_step_forward", "lstm_step_backward", "lstm_forward"), forward="lstm_forward",
    ),
]  # fmt: skip


# ---- Temporal softmax loss ----


def loss_and_gradient(
    x: Tensor, y: Tensor, mask: Tensor, *, divisor: Any = lambda mask: len(mask), log_softmax: Any = log_softmax
) -> Values:
    x = x.clone().requires_grad_()
    right = log_softmax(x, 2).gather(2, y[:, :, None])[:, :, 0]  # (N, T)
    loss = -(right * mask).sum() / divisor(mask)
    return loss.detach(), *torch.autograd.grad(loss, x)


def softmax_cases() -> list[Case]:
    scores = draw("x NTV")["x"] * 4
    y = torch.arange(scores[..., 0].numel()).reshape(scores.shape[:2]) % SIZES["V"]
    mask = torch.arange(SIZES["T"]) < torch.tensor([[4], [2], [1]])  # captions of 4, 2 and 1 words
    return [Case({"x": x, "y": y, "mask": mask}) for x in (scores, scores + 1000)]


DIVISOR = "the divisor is {}. Read in the task what to divide by."
NO_MASK = "the mask is not used, so padding counts too."

LOSS = Exercise(
    "temporal_softmax_loss", ("loss", "dx"), softmax_cases(), loss_and_gradient,
    [
        (NO_MASK, lambda x, y, mask: loss_and_gradient(x, y, torch.ones_like(mask))),
        (DIVISOR.format("N * T"), partial(loss_and_gradient, divisor=Tensor.numel)),
        (DIVISOR.format("the number of words"), partial(loss_and_gradient, divisor=Tensor.sum)),
        (DIVISOR.format("1"), partial(loss_and_gradient, divisor=lambda mask: 1)),
        ("exp overflows for large scores. See the hint of the task.",
         partial(loss_and_gradient, log_softmax=lambda x, dim: (x.exp() / x.exp().sum(dim, keepdim=True)).log())),
        ("the softmax is missing.", partial(loss_and_gradient, log_softmax=lambda x, dim: x)),
        ("the gradient of the score of the right word is not special. What is the derivative of -log softmax(x)[y]?",
         partial(loss_and_gradient, log_softmax=lambda x, dim: with_gradient_of(
             -x.logsumexp(dim, keepdim=True).expand_as(x), x.log_softmax(dim)))),
    ],
)  # fmt: skip


# ---- Greedy and beam search ----


class TinyModel:
    """An RNN language model with random weights. A call is one step. Token 0, the padding, is never chosen."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.embedding, self.output = torch.randn(2, SIZES["V"], 4, generator=generator)
        self.Wh, self.calls = torch.randn(4, 4, generator=generator), 0

    def __call__(self, token: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return log_probs (V,) and the new state (1, 4)."""
        self.calls += 1
        if self.calls > 1000:
            raise RuntimeError("step was called 1,000 times. Does your loop stop after max_length tokens?")
        (state,) = rnn_step(self.embedding[[int(token)]], state, torch.eye(4), self.Wh, torch.zeros(4))
        scores = self.output @ state[0]
        scores[0] = -100
        return scores.log_softmax(0), state


def search_cases(*settings: tuple[int, int], **sizes: int) -> list[Case]:
    """Return a case for each (seed of the model, max_length)."""
    fixed = {"state": torch.zeros(1, 4), "start": START, "end": END, **sizes}
    return [Case({"step": TinyModel(seed), **fixed, "max_length": length}) for seed, length in settings]


def greedy_search(
    step: Any, state: Any, start: int, end: int, max_length: int, *, stops: bool = True, keeps_state: bool = True
) -> Values:
    tokens: list[int] = []
    while len(tokens) < max_length and not (stops and end in tokens):
        log_probs, new_state = step(tokens[-1] if tokens else start, state)
        state = new_state if keeps_state else state
        tokens.append(int(log_probs.argmax()))
    return (tokens,)


def beam_search(
    step: Any, state: Any, start: int, end: int, beam_size: int, max_length: int, *, stops: bool = True,
    parents: Any = None, children: int = SIZES["V"], adds: bool = True, aside: bool = False,
) -> list[tuple[list[int], float]]:  # fmt: skip
    """Run a beam search. `aside`: finished hypotheses leave the beam, and compete again at the end only."""
    beam: list[Any] = [([], 0.0, state)]
    finished: list[Any] = []
    for _ in range(max_length):
        candidates = []
        for tokens, total, state in beam[:parents]:
            if stops and end in tokens:
                candidates.append((tokens, total, state))
                continue
            log_probs, new_state = step(tokens[-1] if tokens else start, state)
            for token in log_probs.topk(children).indices.tolist():
                candidates.append(([*tokens, token], total * adds + float(log_probs[token]), new_state))
        candidates.sort(key=lambda candidate: -candidate[1])
        if aside:
            finished += [candidate for candidate in candidates if end in candidate[0]]
            candidates = [candidate for candidate in candidates if end not in candidate[0]]
        beam = candidates[:beam_size]
    best = sorted(beam + finished, key=lambda candidate: -candidate[1])
    return [(tokens, total) for tokens, total, _ in best[:beam_size]]


RUNS_ON = "tokens follow after end. The caption is complete when end is chosen."
NO_END = "end is missing in the result. The result includes it."
HAS_START = "start is in the result. The result never includes it."

SEARCH = [
    Exercise(
        "greedy_search", ("tokens",), search_cases((0, 8), (1, 8), (2, 8), (3, 4)), greedy_search,
        [
            (RUNS_ON, partial(greedy_search, stops=False)),
            (NO_END, lambda *given: ([t for t in greedy_search(*given)[0] if t != END],)),
            (HAS_START, lambda *given: ([START, *greedy_search(*given)[0]],)),
            (HAS_START, lambda *given: ([START, *greedy_search(*given)[0]][: given[-1]],)),
            ("every step gets the first state. Pass the new state to the next step.",
             partial(greedy_search, keeps_state=False)),
            ("if end is not reached, the caption is one token too long.",
             lambda step, state, start, end, length: greedy_search(step, state, start, end, length + 1)),
        ],
    ),
    Exercise(
        "beam_search", ("hypothesis 1", "hypothesis 2", "hypothesis 3"),
        search_cases((0, 6), (1, 6), (2, 6), (3, 4), beam_size=3), beam_search,
        [
            ("a finished hypothesis is extended. After end, a hypothesis stays as it is.",
             partial(beam_search, stops=False)),
            ("finished hypotheses leave the beam. They must keep their place and compete with the unfinished ones.",
             partial(beam_search, aside=True)),
            ("only the best hypothesis is extended. Every hypothesis of the beam is a parent.",
             partial(beam_search, parents=1)),
            ("each hypothesis has only one child. The best candidates may have the same parent.",
             partial(beam_search, children=1)),
            ("only the last log-probability counts. The score of a hypothesis is the sum over all its tokens.",
             partial(beam_search, adds=False)),
            ("the order is reversed. The best hypothesis comes first.", lambda *given: beam_search(*given)[::-1]),
            (NO_END, lambda *given: [([t for t in tokens if t != END], p) for tokens, p in beam_search(*given)]),
        ],
    ),
]  # fmt: skip


# ---- BLEU ----


def bleu(
    references: Any, hypotheses: Any, *, clip: Any = lambda count, limits: min(count, max(limits)),
    brevity: Any = lambda c, r: exp(min(0, 1 - r / c)), mean: Any = lambda p: prod(p) ** (1 / len(p)),
    length: Any = lambda lengths, own: min(lengths, key=lambda n: (abs(n - own), n)),
) -> list[float]:  # fmt: skip
    matches, totals = [0] * 4, [0] * 4
    for image, words in hypotheses.items():
        for n in range(4):
            counts, *limits = (ngrams(tokens, n + 1) for tokens in (words, *references[image]))
            matches[n] += sum(clip(count, [limit[gram] for limit in limits]) for gram, count in counts.items())
            totals[n] += counts.total()
    r = sum(length([len(tokens) for tokens in references[image]], len(words)) for image, words in hypotheses.items())
    penalty = brevity(sum(map(len, hypotheses.values())), r)
    precisions = [match / max(1, total) for match, total in zip(matches, totals, strict=True)]
    return [penalty * mean(precisions[:n]) for n in (1, 2, 3, 4)]


def ngrams(tokens: list[str], n: int) -> Counter[Any]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def sentence_bleu(references: Any, hypotheses: Any) -> list[float]:
    """Return the mean of the BLEU of each image."""
    scores = [bleu({image: references[image]}, {image: words}) for image, words in hypotheses.items()]
    return [sum(column) / len(scores) for column in zip(*scores, strict=True)]


def corpus(letters: str, lengths: tuple[int, ...]) -> Case:
    """Return images with three references and a hypothesis each, of random words. `lengths`: of the hypotheses."""
    source = random.Random(len(letters))
    references = {i: [source.choices(letters, k=k) for k in (8, 4, 13)] for i in range(len(lengths))}
    hypotheses = {i: source.choices(letters, k=k) for i, k in enumerate(lengths)}
    return Case({"references": references, "hypotheses": hypotheses})


CLIP = "an n-gram matches too often. {}"
LENGTH = "r adds up the {} reference lengths. Read in the task which length to take."
BREVITY = "the brevity penalty is upside down. It makes the score of a short hypothesis smaller, and never larger."

BLEU = Exercise(
    "bleu", ("bleu_1", "bleu_2", "bleu_3", "bleu_4"),
    # Captions that are too short, captions that are too long, and captions without matches for n = 4.
    [corpus("ab", (7, 11, 7, 7)), corpus("abc", (6, 6, 9, 9)), corpus("abcdefgh", (3, 2, 3, 4))],
    lambda references, hypotheses: list(score(references, hypotheses).values())[:4],
    [
        (CLIP.format("Its count must be clipped."), partial(bleu, clip=lambda count, limits: count * any(limits))),
        (CLIP.format("Clip by the one reference that has it most, not by all together."),
         partial(bleu, clip=lambda count, limits: min(count, sum(limits)))),
        (BREVITY, partial(bleu, brevity=lambda c, r: exp(1 - c / r) if c < r else 1)),
        (BREVITY, partial(bleu, brevity=lambda c, r: exp(1 - c / r) if c > r else 1)),
        (BREVITY, partial(bleu, brevity=lambda c, r: exp(1 - r / c) if c > r else 1)),
        ("the brevity penalty is missing.", partial(bleu, brevity=lambda c, r: 1)),
        ("the brevity penalty has no upper limit. It is 1 for long hypotheses.",
         partial(bleu, brevity=lambda c, r: exp(1 - r / c))),
        ("the mean of the precisions is arithmetic. It must be geometric.",
         partial(bleu, mean=lambda p: sum(p) / len(p))),
        ("BLEU-n has p_n alone instead of a mean of p_1 to p_n.", partial(bleu, mean=lambda p: p[-1])),
        (LENGTH.format("shortest"), partial(bleu, length=lambda lengths, own: min(lengths))),
        (LENGTH.format("longest"), partial(bleu, length=lambda lengths, own: max(lengths))),
        (LENGTH.format("first"), partial(bleu, length=lambda lengths, own: lengths[0])),
        (LENGTH.format("average"), partial(bleu, length=lambda lengths, own: sum(lengths) / len(lengths))),
        (LENGTH.format("closest, but of two equally close not the shorter,"),
         partial(bleu, length=lambda lengths, own: min(lengths, key=lambda n: abs(n - own)))),
        ("this is the mean BLEU of the images. Sum over the images before you divide.", sentence_bleu),
    ],
)  # fmt: skip

EXERCISES = [*CELLS, LOSS, *SEARCH, BLEU]
