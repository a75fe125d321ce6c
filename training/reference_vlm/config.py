"""Size of the reference VLM and how long each stage of its training lasts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Architecture of the reference VLM.

    Attributes:
        image_size: Height and width of the input in pixels.
        patch_size: Edge of a patch in pixels; one visual token a patch.
        vision_width: Width of the vision tower.
        vision_heads: Its attention heads.
        vision_layers: Its layers.
        text_width: Width of the language model and so of the visual tokens.
        text_heads: Its attention heads.
        text_layers: Its layers.
    """

    image_size: int = 128
    patch_size: int = 16
    vision_width: int = 192
    vision_heads: int = 6
    vision_layers: int = 4
    text_width: int = 128
    text_heads: int = 4
    text_layers: int = 4

    @property
    def grid(self) -> int:
        """Patches along one edge."""
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one image."""
        return self.grid**2


@dataclass(frozen=True, slots=True)
class StageBudget:
    """One stage: steps, batch in images, peak learning rate."""

    steps: int
    batch: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """How much of everything.

    Attributes:
        model: Architecture.
        train_frames: Frames rendered once and reused.
        tower: Vision tower on dense labels.
        captions: Language model on captions, tower frozen.
        questions: Language model on questions and some captions, tower frozen.
        questions_per_sequence: Questions that share one image prefix in training.
    """

    model: ModelSize = field(default_factory=ModelSize)
    train_frames: int = 60_000
    tower: StageBudget = StageBudget(1500, 128, 1.5e-3)
    captions: StageBudget = StageBudget(800, 64, 1.5e-3)
    questions: StageBudget = StageBudget(1300, 64, 1.2e-3)
    questions_per_sequence: int = 8

    def as_dict(self) -> dict[str, Any]:
        """Plain data for model cards and checkpoints."""
        return asdict(self)


_SMOKE_MODEL: Final = ModelSize(
    vision_width=64, vision_heads=2, vision_layers=2, text_width=64, text_heads=2, text_layers=2
)

BUDGETS: Final[dict[str, TrainingBudget]] = {
    "full": TrainingBudget(),
    "smoke": TrainingBudget(
        model=_SMOKE_MODEL,
        train_frames=1024,
        tower=StageBudget(120, 32, 2e-3),
        captions=StageBudget(60, 16, 2e-3),
        questions=StageBudget(60, 16, 2e-3),
    ),
}
