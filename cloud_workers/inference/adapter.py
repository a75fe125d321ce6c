"""What a model of any family looks like to training, demo, benchmarks and the backend that runs it in process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.inference.backend import InferenceAnswer
from schemas.types import AnswerType

Question = tuple[str, AnswerType]


class AnswerModel(Protocol):
    """A model that takes visual features in place of an image."""

    @property
    def family(self) -> str:
        """Its ``model_type``."""

    @property
    def token_count(self) -> int:
        """Visual tokens of a frame, N."""

    @property
    def token_dim(self) -> int:
        """Values of a visual token, D."""

    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[Question],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[InferenceAnswer]:
        """Answer questions about frames.

        Args:
            tokens: visual features ``[B, N, D]``, floating point.
            questions: text and answer type of each question.
            frames: for each question the row of ``tokens`` that it is asked of; None means one question a frame, in
                order.

        Returns:
            One answer for each question, in order; one that cannot be asked has a problem in place of an answer.

        Raises:
            StateError: shapes or indices do not fit.
        """


class ModelAdapter(AnswerModel, Protocol):
    """An unmodified vision-language model, with its own way from pixels to features."""

    @property
    def model(self) -> Any:
        """The model itself."""

    @property
    def processor(self) -> Any:
        """Its processor, as it was loaded but for the cutting into tiles."""

    @property
    def frame_size_px(self) -> int:
        """Edge of the whole frames that it reads, tiles and all."""

    def encode_pixels(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """Visual features of whole frames, the uncompressed reference.

        Args:
            frames: RGB images ``[B, H, W, 3]``.

        Returns:
            Features ``[B, N, D]`` as the language model reads them.

        Raises:
            StateError: frames of another shape or type.
        """
