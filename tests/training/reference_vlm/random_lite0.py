"""EfficientNet-Lite0 with random weights, and written out, so that no test needs the package with the real ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf


def random_lite0(generator: torch.Generator) -> dict[str, Tensor]:
    """Weights with the names and shapes of the package's file, so that no test needs the package."""
    weights: dict[str, Tensor] = {}

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = torch.rand(width, generator=generator) + 0.5
        weights[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1
        weights[f"{name}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        weights[f"{name}.running_var"] = torch.rand(width, generator=generator) + 0.5

    def conv(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(*shape, generator=generator) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    width, number = 32, 0
    for repeats, kernel, _, ratio, out in BLOCKS:
        for _ in range(repeats):
            name, inner = f"_blocks.{number}", width * ratio
            if ratio > 1:
                conv(f"{name}._expand_conv", inner, width, 1, 1)
                norm(f"{name}._bn0", inner)
            conv(f"{name}._depthwise_conv", inner, 1, kernel, kernel)
            norm(f"{name}._bn1", inner)
            conv(f"{name}._project_conv", out, inner, 1, 1)
            norm(f"{name}._bn2", out)
            width, number = out, number + 1
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    return weights


BLOCKS = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
"""Repeats, kernel, stride, expansion and width of EfficientNet-Lite0's blocks."""


def lite0(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 written out: 'same' padding as TensorFlow has it, ReLU6, no squeeze-and-excitation."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, gain, bias = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return nnf.batch_norm(x, mean, variance, gain, bias, eps=1e-3)

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        pad = weight.shape[2] - stride
        before = pad // 2
        if pad > 0:
            x = nnf.pad(x, (before, pad - before, before, pad - before))
        return nnf.conv2d(x, weight, stride=stride, groups=groups)

    x = nnf.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    number = 0
    for repeats, _, stride, ratio, _ in BLOCKS:
        for repeat in range(repeats):
            name, before = f"_blocks.{number}", x
            if ratio > 1:
                x = nnf.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            step = stride if repeat == 0 else 1
            x = nnf.relu6(norm(conv(x, f"{name}._depthwise_conv", step, x.shape[1]), f"{name}._bn1"))
            x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + before if repeat else x
            number += 1
    return nnf.relu6(norm(conv(x, "_conv_head"), "_bn1"))
