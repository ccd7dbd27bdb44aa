"""The LSTM by its Triton kernels: on a GPU where there is one, else as Triton's interpreter runs them, on the CPU."""

import importlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor, nn

from lib.cells import ScratchLSTM, elementwise
from tests.lib.numbers import relative_error
from tests.lib.test_cells import initial, outputs, pair

triton = pytest.importorskip("triton", reason="torch brings no Triton to this kind of machine")

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture
def device():
    from lib.cells import kernels

    on_gpu = torch.cuda.is_available()
    if on_gpu and not elementwise._triton_runs():
        pytest.skip("Triton lacks a compiler or Python's headers")
    launches = []
    with pytest.MonkeyPatch.context() as patch:
        if not on_gpu:
            patch.setenv("TRITON_INTERPRET", "1")
            importlib.reload(kernels)
            patch.setattr(elementwise, "_by_triton", lambda tensor: True)
        launch = kernels._launch
        patch.setattr(kernels, "_launch", lambda *args: launches.append(args) or launch(*args))
        yield "cuda" if on_gpu else "cpu"
    assert launches
    importlib.reload(kernels)


def results(module: nn.Module, x: Tensor, states: list[Tensor], retain: bool = False) -> list[Tensor]:
    """All outputs and all gradients; with `retain` the gradients of the second of two backward passes."""
    inputs = [x, *states, *module.parameters()]
    made = outputs(module, x, states)
    loss = sum(out.square().sum() for out in made)
    if retain:
        torch.autograd.grad(loss, inputs, retain_graph=True)
    return [*made, *torch.autograd.grad(loss, inputs)]


def _leaves(
    x: Tensor, states: list[Tensor], precision: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, list[Tensor]]:
    """The same to be differentiated by, in a precision and on a device."""
    first, *others = (part.to(device, precision).requires_grad_() for part in (x, *states))
    return first, others


@pytest.mark.parametrize("retain", [False, True], ids=["one backward pass", "a second"])
@pytest.mark.parametrize("precision", ROUNDING, ids=str)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 40), t=st.integers(1, 5), d=st.integers(1, 9), h=st.integers(1, 40), layers=st.integers(1, 2),
    scale=st.sampled_from([1e-3, 1.0]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_torch_nn(device, precision, retain, n, t, d, h, layers, scale, seed):
    torch.manual_seed(seed)
    ours, theirs = pair(ScratchLSTM, nn.LSTM, d, h, layers)
    x, states = scale * torch.randn(n, t, d), [scale * state for state in initial(nn.LSTM, layers, n, h)]
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.data.mul_(scale)
    other = results(theirs.to(precision), *_leaves(x, states, precision))
    exact = results(theirs.double(), *_leaves(x, states, torch.float64))
    mine = results(ours.to(device, precision), *_leaves(x, states, precision, device), retain)
    for a, b, c in zip(mine, exact, other, strict=True):  # where little is left of a gradient, torch.nn rounds as badly
        assert relative_error(a.double().cpu(), b) < ROUNDING[precision] + 10 * relative_error(c.double(), b)


def test_in_bfloat16_they_are_those_of_torch_nn_within_its_rounding(device):
    torch.manual_seed(0)
    ours, theirs = pair(ScratchLSTM, nn.LSTM, 24, 32, 2)
    x, states = torch.randn(6, 7, 24), initial(nn.LSTM, 2, 6, 32)
    exact = results(theirs.double(), *_leaves(x, states, torch.float64))
    mine = results(ours.to(device, torch.bfloat16), *_leaves(x, states, torch.bfloat16, device))
    for a, b in zip(mine, exact, strict=True):  # the interpreter cuts off what a GPU rounds
        assert a.dtype == torch.bfloat16
        assert relative_error(a.double().cpu(), b) < 0.03


def test_a_gradient_that_is_one_number_everywhere(device):
    ours, theirs = (module.to(device).double() for module in pair(ScratchLSTM, nn.LSTM, 3, 5))
    x = torch.randn(4, 6, 3, device=device, dtype=torch.float64)
    for module in (ours, theirs):
        module(x)[0].sum().backward()  # an expanded one: all its strides are 0
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative_error(a.grad, b.grad) < 1e-12


def test_not_a_number_spreads_as_far_as_in_torch_nn(device):
    ours, theirs = (module.to(device) for module in pair(ScratchLSTM, nn.LSTM, 4, 5))
    x = torch.randn(3, 6, 4, device=device)
    x[1, 2, 0] = float("nan")
    assert torch.equal(ours(x)[0].isnan(), theirs(x)[0].isnan())


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_they_compile_for_gpus_without_one(architecture, precision, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lib.cells import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sums = triton.language.float64 if precision == "fp64" else triton.language.float32
    for kernel in (kernels._forward, kernels._backward):
        types = {name: "i32" if name in ("elements", "hidden") else f"*{precision}" for name in kernel.arg_names}
        types |= {"PRECISION": "constexpr", "BLOCK": "constexpr"}
        source = ASTSource(kernel, types, {"PRECISION": sums, "BLOCK": kernels._BLOCK})
        assert triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm["cubin"]


def test_without_a_compiler_they_are_not_asked_for(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(elementwise.shutil, "which", lambda name: None)
    assert not elementwise._triton_runs.__wrapped__()
    monkeypatch.setattr(elementwise.shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(elementwise.Path, "is_file", lambda path: True)
    assert elementwise._triton_runs.__wrapped__()
