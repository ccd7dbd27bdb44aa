"""The decoder's layers, compared with torch.nn and with the formulas of the papers."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lib.cells import products
from lib.model import attention
from lib.model.attention import AdditiveAttention
from lib.model.decoder import Decoder, DecoderConfig
from lib.model.layers import Dropout, Linear
from tests.lib.models import caption_batch
from tests.lib.numbers import relative_error

sizes = st.integers(1, 40)


@settings(max_examples=25)
@given(
    leading=st.one_of(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.just([7, 43])), d=sizes, g=sizes,
    bias=st.booleans(), double=st.booleans(), amd=st.booleans(),
)  # fmt: skip
def test_linear_equals_torch_nn(leading, d, g, bias, double, amd):
    torch.manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    ours = Linear(d, g, bias=bias).to(dtype)
    theirs = nn.Linear(d, g, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*leading, d, dtype=dtype, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    dy = torch.randn(*leading, g, dtype=dtype)
    results = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(products, "_AMD", amd)
        for module, inputs in ((ours, x), (theirs, exact)):
            y = module(inputs)
            results.append([y, *torch.autograd.grad((y * dy).sum(), [inputs, *module.parameters()])])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < (1e-12 if double else 1e-5)


def test_linear_with_frozen_weights_gives_the_input_gradient():
    module = Linear(3, 4)
    x = torch.randn(5, 3)
    module(x).sum().backward()
    assert module.weight.grad is not None
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    y = module(x.requires_grad_()).sum()
    assert torch.allclose(torch.autograd.grad(y, x)[0], module.weight.sum(0).expand(5, 3))


def test_linear_in_autocast_equals_torch_nn():
    torch.manual_seed(0)
    ours, theirs = Linear(24, 32), nn.Linear(24, 32)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(6, 24)
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = ours(x), theirs(x)
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert relative_error(actual.float(), expected.float()) < 0.02


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout_zeroes_a_share_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    module, x = Dropout(p), torch.ones(1000, 333, requires_grad=True)
    y = module(x)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=0.004)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert len(y.unique()) == 2
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)
    assert not torch.equal(module(x), y)
    torch.manual_seed(0)
    assert torch.equal(module(x), y)
    columns, rows = ((y == 0).float().mean(dim) for dim in (0, 1))
    assert (columns - p).abs().max() < 0.1  # the elements are independent
    assert (rows - p).abs().max() < 0.15


def test_dropout_with_p_near_1_keeps_some_elements():
    torch.manual_seed(0)
    y = Dropout(0.999)(torch.ones(100_000))
    assert 0.99 < (y == 0).float().mean().item() < 1
    assert y.mean().item() == pytest.approx(1, abs=0.2)


def test_dropout_returns_its_input_in_evaluation_and_with_p_0():
    x = torch.randn(7)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)


@settings(max_examples=25)
@given(
    images=st.integers(1, 4), captions=st.integers(0, 6), steps=st.integers(1, 4), num_regions=st.integers(1, 6),
    chunk=st.sampled_from([1, 40, 10_000]), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_equals_the_formula_of_the_paper(images, captions, steps, num_regions, chunk, seed):
    torch.manual_seed(seed)
    module = AdditiveAttention(num_regions, 7, 5).double()
    features = torch.randn(images, num_regions, 7, dtype=torch.float64, requires_grad=True)
    h = torch.randn(captions, steps, 5, dtype=torch.float64, requires_grad=True)
    image_index = torch.randint(images, (captions,))
    d_context = torch.randn(captions, steps, 5, dtype=torch.float64)

    def ours():
        return module(h, *module.regions(features), image_index)

    def formula():
        positioned = features + module.position
        keys = nn.functional.linear(positioned, module.key.weight, module.key.bias)[image_index]
        values = nn.functional.linear(positioned, module.value.weight, module.value.bias)[image_index]
        joined = torch.tanh(keys[:, None] + (h @ module.query.weight.T)[:, :, None])  # (N, T, P, H)
        weights = torch.softmax(joined @ module.score.weight[0], dim=-1)
        return torch.einsum("ntp,nph->nth", weights, values), weights

    results = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(attention._CHUNK, "cpu", chunk)
        for attend in (ours, formula):
            contexts, weights = attend()
            inputs = [features, h, *module.parameters()]
            results.append([contexts, weights, *torch.autograd.grad((contexts * d_context).sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() < 1e-9 * max(1.0, b.norm().item())


def test_keys_and_values_are_computed_once_per_image(monkeypatch):
    model = Decoder(DecoderConfig(4, 7, 10, "lstm", "scratch", "additive", 8, 8, 0.0))
    sizes = []
    regions = AdditiveAttention.regions
    monkeypatch.setattr(AdditiveAttention, "regions", lambda self, x: sizes.append(len(x)) or regions(self, x))
    ids = torch.randint(4, 10, (5, 6))
    model(
        torch.randn(2, 4, 7),
        caption_batch(torch.tensor([0, 0, 0]), ids[:3]),
        caption_batch(torch.tensor([1, 1]), ids[3:]),
    )
    assert sizes == [2]
