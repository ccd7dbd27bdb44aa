"""Sampling: each next word is drawn at random, by its probability under the model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.model.decoding import CaptionModel, Constrain, Hypothesis, decode_stepwise


@dataclass(frozen=True)
class SamplingConfig:
    """How the distribution that is drawn from differs from the model's: in this order, and by default not at all.

    The nucleus is that of Holtzman et al. 2020, "The curious case of neural text degeneration".
    """

    temperature: float = 1.0  # divides the log-probabilities: below 1 the likely become likelier
    top_k: int = 0  # none but so many of the likeliest words; 0: all
    top_p: float = 1.0  # none but the likeliest that together reach this probability: the nucleus

    def __call__(self, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """log_p (N, V) -> probabilities (N, K) in float64, and the words (N, K) that they are of."""
        vocabulary = log_p.shape[1]
        if not self.top_k and self.top_p == 1:  # nothing is left out, so nothing need be ranked
            p = torch.softmax((log_p - log_p.amax(dim=1, keepdim=True)).double() / self.temperature, dim=1)
            return p, torch.arange(vocabulary, device=log_p.device).expand_as(log_p)
        ranked, words = log_p.double().topk(min(self.top_k or vocabulary, vocabulary), dim=1)  # (N, K)
        p = torch.softmax((ranked - ranked[:, :1]) / self.temperature, dim=1)  # nothing overflows, however cold
        if self.top_p < 1:
            # A word stays where those before it do not reach top_p, so the first always does.
            p = p.masked_fill(p.cumsum(dim=1) - p >= self.top_p, 0.0)
            p = p / p.sum(dim=1, keepdim=True)
        return p, words


@torch.inference_mode()
def sample(
    model: CaptionModel,
    features: Tensor,
    samples: int,
    max_length: int,
    narrowing: SamplingConfig,
    generator: torch.Generator,
    constrain: Constrain | None = None,
) -> list[list[Hypothesis]]:
    """`samples` captions of each image, in the order drawn. features (N, P, C) -> N lists.

    `generator` is the CPU's whatever the device, and each caption takes its own numbers from it, image by image:
    what is drawn depends neither on the device, but for rounding, nor on the images that share the batch.

    A caption's `log_p` is the model's own, as for every way of decoding, so that captions can be compared; under
    the distribution that it was drawn from, narrowed and within the rules, it was likelier or not.
    """
    images, device = len(features), features.device
    state = model.init_state(features).select(torch.arange(images, device=device).repeat_interleave(samples))
    chances = _chances(images * samples, max_length, generator).to(device)

    def draw(log_p: Tensor, t: int) -> Tensor:
        p, words = narrowing(log_p)
        below = p.cumsum(dim=1)  # (NS, K)
        # In (0, total], and the first word to reach it has a probability above 0. None does where the weights are no
        # numbers, as when training diverges, which is told when the epoch is over.
        at = (1 - chances[:, t : t + 1]) * below[:, -1:]
        drawn = torch.searchsorted(below, at).clamp_max(below.shape[1] - 1)
        return words.gather(1, drawn)[:, 0]

    captions = decode_stepwise(model, state, max_length, draw, constrain)
    return [captions[i : i + samples] for i in range(0, len(captions), samples)]


def skip_draws(captions: int, max_length: int, generator: torch.Generator) -> None:
    """Takes from `generator` the numbers of so many captions that another process draws."""
    _chances(captions, max_length, generator)


def _chances(captions: int, max_length: int, generator: torch.Generator) -> Tensor:
    """The random numbers of each caption, one for each of its words, (captions, max_length)."""
    return torch.rand(captions, max_length, dtype=torch.float64, generator=generator)
