"""The cells, compared with numeric gradients and with torch.nn."""

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
    products,
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from tests.lib.numbers import relative_error

sizes = st.integers(1, 5)
MODULES = [(ScratchRNN, nn.RNN), (ScratchLSTM, nn.LSTM)]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def numeric_gradient(f, x: Tensor, dout: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient of sum(f() * dout) with respect to `x`, by central differences."""
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
@settings(max_examples=10)
@given(n=sizes, t=sizes, d=sizes, h=sizes, seed=st.integers(0, 2**31))
def test_sequences_equal_numeric_gradients(gates, forward, backward, n, t, d, h, seed):
    torch.manual_seed(seed)
    inputs = [random(n, t, d), random(n, h), random(d, gates * h), random(h, gates * h), random(gates * h)]
    out, cache = forward(*inputs)
    assert out.shape == (n, t, h)
    dout = random(n, t, h)
    for ours, tensor in zip(backward(dout, cache), inputs, strict=True):
        numeric = numeric_gradient(lambda: forward(*inputs)[0], tensor, dout)
        assert (ours - numeric).norm() < 1e-6 * max(1.0, numeric.norm())


def test_rnn_step_equals_numeric_gradients():
    torch.manual_seed(0)
    inputs = [random(3, 4), random(3, 5), random(4, 5), random(5, 5), random(5)]
    _, cache = rnn_step_forward(*inputs)
    dout = random(3, 5)
    for ours, tensor in zip(rnn_step_backward(dout, cache), inputs, strict=True):
        assert relative_error(ours, numeric_gradient(lambda: rnn_step_forward(*inputs)[0], tensor, dout)) < 1e-6


def test_lstm_step_equals_numeric_gradients_through_h_and_c():
    torch.manual_seed(0)
    inputs = [random(3, 4), random(3, 5), random(3, 5), random(4, 20), random(5, 20), random(20)]
    _, _, cache = lstm_step_forward(*inputs)
    dh, dc = random(3, 5), random(3, 5)

    def both() -> Tensor:
        return torch.cat(lstm_step_forward(*inputs)[:2])

    for ours, tensor in zip(lstm_step_backward(dh, dc, cache), inputs, strict=True):
        assert relative_error(ours, numeric_gradient(both, tensor, torch.cat([dh, dc]))) < 1e-6


def test_functions_equal_torch_nn():
    torch.manual_seed(0)
    theirs = nn.LSTM(4, 5, batch_first=True).double()
    x, h0 = random(3, 6, 4), random(3, 5)
    expected, _ = theirs(x, (h0[None], torch.zeros(1, 3, 5, dtype=torch.float64)))
    bias = theirs.bias_ih_l0 + theirs.bias_hh_l0
    ours, _ = lstm_forward(x, h0, theirs.weight_ih_l0.T, theirs.weight_hh_l0.T, bias)
    assert relative_error(ours, expected) < 1e-12


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
@settings(max_examples=15)
@given(n=sizes, t=sizes, d=sizes, h=sizes, layers=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_modules_equal_torch_nn(scratch, reference, n, t, d, h, layers, seed):
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
def test_initial_weights_equal_torch_nns(scratch, reference):
    torch.manual_seed(3)
    ours = scratch(4, 5, 2)
    torch.manual_seed(3)
    theirs = reference(4, 5, 2, batch_first=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("scratch", [ScratchRNN, ScratchLSTM])
def test_second_backward_pass_repeats_the_gradients_and_double_backward_raises(scratch):
    module = scratch(3, 4).double()
    x = random(2, 3, 3).requires_grad_()
    loss = module(x)[0].square().sum()
    first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (gradient,) = torch.autograd.grad(module(x)[0].square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def outputs(module: nn.Module, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """Return h and the last state or states; `states` may be empty."""
    h, last = module(x, tuple(states) if len(states) == 2 else states[0] if states else None)
    return [h, *(last if isinstance(last, tuple) else (last,))]


def pair(scratch, reference, d: int, h: int, layers: int = 1, **options) -> tuple[nn.Module, nn.Module]:
    """Return both modules with the same weights."""
    ours = scratch(d, h, layers, batch_first=True, **options)
    theirs = reference(d, h, layers, batch_first=True, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def initial(reference, layers: int, n: int, h: int, **options) -> list[Tensor]:
    return [torch.randn(layers, n, h, **options) for _ in range(2 if reference is nn.LSTM else 1)]


amd_and_other_cpus = pytest.mark.parametrize("amd", [False, True], ids=["other CPU", "AMD"])


@amd_and_other_cpus
@pytest.mark.parametrize(("scratch", "reference"), MODULES)
@settings(max_examples=15)
@given(
    n=st.one_of(st.integers(1, 40), st.just(600)), t=st.integers(1, 12), d=st.integers(1, 40), h=st.integers(1, 40),
    layers=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_float32_equals_torch_nn_within_rounding(scratch, reference, amd, n, t, d, h, layers, seed):
    torch.manual_seed(seed)
    ours, theirs = pair(scratch, reference, d, h, layers)
    tensors = [torch.randn(n, t, d), *initial(reference, layers, n, h)]

    def results(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in tensors]
        out = outputs(module.to(dtype), leaves[0], leaves[1:])
        return [*out, *torch.autograd.grad(sum(part.sum() for part in out), [*leaves, *module.parameters()])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_AMD", amd)
        actual = results(ours, torch.float32)
    expected, exact = results(theirs, torch.float32), results(theirs, torch.float64)
    # If a sum cancels, its relative error is large, also in torch.nn. So allow 10 times the error of torch.nn.
    for a, b, c in zip(actual, exact, expected, strict=True):
        assert relative_error(a.double(), b) < 1e-5 + 10 * relative_error(c.double(), b)


@amd_and_other_cpus
@pytest.mark.parametrize("rows", [0, 1, 31, 257, 1000])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 70), (70, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_products_equal_torchs(rows, inputs, outputs, bias, amd, monkeypatch):
    monkeypatch.setattr(products, "_AMD", amd)
    torch.manual_seed(0)
    x, w, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs) if bias else None
    exact = x.double() @ w.double().T + (0 if b is None else b.double())
    assert relative_error(products.product(x, w, b), exact) < 1e-5
    assert relative_error(products.add_product(exact.float(), x, w), exact + x.double() @ w.double().T) < 1e-5
    gradient = products.weight_gradient(exact.float(), x)
    assert gradient.shape == w.shape
    assert relative_error(gradient, exact.float().double().T @ x.double()) < 1e-5


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
@pytest.mark.parametrize("frozen", ["x", "states", "weights"])
def test_frozen_tensors_leave_the_other_gradients_unchanged(scratch, reference, frozen):
    torch.manual_seed(0)
    ours, theirs = (module.double() for module in pair(scratch, reference, 4, 5, 2))
    x, states = random(3, 6, 4).requires_grad_(frozen != "x"), initial(reference, 2, 3, 5, dtype=torch.float64)
    for state in states:
        state.requires_grad_(frozen != "states")
    for parameter in [*ours.parameters(), *theirs.parameters()]:
        parameter.requires_grad_(frozen != "weights")
    for module in (ours, theirs):
        sum(out.square().sum() for out in outputs(module, x, states)).backward()
        got = [tensor.grad for tensor in (x, *states, *module.parameters())]
        for tensor in (x, *states):
            tensor.grad = None
        if module is ours:
            expected = got
    for a, b in zip(expected, got, strict=True):
        assert (a is None) == (b is None)
        assert a is None or relative_error(a, b) < 1e-9


@pytest.mark.parametrize("t", [1, 2, 6])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_missing_state_is_zero(scratch, reference, layers, t):
    torch.manual_seed(0)
    ours, theirs = (module.double() for module in pair(scratch, reference, 4, 5, layers))
    x = random(3, t, 4).requires_grad_()
    zeros = [state.zero_() for state in initial(reference, layers, 3, 5, dtype=torch.float64)]
    results = []
    for module, states in ((ours, []), (ours, zeros), (theirs, [])):
        out = outputs(module, x, states)
        loss = sum(part.square().sum() for part in out)
        results.append([*out, *torch.autograd.grad(loss, [x, *module.parameters()])])
    for absent, zero, other in zip(*results, strict=True):
        assert relative_error(absent, other) < 1e-9
        assert torch.allclose(absent, zero, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_nan_spreads_as_in_torch_nn(scratch, reference):
    torch.manual_seed(0)
    ours, theirs = pair(scratch, reference, 4, 5)
    x = torch.randn(3, 6, 4)
    x[1, 2, 0] = float("nan")
    mine, other = ours(x)[0], theirs(x)[0]
    assert torch.equal(mine.isnan(), other.isnan())
    assert mine.isnan().any(dim=2).tolist() == [[False] * 6, [False] * 2 + [True] * 4, [False] * 6]


@pytest.mark.filterwarnings("ignore:TF32")  # torch warns when oneDNN is switched off and on
@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_autocast_equals_torch_nn_within_rounding(scratch, reference):
    torch.manual_seed(0)
    ours, theirs = pair(scratch, reference, 24, 32, 2)
    x = torch.randn(6, 7, 24)
    results = []
    for module in (ours, theirs):
        # No oneDNN for torch.nn: torch calls it for a bfloat16 LSTM even on CPUs that oneDNN does not support.
        with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=module is ours):
            h, _ = module(x)
            h.float().square().sum().backward()
        results.append((h, [parameter.grad for parameter in module.parameters()]))
    (mine, gradients), (other, other_gradients) = results
    assert mine.dtype == torch.bfloat16
    for a, b in zip([mine, *gradients], [other, *other_gradients], strict=True):
        assert relative_error(a.float(), b.float()) < 0.03


@amd_and_other_cpus
@pytest.mark.parametrize("scratch", [ScratchRNN, ScratchLSTM])
def test_compiled_module_equals_eager(scratch, amd, monkeypatch):
    monkeypatch.setattr(products, "_AMD", amd)
    torch.manual_seed(0)
    module = scratch(8, 9, 2)
    compiled = torch.compile(module, backend="aot_eager")
    x = torch.randn(3, 4, 8)
    results = []
    for run in (module, compiled):
        module.zero_grad()
        h, _ = run(x)
        h.square().sum().backward()
        results.append([h, *(parameter.grad.clone() for parameter in module.parameters())])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_backward_pass_keeps_no_more_memory_than_torch_nn(scratch, reference):
    def kept(module: nn.Module, x: Tensor) -> int:
        storages = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = module(x)
        for tensor in (x, *module.parameters()):
            storages.pop(tensor.untyped_storage().data_ptr(), None)
        assert outputs
        return sum(storages.values())

    ours, theirs = pair(scratch, reference, 64, 64)
    x = torch.randn(16, 17, 64, requires_grad=True)
    assert kept(ours, x) <= kept(theirs, x)


def test_only_batch_first_is_supported():
    with pytest.raises(ValueError, match="batch_first"):
        ScratchLSTM(3, 4, batch_first=False)
