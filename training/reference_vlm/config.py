"""Size of the reference VLM and how long each stage of its training lasts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Architecture of the reference VLM.

    Attributes:
        image_size: Height and width of one view in pixels.
        patch_size: Edge of a patch in pixels.
        scale_factor: Patches along the edge of a square that becomes one visual token (pixel shuffle of Idefics3).
        tiles_per_edge: Tiles along each edge of a frame that is shown in detail, beside the whole of it.
        vision_width: Width of the vision tower.
        vision_heads: Its attention heads.
        vision_layers: Its layers.
        text_width: Width of the language model and so of the visual tokens.
        text_heads: Its attention heads.
        text_layers: Its layers.
    """

    image_size: int = 256
    patch_size: int = 16
    scale_factor: int = 2
    tiles_per_edge: int = 2
    vision_width: int = 192
    vision_heads: int = 6
    vision_layers: int = 6
    text_width: int = 192
    text_heads: int = 6
    text_layers: int = 5

    @property
    def grid(self) -> int:
        """Visual tokens along one edge of a view."""
        return self.image_size // self.patch_size // self.scale_factor

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one view."""
        return self.grid**2


@dataclass(frozen=True, slots=True)
class StageBudget:
    """How long a stage lasts and how fast it learns.

    Attributes:
        steps: Steps; the learning rate reaches its end with the last one.
        batch: Frames a step.
        learning_rate: Peak.
        max_seconds: The schedule is run through in this time if the steps would take longer; None waits for all steps.
    """

    steps: int
    batch: int
    learning_rate: float
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """How much of everything.

    Attributes:
        model: Architecture.
        rendered: Frames of rendered scenes.
        photographs: Frames of mosaics and cut-ins; none without a library of photographs.
        detail: Frames of twice the size, shown as tiles and as a whole.
        tower: Vision tower on dense labels.
        captions: All of the model on captions.
        questions: All of the model on questions, captions and descriptions.
        first_frames: Rendered frames to wait for before the first step.
        streaming: Train on what is rendered so far instead of waiting for all of it. Saves the time of an accelerator;
            the order of frames then depends on the machine.
    """

    model: ModelSize = field(default_factory=ModelSize)
    rendered: int = 24_000
    photographs: int = 8_000
    detail: int = 2_000
    tower: StageBudget = StageBudget(1_000, 96, 1.2e-3)
    captions: StageBudget = StageBudget(500, 48, 1.0e-3)
    questions: StageBudget = StageBudget(1_500, 48, 1.0e-3)
    first_frames: int = 0
    streaming: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for model cards and checkpoints."""
        return asdict(self)


_SMOKE_MODEL: Final = ModelSize(
    vision_width=48, vision_heads=2, vision_layers=1, text_width=48, text_heads=2, text_layers=1
)

BUDGETS: Final[dict[str, TrainingBudget]] = {
    "full": TrainingBudget(),
    "gpu": TrainingBudget(
        rendered=56_000,
        photographs=24_000,
        detail=8_000,
        tower=StageBudget(2_000, 256, 1.5e-3, max_seconds=45),
        captions=StageBudget(1_500, 224, 1.2e-3, max_seconds=40),
        questions=StageBudget(8_000, 224, 1.2e-3, max_seconds=195),
        first_frames=6_000,
        streaming=True,
    ),
    "smoke": TrainingBudget(
        model=_SMOKE_MODEL,
        rendered=96,
        photographs=32,
        detail=16,
        tower=StageBudget(6, 8, 2e-3),
        captions=StageBudget(4, 6, 2e-3),
        questions=StageBudget(6, 6, 2e-3),
    ),
}
"""``full`` fits into two hours on two cores, ``gpu`` into six minutes on an H200 with 16 cores that render for it."""
