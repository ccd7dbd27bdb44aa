"""Sampling: each next token is drawn at random with its probability under the model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.model.decoding import CaptionModel, Constrain, Hypothesis, decode_stepwise


@dataclass(frozen=True)
class SamplingConfig:
    """How to change the model's distribution before drawing: temperature, top-k, top-p, in this order.

    Top-p (nucleus) sampling is by Holtzman et al. 2020, "The curious case of neural text degeneration".
    """

    temperature: float = 1.0  # divides the log-probabilities; below 1, probable tokens become more probable
    top_k: int = 0  # keep only this number of the most probable tokens; 0 keeps all
    top_p: float = 1.0  # keep only the most probable tokens that together reach this probability

    def __call__(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Change the distribution. log_probs (N, V) -> probabilities (N, K) in float64, and their tokens (N, K)."""
        vocabulary_size = log_probs.shape[1]
        if not self.top_k and self.top_p == 1:  # all tokens stay, so there is no need to sort them
            logits = (log_probs - log_probs.amax(dim=1, keepdim=True)).double() / self.temperature
            return torch.softmax(logits, dim=1), torch.arange(vocabulary_size, device=logits.device).expand_as(logits)
        top, tokens = log_probs.double().topk(min(self.top_k or vocabulary_size, vocabulary_size), dim=1)  # (N, K)
        probs = torch.softmax((top - top[:, :1]) / self.temperature, dim=1)  # exponents are at most 0: no overflow
        if self.top_p < 1:
            # Keep a token if the more probable tokens do not reach top_p together. So the first token stays.
            probs = probs.masked_fill(probs.cumsum(dim=1) - probs >= self.top_p, 0.0)
            probs = probs / probs.sum(dim=1, keepdim=True)
        return probs, tokens


@torch.inference_mode()
def sample(
    model: CaptionModel,
    features: Tensor,
    samples: int,
    max_length: int,
    config: SamplingConfig,
    generator: torch.Generator,
    constrain: Constrain | None = None,
) -> list[list[Hypothesis]]:
    """Draw `samples` captions of each image. features (N, P, C) -> N lists, in the order drawn.

    `generator` is on the CPU. Each caption takes its own random numbers, image by image. So a caption does not depend
    on the other images of the batch, nor (except for rounding) on the device. A caption's `log_prob` is from the model,
    before `config` and `constrain`, so that it is comparable with those of other decoding methods.
    """
    images, device = len(features), features.device
    state = model.init_state(features).select(torch.arange(images, device=device).repeat_interleave(samples))
    uniform = _uniform(images * samples, max_length, generator).to(device)

    def draw(log_probs: Tensor, t: int) -> Tensor:
        probs, tokens = config(log_probs)
        cumulative = probs.cumsum(dim=1)  # (N S, K)
        # The threshold is in (0, total], so the first token that reaches it has a probability above 0. With non-finite
        # weights, no token reaches it. Then the training loop raises an error at the end of the epoch.
        threshold = (1 - uniform[:, t : t + 1]) * cumulative[:, -1:]
        index = torch.searchsorted(cumulative, threshold).clamp_max(cumulative.shape[1] - 1)
        return tokens.gather(1, index)[:, 0]

    captions = decode_stepwise(model, state, max_length, draw, constrain)
    return [captions[i : i + samples] for i in range(0, len(captions), samples)]


def skip_draws(captions: int, max_length: int, generator: torch.Generator) -> None:
    """Advance `generator` past the numbers of `captions` captions, which another process draws."""
    _uniform(captions, max_length, generator)


def _uniform(captions: int, max_length: int, generator: torch.Generator) -> Tensor:
    """Return random numbers in [0, 1), one per token, (captions, max_length)."""
    return torch.rand(captions, max_length, dtype=torch.float64, generator=generator)
