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
    """Rescaling, vision tower and connector, for frames of the model's own size.

    Written out per family: the models' own methods take steps that depend on the data (padding images of the SmolVLM
    family, lists of sizes of LLaVA) and cannot be exported.

    Args:
        model: A SmolVLM, Idefics3 or LLaVA model.
        image_processor: Its image processor, for mean and standard deviation.

    Raises:
        ArtifactError: a model of another family.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, image_processor: Any) -> None:
        super().__init__()
        inner, config = model.model, model.config
        self.tower: nn.Module
        self.connector: nn.Module
        self._layer: int | None = None
        self._skipped = 0
        if hasattr(inner, "vision_model") and hasattr(inner, "connector"):
            self.tower, self.connector = inner.vision_model, inner.connector
        elif hasattr(inner, "multi_modal_projector") and isinstance(getattr(config, "vision_feature_layer", None), int):
            self.tower, self.connector = inner.vision_tower, inner.multi_modal_projector
            self._layer = config.vision_feature_layer
            self._skipped = 1 if config.vision_feature_select_strategy == "default" else 0  # the class token
        else:
            raise ArtifactError(type(model).__name__, "codecs are made for SmolVLM, Idefics3 and LLaVA classes so far")
        self.register_buffer("mean", torch.tensor(list(image_processor.image_mean)).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(image_processor.image_std)).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [B, H, W, 3] to visual tokens [B, N, D]."""
        scaled = (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0 - self.mean) / self.std
        if self._layer is None:
            hidden = self.tower(scaled).last_hidden_state
        else:
            hidden = self.tower(scaled, output_hidden_states=True).hidden_states[self._layer][:, self._skipped :]
        tokens: Tensor = self.connector(hidden)
        return tokens

    @torch.no_grad()
    def of_frames(self, frames: NDArray[np.uint8]) -> Tensor:
        """Uncompressed visual tokens of many frames: uint8 [F, H, W, 3] to float32 [F, N, D]."""
        parts = [self(torch.tensor(np.asarray(frames[i : i + _BATCH]))) for i in range(0, len(frames), _BATCH)]
        return torch.cat(parts)
