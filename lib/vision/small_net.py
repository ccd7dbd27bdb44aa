"""SmallNet: a CNN that is small enough to be trained here from random weights."""

import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """A CNN that trains from random weights in minutes. Five convolutions give a grid of 4 x 4 regions.

    The first two convolutions have stride 2, as in AlexNet and ResNet. Half of the channels of the last convolution
    have a receptive field of 45 pixels, small enough to show which colour belongs to which shape. The other half have
    77 pixels, most of the image, enough to show which of two objects is on the left. The feature vector is the
    flattened grid, so that it keeps the positions.
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
        """Return features (N, 2048), 128 channels of 16 regions, for images x (N, 3, 64, 64)."""
        return self.grid(x).flatten(1)


class _Concatenate(nn.Module):
    """Runs several branches on the same input and concatenates their channels."""

    def __init__(self, *branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
