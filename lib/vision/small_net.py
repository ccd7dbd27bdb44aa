"""A convolutional net small enough to be trained from nothing in minutes on two cores."""

import torch
from torch import Tensor, nn

INPUT_SIZE = 64  # pixels a side


class SmallNet(nn.Module):
    """Five layers of convolutions with batch normalisation and ReLU, to a grid of 4 x 4 places.

    The first two have a stride, as in AlexNet and ResNet: high resolution is what costs most. The last looks at its
    input in two ways. Half of its channels see 45 pixels a side around their place: there, which colour goes with which
    shape stays apart. The other half see 77, most of the picture: they know which of two things is to the left. The
    feature vector is the whole grid, flattened: a mean over the places would forget what lies where.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Sequential(
            *_convolution(3, 32, kernel=5, stride=2),  # 32 x 32
            *_convolution(32, 64, kernel=3, stride=2),  # 16 x 16
            *_convolution(64, 96, kernel=3),
            nn.MaxPool2d(2),  # 8 x 8
            *_convolution(96, 128, kernel=3),
            nn.MaxPool2d(2),  # 4 x 4
            _SideBySide(_convolution(128, 64, kernel=1), _convolution(128, 64, kernel=3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 3, 64, 64) -> (N, 2048): 128 channels by 16 places, channel by channel."""
        return self.grid(x).flatten(1)


class _SideBySide(nn.Module):
    """Several layers on the same input; their channels one after the other."""

    def __init__(self, *branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
