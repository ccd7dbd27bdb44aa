"""The Triton kernels of the cells: on a GPU if there is one, otherwise in Triton's interpreter on the CPU."""

import importlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor, nn

from lib.cells import modules
from tests.lib.numbers import relative_error
from tests.lib.test_cells import MODULES, initial, outputs, pair

triton = pytest.importorskip("triton", reason="torch has no Triton on this platform")

ROUNDING = 1e-5  # relative error of float32


@pytest.fixture
def device():
    from lib.cells import triton_kernels as kernels

    on_gpu = torch.cuda.is_available()
    if on_gpu and not modules._triton_runs(torch.device("cuda")):
        pytest.skip("Triton needs a C compiler, Python headers and a recent GPU")
    launches = []
    with pytest.MonkeyPatch.context() as patch:
        if not on_gpu:
            patch.setenv("TRITON_INTERPRET", "1")
            importlib.reload(kernels)
            patch.setattr(modules, "_loop_for", lambda a: kernels)
        launch = kernels._launch
        patch.setattr(kernels, "_launch", lambda *args, **options: launches.append(args) or launch(*args, **options))
        yield "cuda" if on_gpu else "cpu"
    assert launches
    importlib.reload(kernels)


def results(module: nn.Module, x: Tensor, states: list[Tensor], retain: bool = False) -> list[Tensor]:
    """Return all outputs and all gradients; with `retain`, the gradients of a second backward pass."""
    inputs = [x, *states, *module.parameters()]
    outs = outputs(module, x, states)
    loss = sum(out.square().sum() for out in outs)
    if retain:
        torch.autograd.grad(loss, inputs, retain_graph=True)
    return [*outs, *torch.autograd.grad(loss, inputs)]


def _leaves(x: Tensor, states: list[Tensor], dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, list[Tensor]]:
    """Return copies in a dtype and on a device, as leaves that need gradients."""
    first, *others = (part.to(device, dtype).requires_grad_() for part in (x, *states))
    return first, others


@pytest.mark.parametrize("retain", [False, True], ids=["first backward", "second backward"])
@pytest.mark.parametrize(("scratch", "reference"), MODULES)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 40), t=st.integers(1, 5), d=st.integers(1, 9), h=st.integers(1, 40), layers=st.integers(1, 2),
    scale=st.sampled_from([1e-3, 1.0]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_outputs_and_gradients_equal_torch_nn(device, scratch, reference, retain, n, t, d, h, layers, scale, seed):
    torch.manual_seed(seed)
    ours, theirs = pair(scratch, reference, d, h, layers)
    x, states = scale * torch.randn(n, t, d), [scale * state for state in initial(reference, layers, n, h)]
    for parameter in (*ours.parameters(), *theirs.parameters()):
        parameter.data.mul_(scale)
    expected = results(theirs.float(), *_leaves(x, states, torch.float32))
    exact = results(theirs.double(), *_leaves(x, states, torch.float64))
    actual = results(ours.to(device, torch.float32), *_leaves(x, states, torch.float32, device), retain)
    # If a sum cancels, its relative error is large, also in torch.nn. So allow 10 times the error of torch.nn.
    for a, b, c in zip(actual, exact, expected, strict=True):
        assert relative_error(a.double().cpu(), b) < ROUNDING + 10 * relative_error(c.double(), b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's interpreter does not multiply bfloat16")
@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_bfloat16_equals_torch_nn_within_rounding(device, scratch, reference):
    torch.manual_seed(0)
    ours, theirs = pair(scratch, reference, 24, 32, 2)
    x, states = torch.randn(6, 7, 24), initial(reference, 2, 6, 32)
    exact = results(theirs.double(), *_leaves(x, states, torch.float64))
    actual = results(ours.to(device, torch.bfloat16), *_leaves(x, states, torch.bfloat16, device))
    for a, b in zip(actual, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert relative_error(a.double().cpu(), b) < 0.01


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
@pytest.mark.parametrize(("n", "h"), [(130, 100), (600, 70)], ids=["several tiles", "more tiles than multiprocessors"])
def test_sequences_of_several_tiles_equal_torch_nn(device, scratch, reference, n, h):
    torch.manual_seed(0)
    ours, theirs = pair(scratch, reference, 9, h)
    x, states = torch.randn(n, 4, 9), initial(reference, 1, n, h)
    exact = results(theirs.double(), *_leaves(x, states, torch.float64))
    actual = results(ours.to(device, torch.float32), *_leaves(x, states, torch.float32, device))
    for a, b in zip(actual, exact, strict=True):
        assert relative_error(a.double().cpu(), b) < ROUNDING


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_expanded_output_gradient(device, scratch, reference):
    ours, theirs = (module.to(device) for module in pair(scratch, reference, 3, 5))
    x = torch.randn(4, 6, 3)
    for module in (ours.float(), theirs.double()):
        module(x.to(device, module.weight_hh_l0.dtype))[0].sum().backward()  # the gradient of sum() has strides 0
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative_error(a.grad.double(), b.grad) < ROUNDING


@pytest.mark.parametrize(("scratch", "reference"), MODULES)
def test_nan_spreads_as_in_torch_nn(device, scratch, reference):
    ours, theirs = (module.to(device).float() for module in pair(scratch, reference, 4, 5))
    x = torch.randn(3, 6, 4, device=device)
    x[1, 2, 0] = float("nan")
    assert torch.equal(ours(x)[0].isnan(), theirs(x)[0].isnan())


@pytest.mark.parametrize(("architecture", "dtype", "precision"), [(80, "fp32", "tf32x3"), (90, "bf16", "ieee")])
def test_kernels_compile_for_gpus_without_a_gpu(architecture, dtype, precision, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lib.cells import triton_kernels as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    integers = {"counters": "*i32", **dict.fromkeys(["has_previous", "steps", "rows", "hidden"], "i32")}
    tile = kernels._TILES[0]
    constants = {"PRECISION": precision, "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    options = {"num_warps": tile.warps, "num_stages": kernels._STAGES, "launch_cooperative_grid": True}
    for kernel in (kernels._rnn_forward, kernels._rnn_backward, kernels._lstm_forward, kernels._lstm_backward):
        types = {name: integers.get(name, f"*{dtype}") for name in kernel.arg_names}
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
        assert triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options).asm["cubin"]


def test_triton_is_not_used_without_a_compiler_or_on_an_old_gpu(monkeypatch):
    monkeypatch.setattr(modules.torch.cuda, "get_device_capability", lambda device: (8, 0))
    triton_runs = modules._triton_runs.__wrapped__
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(modules.shutil, "which", lambda name: None)
    assert not triton_runs("cuda")
    monkeypatch.setattr(modules.shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(modules.Path, "is_file", lambda path: True)
    assert triton_runs("cuda")
    monkeypatch.setattr(modules.torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not triton_runs("cuda")
