"""Stacks of convolution, normalisation and activation."""

from torch import nn

LEAKY_SLOPE = 0.2
"""Slope of every LeakyReLU in the ME-PMA network."""


def conv_bn(*channels: int, kernels: tuple[int, ...] | None = None) -> nn.Sequential:
    """[Conv k x k -> BatchNorm -> LeakyReLU 0.2] for each step between neighbouring `channels`.

    Args:
        channels: at least two; input channels first.
        kernels: odd kernel size per step, 3 for all when not given.

    Returns:
        (B, channels[0], H, W) -> (B, channels[-1], H, W), zero-padded to keep the size.
    """
    return _stack(channels, kernels, nn.BatchNorm2d)


def conv_in(*channels: int) -> nn.Sequential:
    """[Conv 3 x 3 -> InstanceNorm without affine -> LeakyReLU 0.2] for each step; shapes as `conv_bn`."""
    return _stack(channels, None, nn.InstanceNorm2d)


def _stack(
    channels: tuple[int, ...],
    kernels: tuple[int, ...] | None,
    norm: type[nn.BatchNorm2d] | type[nn.InstanceNorm2d],
) -> nn.Sequential:
    steps = list(zip(channels, channels[1:], kernels or (3,) * (len(channels) - 1), strict=False))
    layers: list[nn.Module] = []
    for c_in, c_out, kernel in steps:
        layers += [
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2),
            norm(c_out),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)
