"""The universal inverted bottleneck of MobileNetV4 (Qin et al., ECCV 2024)."""

from torch import Tensor, nn


class UniversalInvertedBottleneck(nn.Module):
    """Depthwise k x k -> expand 1 x 1 -> depthwise k x k -> project 1 x 1, a norm after each.

    ReLU6 after the expansion and the second depthwise convolution, no convolution biases, no residual.
    (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C.
        kernel: odd size of both depthwise convolutions.
        expansion: inner channels over C.
        norm: normalisation layer, made with its defaults (InstanceNorm2d then has no parameters).
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int,
        expansion: int = 4,
        norm: type[nn.BatchNorm2d] | type[nn.InstanceNorm2d] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        inner = expansion * channels
        self.start = nn.Sequential(_depthwise(channels, kernel), norm(channels))
        self.expand = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), norm(inner), nn.ReLU6(inplace=True)
        )
        self.middle = nn.Sequential(_depthwise(inner, kernel), norm(inner), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.middle(self.expand(self.start(x))))
        return out


def _depthwise(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
