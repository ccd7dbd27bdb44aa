"""A convolutional net small enough to be trained from nothing, with a captioner on top, in minutes on two cores."""

from torch import Tensor, nn

INPUT_SIZE = 64  # pixels a side
_CHANNELS = (32, 64, 96, 128, 128)


class SmallNet(nn.Module):
    """Five convolutions with batch normalisation and ReLU; the picture is halved four times, to a grid of 4 x 4.

    Its feature vector is the whole grid, flattened: a mean over the places would forget what lies where,
    and with that "left of" from "right of".
    """

    def __init__(self) -> None:
        super().__init__()
        first, *others = _CHANNELS
        # A wide first convolution with a stride, as in AlexNet and ResNet: full resolution is what costs most.
        layers = _convolution(3, first, kernel=5, stride=2)
        for i, channels in enumerate(others):
            layers += _convolution(_CHANNELS[i], channels, kernel=3 if i < 3 else 1, stride=1)
            if i < 3:
                layers.append(nn.MaxPool2d(2))
        self.grid = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 3, 64, 64) -> (N, 2048): 128 channels by 16 places, channel by channel."""
        return self.grid(x).flatten(1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
