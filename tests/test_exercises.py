"""docs/exercises: the checker accepts a right solution, and names each typical mistake by what it computes."""

import copy
import inspect
import itertools
import re
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import lib.cells.lstm
import lib.cells.rnn
from docs.exercises import answers
from docs.exercises.check import NOT_CHECKED, NOT_DONE, RIGHT, STUBS, WRONG, Mistake, check, compare, load, main
from lib.core.errors import UserError
from lib.search.beam import beam_search
from tests import solutions

SOLUTION = "\n".join(map(inspect.getsource, (lib.cells.rnn, lib.cells.lstm, solutions)))
NAMES = [exercise.name for exercise in answers.EXERCISES]


@pytest.fixture
def checked(tmp_path):
    """Return a function that checks the solution after changes: in the function `name`, `old` becomes `new`."""

    def check_changed(*changes: tuple[str, str, str]) -> dict[str, tuple[str, str]]:
        text = SOLUTION
        for name, old, new in changes:
            before, start, after = text.partition(f"def {name}(")
            body, following, rest = after.partition("\ndef ")
            assert old in body
            text = before + start + body.replace(old, new) + following + rest
        path = tmp_path / "mine.py"
        path.write_text(text, "utf-8")
        return check(load(path))

    return check_changed


def test_a_right_solution_passes(checked):
    assert checked() == dict.fromkeys(NAMES, (RIGHT, ""))


# exercise, a piece of the right solution, the mistake, words of the hint
MISTAKES = [
    ("rnn_step_forward", "torch.tanh(x @ Wx + prev_h @ Wh + b)", "x @ Wx + prev_h @ Wh + b", "tanh is missing"),
    ("rnn_step_forward", " + b)", ")", "bias"),
    ("rnn_step_backward", "dnext_h * (1 - next_h**2)", "dnext_h", "derivative of tanh"),
    ("rnn_step_backward", "da @ Wh.T", "da @ Wh", "must be transposed"),
    ("rnn_step_backward", "da @ Wx.T", "da @ Wx", "need a transpose"),
    ("rnn_step_backward", "da.sum(0)", "da", "sum over the captions"),
    ("rnn_step_backward", "da.sum(0)", "da.mean(0)", "0.333 times"),
    ("rnn_step_backward", "x.T @ da", "da.T @ x", "order of its axes"),
    ("rnn_forward", "rnn_step_forward(x_t, h,", "rnn_step_forward(x_t, h0,", "the state of the step before"),
    ("rnn_forward", "torch.stack(hs, dim=1)", "torch.stack(hs, dim=0)", "order of its axes"),
    ("rnn_backward", "dh_t + dprev_h", "dh_t", "h of step t also"),
    ("rnn_backward", "dWx + dWx_t, dWh + dWh_t, db + db_t", "dWx_t, dWh_t, db_t", "one step only"),
    ("lstm_step_forward", "a_i, a_f, a_g, a_o =", "a_i, a_f, a_o, a_g =", "in the order i, f, o, g"),
    ("lstm_step_forward", "f * prev_c + i * g", "f + i * g", "prev_c does not reach"),
    ("lstm_step_forward", "f * prev_c + i * g", "i * g", "prev_c does not reach"),
    ("lstm_step_forward", "o * torch.tanh(next_c)", "o * next_c", "tanh of next_c"),
    ("lstm_step_backward", "dc = dnext_c + ", "dc = ", "through dnext_c is missing"),
    ("lstm_step_backward", "dnext_c + dnext_h * o * (1 - tanh_c**2)", "dnext_c", "through next_h is missing"),
    ("lstm_step_backward", "da @ Wh.T, dc * f", "da @ Wh.T, dnext_c * f", "through next_h is missing"),
    ("lstm_step_backward", " * (1 - tanh_c**2)", "", "derivative of tanh(next_c)"),
    ("lstm_step_backward", "da @ Wx.T", "da @ Wx", "need a transpose"),
    ("lstm_step_backward", "da.sum(0)", "da", "sum over the captions"),
    ("lstm_forward", "lstm_step_forward(x_t, h, c,", "lstm_step_forward(x_t, h, 0 * c,", "c of the step before"),
    ("lstm_backward", "dh_t + dprev_h", "dh_t", "h of step t also"),
    ("lstm_backward", "dh_t + dprev_h, dprev_c", "dh_t + dprev_h, 0 * dprev_c", "c of step t also"),
    ("lstm_backward", "dWx + dWx_t, dWh + dWh_t, db + db_t", "dWx_t, dWh_t, db_t", "one step only"),
    ("temporal_softmax_loss", "log() * mask", "log()", "mask is not used"),
    ("temporal_softmax_loss", "dx * mask[:, :, None]", "dx", "mask is not used"),
    ("temporal_softmax_loss", "sum() / N", "sum() / (N * T)", "divisor is N"),
    ("temporal_softmax_loss", "sum() / N", "sum() / mask.sum()", "divisor is the number of words"),
    ("temporal_softmax_loss", "[:, :, None] / N", "[:, :, None]", "divisor is 1"),
    ("temporal_softmax_loss", "x - x.amax(2, keepdim=True)", "x", "exp overflows"),
    ("temporal_softmax_loss", "dx[n, t, y] -= 1", "", "score of the right word"),
    ("greedy_search", "if token == end:", "if False:", "tokens follow after end"),
    ("greedy_search", "tokens = []", "tokens = [start]", "start is in the result"),
    ("greedy_search", "log_probs, state =", "log_probs, _ =", "first state"),
    ("beam_search", "if end in tokens:", "if False:", "finished hypothesis is extended"),
    ("beam_search", "in beam:", "in beam[:1]:", "only the best hypothesis"),
    ("beam_search", "enumerate(log_probs.tolist())", "[(log_probs.argmax(), log_probs.max())]", "one child"),
    ("beam_search", "total + log_prob", "log_prob", "sum over all its tokens"),
    ("beam_search", "[(tokens, total) for", "[([t for t in tokens if t != end], total) for", "end is missing"),
    ("bleu", "(ngrams(tokens, n) & most).total()", "sum(k * (gram in most) for gram, k in ngrams(tokens, n).items())",
     "clipped"),
    ("bleu", "most |= ngrams(reference, n)", "most += ngrams(reference, n)", "all together"),
    ("bleu", "exp(1 - r / c) if c < r", "exp(1 - c / r) if c < r", "upside down"),
    ("bleu", "if c < r else", "if c > r else", "upside down"),
    ("bleu", "exp(1 - r / c) if c < r else 1.0", "1.0", "penalty is missing"),
    ("bleu", "prod(precisions[:n]) ** (1 / n)", "sum(precisions[:n]) / n", "arithmetic"),
    ("bleu", ", key=lambda length: (abs(length - len(tokens)), length)", "", "shortest reference"),
    ("bleu", "min(lengths, key=lambda length: (abs(length - len(tokens)), length))", "lengths[0]", "first reference"),
    ("bleu", "(abs(length - len(tokens)), length))", "abs(length - len(tokens)))", "not the shorter"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "words"), MISTAKES)
def test_a_typical_mistake_gets_its_own_hint(checked, name, old, new, words):
    found = checked((name, old, new))
    status, message = found[name]
    assert status == WRONG
    assert words in message.splitlines()[1]
    assert len(message.splitlines()) == 2
    assert {status for other, (status, _) in found.items() if other != name} <= {RIGHT, NOT_CHECKED}


# exercise, a piece of the right solution, the mistake, words of the message
FAULTS = [
    ("rnn_step_backward", "da @ Wh.T", "da @ Wh.T + 1", "dprev_h has wrong values.* Right: dx, dWx, dWh, db"),
    ("rnn_step_backward", "da @ Wh.T, ", "", "returned values is 4. Expected 5"),
    ("rnn_step_backward", "da.sum(0)", "da.sum()", r"db is a number. Expected a tensor of shape \(6,\)"),
    ("rnn_step_backward", "da =", "da = dnext_h.mul_(2)\n    da =", "argument dnext_h is changed in place"),
    ("rnn_step_forward", "next_h = torch.tanh(x", "next_h = torch.tanh(x.mul_(2)", "argument x is changed in place"),
    ("rnn_forward", "hs, caches", "return None\n    hs, caches", "returns a NoneType. Expected 2"),
    ("lstm_step_forward", "next_c = f", "next_c = 0 / 0 * f", "ZeroDivisionError in line"),
    ("lstm_step_forward", "o * torch.tanh(next_c)", "o * torch.tanh(next_c) / 0", "next_h contains NaN"),
    ("greedy_search", "len(tokens) < max_length", "True", "Does your loop stop"),
    ("greedy_search", "return tokens", "return None", "tokens is a NoneType. Expected a list"),
    ("beam_search", "total + log_prob", "total + 2 * log_prob", "hypothesis 1 is .*Expected"),
    ("beam_search", "[:beam_size]", "[:2]", "returned values is 2. Expected 3"),
    ("bleu", "penalty * prod", "0.9 * penalty * prod", "bleu_1 is 0.*Expected 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "words"), FAULTS)
def test_an_unknown_mistake_gets_a_message_about_the_value(checked, name, old, new, words):
    status, message = checked((name, old, new))[name]
    assert status == WRONG
    assert re.search(words, message)


@pytest.mark.parametrize("exercise", answers.EXERCISES, ids=NAMES)
def test_the_values_of_each_known_mistake_get_its_hint(exercise):
    for hint, mistake in exercise.mistakes:
        with pytest.raises(Mistake) as raised:
            compare(exercise, [answers.results(mistake, case) for case in exercise.cases])
        assert str(raised.value).endswith(f"Hint: {hint}")


def test_a_wrong_step_does_not_spoil_the_exercises_that_call_it(checked):
    found = checked(("rnn_step_forward", "torch.tanh", "torch.sin"))
    assert [found[name][0] for name in NAMES[:4]] == [WRONG, RIGHT, RIGHT, RIGHT]


def test_an_exercise_that_fails_because_of_another_is_not_checked(checked):
    """The backward step reads the student's own cache, and the forward step that makes it is wrong."""
    found = checked(
        ("rnn_step_forward", "torch.tanh", "torch.sin"),
        ("rnn_step_forward", "RNNStepCache(x, prev_h, next_h, Wx, Wh)", "(Wx, Wh, x, prev_h, next_h)"),
        ("rnn_step_backward", "x, prev_h, next_h, Wx, Wh = cache", "Wx, Wh, x, prev_h, next_h = cache"),
    )
    assert [found[name][0] for name in NAMES[:4]] == [WRONG, NOT_CHECKED, RIGHT, RIGHT]
    assert "rnn_step_forward" in found["rnn_step_backward"][1]


def test_the_stubs_are_not_done():
    assert check(load(STUBS)) == dict.fromkeys(NAMES, (NOT_DONE, ""))


@pytest.mark.parametrize(("text", "status"), [(SOLUTION, 0), (STUBS.read_text("utf-8"), 1), ("", 1)])
def test_the_exit_status_is_0_only_if_all_are_right(tmp_path, monkeypatch, capsys, text, status):
    path = tmp_path / "mine.py"
    path.write_text(text, "utf-8")
    monkeypatch.setattr(sys, "argv", ["check", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert int(ended.value.code) == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:12]] == NAMES
    assert lines[-1].startswith(f"{0 if status else 12} right")


@pytest.mark.parametrize("text", [None, "def f(:", "import missing_module"])
def test_a_file_that_cannot_be_imported_is_named(tmp_path, text):
    path = tmp_path / "mine.py"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=r"FILE=.*mine\.py"):
        load(path)


@dataclass
class States:
    """The states of several captions, as `lib.search` expects them."""

    rows: list[torch.Tensor]

    @property
    def attention_weights(self):
        return torch.zeros(len(self.rows), 0)

    def select(self, rows):
        return States([self.rows[i] for i in rows])


def batched(step, state):
    """Return a model for `lib.search` from the step of an exercise."""

    def step_all(tokens, states):
        log_probs, rows = zip(*map(step, tokens.tolist(), states.rows), strict=True)
        return torch.stack(log_probs), States(list(rows))

    return SimpleNamespace(init_state=lambda features: States([state] * len(features)), step=step_all)


@pytest.mark.parametrize("case", answers.SEARCH[1].cases)
def test_the_right_beam_is_that_of_lib(case):
    step, state, _, _, beam_size, max_length = copy.deepcopy(case).arguments.values()
    lib = beam_search(batched(step, state), torch.zeros(1, 1, 1), beam_size, max_length, 0.0, lambda p, _: p)[0]
    right = answers.beam_search(**copy.deepcopy(case).arguments)
    assert [tokens for tokens, _ in right] == [hypothesis.token_ids for hypothesis in lib]
    assert [total for _, total in right] == pytest.approx([hypothesis.log_prob for hypothesis in lib], abs=1e-4)


def test_a_wide_beam_finds_the_best_of_all_captions():
    step, state, start, end, *_ = copy.deepcopy(answers.SEARCH[1].cases[0]).arguments.values()
    captions = {}
    for tokens in itertools.product(range(answers.SIZES["V"]), repeat=2):
        tokens, total, now = list(tokens[: tokens.index(end) + 1] if end in tokens else tokens), 0.0, state
        for previous, token in zip([start, *tokens], tokens, strict=False):
            log_probs, now = step(previous, now)
            total += float(log_probs[token])
        captions[tuple(tokens)] = total
    best = sorted(captions.items(), key=lambda item: -item[1])
    wide = answers.beam_search(step, state, start, end, len(best), 2)
    assert [tuple(tokens) for tokens, _ in wide[:5]] == [tokens for tokens, _ in best[:5]]
