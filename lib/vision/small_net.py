"""A CNN that can be trained from random weights in minutes on two cores."""

import torch
from torch import Tensor, nn

INPUT_SIZE = 64  # pixels per side


class SmallNet(nn.Module):
    """Five convolutions with batch normalisation and ReLU, down to a grid of 4 x 4 regions.

    The first two have stride 2, as in AlexNet and ResNet. Half of the last one's channels have a receptive field of 45
    pixels, which keeps apart which colour belongs to which shape. The other half have 77, most of the image, so they
    can tell which of two objects is to the left. The feature vector is the flattened grid, to keep the positions.
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
            _Concatenate(_convolution(128, 64, kernel=1), _convolution(128, 64, kernel=3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 3, 64, 64) -> (N, 2048): 128 channels of 16 regions."""
        return self.grid(x).flatten(1)


class _Concatenate(nn.Module):
    """Branches over the same input, their channels concatenated."""

    def __init__(self, *branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
