"""How large a codec for one's own pictures is, and how long it learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from schemas.errors import ConfigError
from training.codec.calibrate.make import PLANES, LatentSize
from training.codec.calibrate.picture_work import CodecCalibration
from training.codec.calibrate.sets import SetPlan
from training.codec.config import CodecBudget

Precision = Literal["auto", "bf16", "fp32"]

LEARNED: Final = SetPlan(
    {
        "train": 0.45,
        "tables": 0.1,
        "selection": 0.1,
        "score": 0.05,
        "policy": 0.05,
        "calibration": 0.15,
        "report": 0.1,
    },
    {"train": 16, "tables": 8, "selection": 8, "score": 6, "policy": 6, "report": 8},
    {"tables": 2_000, "selection": 300, "score": 400, "policy": 400, "calibration": 1_000, "report": 600},
)
"""What learns gets everything beyond what the other sets need."""

ASKED_FRAMES: Final = 20_000
"""Training pictures that the language model is asked about, at most."""
VIEW_QUESTIONS: Final = 4
ANSWER_TOKENS: Final = 3


@dataclass(frozen=True, slots=True)
class Learning:
    """How a codec learns.

    Attributes:
        steps: Steps of the optimiser, if it does not end early.
        batch: Frames of a step, over all processes.
        accumulate: Parts that each process computes one after the other.
        processes: One for each device.
        precision: Of the residual branches and the language model; ``auto`` is bfloat16 on accelerators.
        learning_rate: Its peak.
        view_weight: Weight of the language model's divergence; 0 leaves it out.
        view_share: Share of a batch that the language model looks at.
        view_from: Share of the training after which it looks on.
        decoder_width: Width of the decoder.
        decoder_layers: Its layers.
        evaluate_every: Steps between two looks at held-out pictures.
        patience: Looks without a better one after which it ends.
        max_seconds: Ends the training after so long, its schedule drawn in.
    """

    steps: int = 4_000
    batch: int = 64
    accumulate: int = 1
    processes: int = 1
    precision: Precision = "auto"
    learning_rate: float = 1e-3
    view_weight: float = 0.5
    view_share: float = 0.375
    view_from: float = 0.15
    decoder_width: int = 192
    decoder_layers: int = 3
    evaluate_every: int = 200
    patience: int = 6
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a value that means nothing.
        """
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ConfigError("--precision", f"{self.precision!r} is none of auto, bf16, fp32")
        if self.batch < self.accumulate * self.processes:
            parts = f"{self.processes} processes x {self.accumulate} parts"
            raise ConfigError("--batch", f"{self.batch} frames are fewer than {parts}: give more, or fewer parts")

    @property
    def half(self) -> bool | None:
        """Whether bfloat16 is used; None leaves it to the device."""
        return {"auto": None, "bf16": True, "fp32": False}[self.precision]

    def budget(self, size: LatentSize, train_frames: int, frame_scale: int) -> CodecBudget:
        """What the training of a codec of this size takes.

        Args:
            size: Of its latents.
            train_frames: Pictures to learn from.
            frame_scale: As in `CodecBudget`.
        """
        return CodecBudget(
            train_frames=train_frames,
            asked_frames=min(train_frames, ASKED_FRAMES),
            frame_scale=frame_scale,
            latent_count=size.count,
            latent_dim=size.dim,
            planes=PLANES,
            klt_bytes=float(size.target_bytes),
            target_bytes=float(size.target_bytes),
            decoder_width=self.decoder_width,
            decoder_layers=self.decoder_layers,
            view_weight=self.view_weight,
            view_from=self.view_from,
            view_frames=max(1, round(self.view_share * self.batch)),
            view_questions=VIEW_QUESTIONS,
            answer_tokens=ANSWER_TOKENS,
            steps=self.steps,
            max_seconds=self.max_seconds,
            batch=self.batch,
            learning_rate=self.learning_rate,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the weights; how many processes compute them does not."""
        return {
            "half": self.half,
            "view_share": self.view_share,
            "evaluate_every": self.evaluate_every,
            "patience": self.patience,
        }


@dataclass(frozen=True, slots=True)
class CodecTraining:
    """What `train_codec` makes.

    Attributes:
        calibration: Pictures, questions, promise and sizes.
        learning: How it learns.
        cache_gb: Most space of visual tokens on disk. Of more pictures only so many are taken, and tokens of other runs
            in the same cache are deleted, those that were used longest ago first.
    """

    calibration: CodecCalibration = field(default_factory=lambda: CodecCalibration(max_pictures=50_000))
    learning: Learning = field(default_factory=Learning)
    cache_gb: float = 50.0
