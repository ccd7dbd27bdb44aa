"""The transformer equals torch.nn's with the same weights, no token depends on a later one, and the cache is exact."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from lib.model.decoder import Decoder, DecoderConfig
from lib.model.decoding import greedy
from lib.model.transformer import num_heads
from lib.search.beam import beam_search
from lib.text.vocabulary import START
from tests.lib.models import caption_batch, decoder, features

both = pytest.mark.parametrize("attention", ["none", "additive"])


def transformer(attention: str = "additive", embedding: int = 8, hidden: int = 128, max_length: int = 7) -> Decoder:
    """Return a decoder of 9 tokens with two blocks of two heads (if `hidden` is 128), for 4 regions of 6 features."""
    torch.manual_seed(0)
    config = DecoderConfig(4, 6, 9, "transformer", "scratch", attention, embedding, hidden, 0.0, max_length, 2)
    model = Decoder(config).double().eval()
    for parameter in model.parameters():  # so that biases and the scales of the norms are not 0 and 1
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def copy_attention(ours: nn.Module, theirs: nn.MultiheadAttention) -> None:
    no_bias = torch.zeros(len(ours.key_value.weight))
    theirs.in_proj_weight.data.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.data.copy_(torch.cat([ours.query.bias, no_bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def torch_layer(block: nn.Module, attends: bool) -> nn.Module:
    """Return the layer of torch.nn with the weights of `block`: of a decoder, or of an encoder without attention."""
    hidden = block.norm.normalized_shape[0]
    options = {"dim_feedforward": 4 * hidden, "dropout": 0.0, "activation": "gelu", "batch_first": True}
    kind = nn.TransformerDecoderLayer if attends else nn.TransformerEncoderLayer
    layer = kind(hidden, num_heads(hidden), norm_first=True, **options).double()
    copy_attention(block.attention, layer.self_attn)
    pairs = [(block.norm, layer.norm1), (block.mlp[0], layer.linear1), (block.mlp[2], layer.linear2)]
    if attends:
        copy_attention(block.region_attention, layer.multihead_attn)
        pairs += [(block.region_norm, layer.norm2), (block.mlp_norm, layer.norm3)]
    else:
        pairs += [(block.mlp_norm, layer.norm2)]
    for ours, theirs in pairs:
        theirs.load_state_dict(ours.state_dict())
    return layer


@both
@pytest.mark.parametrize("embedding", [8, 128])
def test_it_equals_torch_nn_with_the_same_weights(attention, embedding):
    model, images, token_ids = transformer(attention, embedding), features(3), torch.randint(4, 9, (5, 6))
    image_index = torch.tensor([2, 0, 0, 1, 2])
    h, state = model.unroll(token_ids, model.init_state(images).select(image_index))

    body, regions = model.body, images[image_index]
    image = body.image_to_input(regions.mean(dim=1))
    x = body.project(body.embed(token_ids) + image[:, None] + body.position[:6])
    causal = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    for block in body.blocks:
        layer = torch_layer(block, attention == "additive").train()  # in evaluation, torch takes another path
        if attention == "additive":
            memory = body.region_project(regions + body.region_position)
            weights = []
            layer.multihead_attn.register_forward_hook(
                lambda module, inputs, _, memory=memory, weights=weights: weights.append(
                    nn.functional.multi_head_attention_forward(
                        inputs[0].transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), 128, 2,
                        module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0,
                        module.out_proj.weight, module.out_proj.bias,
                    )[1]
                )
            )  # fmt: skip
            x = layer(x, memory, tgt_mask=causal)
        else:
            x = layer(x, src_mask=causal)
    assert torch.allclose(h, body.norm(x))
    if attention == "additive":
        assert torch.allclose(state.attention_weights, weights[0][:, -1])


@both
def test_no_token_depends_on_a_later_one(attention):
    model, token_ids = transformer(attention), torch.randint(4, 9, (3, 6))
    changed = token_ids.clone()
    changed[:, 3] = 4 + (changed[:, 3] - 3) % 5
    first, second = (model.unroll(ids, model.init_state(features(3)))[0] for ids in (token_ids, changed))
    differs = (first - second).abs().amax(dim=(0, 2)) > 0
    assert differs.tolist() == [False, False, False, True, True, True]


@both
@pytest.mark.parametrize("parts", [[1, 1, 1, 1, 1, 1], [2, 4], [3, 1, 2]])
def test_reading_a_caption_in_parts_gives_the_same_result(attention, parts):
    model, token_ids = transformer(attention), torch.randint(4, 9, (3, 6))
    whole, last = model.unroll(token_ids, model.init_state(features(3)))
    state, hs = model.init_state(features(3)), []
    for part in token_ids.split(parts, dim=1):
        h, state = model.unroll(part, state)
        hs.append(h)
    assert torch.allclose(torch.cat(hs, dim=1), whole)
    assert torch.allclose(state.attention_weights, last.attention_weights)


@dataclass(frozen=True)
class Prefix:
    """The state of a model that keeps no cache: the images and all tokens so far."""

    features: Tensor
    tokens: Tensor  # (N, T)
    attention_weights: Tensor

    def select(self, rows: Tensor) -> "Prefix":
        return Prefix(self.features[rows], self.tokens[rows], self.attention_weights[rows])


class WithoutCache:
    """The same decoder, but each step reads the complete caption again."""

    def __init__(self, model: Decoder):
        self.model = model

    def init_state(self, features: Tensor) -> Prefix:
        return Prefix(features, torch.empty(len(features), 0, dtype=torch.long), features.new_empty(len(features), 0))

    def step(self, tokens: Tensor, state: Prefix) -> tuple[Tensor, Prefix]:
        ids, start = torch.cat([state.tokens, tokens[:, None]], dim=1), self.model.init_state(state.features)
        if ids.shape[1] > 1:
            _, start = self.model.unroll(ids[:, :-1], start)
        log_probs, after = self.model.step(tokens, start)
        return log_probs, Prefix(state.features, ids, after.attention_weights)


@both
def test_search_with_the_cache_equals_search_without_it(attention):
    model, images = decoder("transformer", attention=attention), features()
    searches = [
        lambda model: [[hypothesis] for hypothesis in greedy(model, images, 6)],
        lambda model: beam_search(model, images, 3, 6, 0.7, lambda log_probs, _: log_probs),
    ]
    for search in searches:
        for ours, theirs in zip(search(model), search(WithoutCache(model)), strict=True):
            assert [hypothesis.token_ids for hypothesis in ours] == [hypothesis.token_ids for hypothesis in theirs]
            for one, other in zip(ours, theirs, strict=True):
                assert one.log_prob == pytest.approx(other.log_prob)
                assert torch.allclose(one.attention, other.attention)


@both
def test_the_gradient_is_that_of_finite_differences(attention):
    """No gradient is only rounding, because Adam would amplify it, and several processes would train other weights."""
    model, images, image_index = transformer(attention, embedding=6, hidden=8), features(2), torch.tensor([1, 0, 1])
    batch = caption_batch(image_index, torch.tensor([[START, 4, 5, 2], [START, 6, 2, 0], [START, 7, 8, 4]]))

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(images, batch), batch.words)

    for parameter, gradient in zip(model.parameters(), torch.autograd.grad(loss(), [*model.parameters()]), strict=True):
        assert gradient.abs().max() > 1e-6
        direction, values = torch.randn_like(parameter), parameter.detach().clone()
        losses = []
        for sign in (1, -1):
            parameter.data.copy_(values + sign * 1e-6 * direction)
            losses.append(loss().item())
        parameter.data.copy_(values)
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx((gradient * direction).sum().item(), rel=1e-4, abs=1e-8)


def test_a_caption_may_be_longer_than_in_training():
    model, images = transformer(max_length=2), features(2)
    model.output.bias.data[2] = -1e3  # never <end>
    assert [len(hypothesis.token_ids) for hypothesis in greedy(model, images, 9)] == [9, 9]


def test_heads_divide_the_hidden_size():
    assert [num_heads(hidden) for hidden in (1, 8, 63, 128, 200, 222, 512)] == [1, 1, 1, 2, 2, 3, 8]
