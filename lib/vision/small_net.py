"""A convolutional net small enough to be trained from nothing, with a captioner on top, in minutes on two cores."""

from torch import Tensor, nn

INPUT_SIZE = 64  # pixels a side


class SmallNet(nn.Module):
    """Five convolutions with batch normalisation and ReLU, to a grid of 4 x 4 places.

    The first two convolutions have a stride, as in AlexNet and ResNet: high resolution is what costs most.
    The last is 1 x 1, so that a place knows its surroundings and not the whole picture: which colour goes
    with which shape stays apart. The feature vector is the whole grid, flattened: a mean over the places
    would forget what lies where, and with that "left of" from "right of".
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
            *_convolution(128, 128, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 3, 64, 64) -> (N, 2048): 128 channels by 16 places, channel by channel."""
        return self.grid(x).flatten(1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
