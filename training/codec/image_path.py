"""From pixels to the visual tokens that a language model consumes: the part of a VLM that runs at the edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from schemas.errors import ArtifactError

_BATCH = 128


class PixelsToTokens(nn.Module):
    """Rescaling, vision tower and connector, without the processor's handling of sizes, which frames do not need.

    Args:
        model: A SmolVLM or Idefics3 model.
        image_processor: Its image processor, for mean and standard deviation.

    Raises:
        ArtifactError: a model whose image path is not known here.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, image_processor: Any) -> None:
        super().__init__()
        inner = model.model
        if not (hasattr(inner, "vision_model") and hasattr(inner, "connector")):
            raise ArtifactError(type(model).__name__, "codecs are made for SmolVLM and Idefics3 classes so far")
        self.vision_model = inner.vision_model
        self.connector = inner.connector
        self.register_buffer("mean", torch.tensor(list(image_processor.image_mean)).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(image_processor.image_std)).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [B, H, W, 3] to visual tokens [B, N, D]."""
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        tokens: Tensor = self.connector(self.vision_model((scaled - self.mean) / self.std).last_hidden_state)
        return tokens

    @torch.no_grad()
    def of_frames(self, frames: NDArray[np.uint8]) -> Tensor:
        """Uncompressed visual tokens of many frames: uint8 [F, H, W, 3] to float32 [F, N, D]."""
        parts = [self(torch.tensor(np.asarray(frames[i : i + _BATCH]))) for i in range(0, len(frames), _BATCH)]
        return torch.cat(parts)
