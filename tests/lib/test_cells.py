"""The cells against numeric gradients and against torch.nn, in float64."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lib.cells import (
    ScratchLSTM,
    ScratchRNN,
    lstm_backward,
    lstm_forward,
    lstm_step_backward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)

sizes = st.integers(1, 5)
MODULES = [(ScratchRNN, nn.RNN), (ScratchLSTM, nn.LSTM)]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)).item()


def numeric_gradient(f, x: Tensor, dout: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of sum(f() * dout) with respect to `x`, by central differences."""
    gradient = torch.zeros_like(x)
    for index in range(x.numel()):
        flat = x.view(-1)
        original = flat[index].item()
        flat[index] = original + step
        above = f()
        flat[index] = original - step
        below = f()
        flat[index] = original
        gradient.view(-1)[index] = ((above - below) * dout).sum() / (2 * step)
    return gradient


@pytest.mark.parametrize(
    ("gates", "forward", "backward"), [(1, rnn_forward, rnn_backward), (4, lstm_forward, lstm_backward)]
)
@settings(max_examples=10, deadline=None)
@given(n=sizes, t=sizes, d=sizes, h=sizes, seed=st.integers(0, 2**31))
def test_sequences_agree_with_numeric_gradients(gates, forward, backward, n, t, d, h, seed):
    torch.manual_seed(seed)
    inputs = [random(n, t, d), random(n, h), random(d, gates * h), random(h, gates * h), random(gates * h)]
    out, cache = forward(*inputs)
    assert out.shape == (n, t, h)
    dout = random(n, t, h)
    for ours, tensor in zip(backward(dout, cache), inputs, strict=True):
        numeric = numeric_gradient(lambda: forward(*inputs)[0], tensor, dout)
        assert (ours - numeric).norm() < 1e-6 * max(1.0, numeric.norm())


def test_rnn_step_agrees_with_numeric_gradients():
    torch.manual_seed(0)
    inputs = [random(3, 4), random(3, 5), random(4, 5), random(5, 5), random(5)]
    _, cache = rnn_step_forward(*inputs)
    dout = random(3, 5)
    for ours, tensor in zip(rnn_step_backward(dout, cache), inputs, strict=True):
        assert relative_error(ours, numeric_gradient(lambda: rnn_step_forward(*inputs)[0], tensor, dout)) < 1e-6


def test_lstm_step_agrees_with_numeric_gradients_through_h_and_c():
    torch.manual_seed(0)
    inputs = [random(3, 4), random(3, 5), random(3, 5), random(4, 20), random(5, 20), random(20)]
    _, _, cache = lstm_step_forward(*inputs)
    dh, dc = random(3, 5), random(3, 5)

    def both() -> Tensor:
        return torch.cat(lstm_step_forward(*inputs)[:2])

    for ours, tensor in zip(lstm_step_backward(dh, dc, cache), inputs, strict=True):
        assert relative_error(ours, numeric_gradient(both, tensor, torch.cat([dh, dc]))) < 1e-6


def test_functions_agree_with_torch_nn():
    torch.manual_seed(0)
    theirs = nn.LSTM(4, 5, batch_first=True).double()
    x, h0 = random(3, 6, 4), random(3, 5)
    expected, _ = theirs(x, (h0[None], torch.zeros(1, 3, 5, dtype=torch.float64)))
    bias = theirs.bias_ih_l0 + theirs.bias_hh_l0
    ours, _ = lstm_forward(x, h0, theirs.weight_ih_l0.T, theirs.weight_hh_l0.T, bias)
    assert relative_error(ours, expected) < 1e-12


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
@settings(max_examples=15, deadline=None)
@given(n=sizes, t=sizes, d=sizes, h=sizes, layers=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_modules_stand_in_for_torch_nn(scratch, reference, n, t, d, h, layers, seed):
    torch.manual_seed(seed)
    ours = scratch(d, h, layers, batch_first=True).double()
    theirs = reference(d, h, layers, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = random(n, t, d).requires_grad_()
    states = [random(layers, n, h).requires_grad_() for _ in range(2 if reference is nn.LSTM else 1)]
    weights = [random(n, t, h), *(random(layers, n, h) for _ in states)]

    def results(module: nn.Module) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        out, last = module(x, tuple(states) if len(states) == 2 else states[0])
        outs = [out, *(last if len(states) == 2 else (last,))]
        loss = sum((a * b).sum() for a, b in zip(outs, weights, strict=True))
        return outs, torch.autograd.grad(loss, [x, *states, *module.parameters()])

    for mine, other in zip(results(ours), results(theirs), strict=True):
        for a, b in zip(mine, other, strict=True):
            assert (a - b).norm() <= 1e-9 * max(1.0, b.norm())


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_modules_begin_with_the_weights_that_torch_nn_would(scratch, reference):
    torch.manual_seed(3)
    ours = scratch(4, 5, 2)
    torch.manual_seed(3)
    theirs = reference(4, 5, 2, batch_first=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("scratch", [ScratchRNN, ScratchLSTM])
def test_a_second_backward_pass_gives_the_same_and_a_double_backward_is_refused(scratch):
    module = scratch(3, 4).double()
    x = random(2, 3, 3).requires_grad_()
    loss = module(x)[0].square().sum()
    first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (gradient,) = torch.autograd.grad(module(x)[0].square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_only_batch_first_is_supported():
    with pytest.raises(ValueError, match="batch_first"):
        ScratchLSTM(3, 4, batch_first=False)
