"""How large codecs are and how long they train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class CodecBudget:
    """How much of everything.

    Attributes:
        train_frames: Frames that bases and weights are fitted to.
        table_frames: Frames that frequency tables are counted on.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        klt_step: Quantiser step of the KLT codec, in standard deviations of a token value.
        meta_step: Step at which the learned codec starts, in the same unit.
        encoder_width: Width of the residual encoder; 0 leaves it out.
        decoder_width: Width of the decoder.
        decoder_layers: Its layers.
        steps: Training steps of the learned codec.
        batch: Frames a step.
        view_from: Share of the steps after which the language model looks on. Before, feature error alone leads the
            same way at a third of the cost.
        asked_frames: Training frames that questions are asked about.
        view_frames: How many of a batch the language model looks at.
        view_questions: Questions asked of each of those.
        learning_rate: Peak, of the residual branches; the linear parts move at a fifth of it.
        view_weight: Weight of the language model's divergence, against the normalised feature error.
        rate_weight: Weight of one bit of code length, in 1e-4.
        full_share: Share of frames that are decoded from the whole latent.
        rungs: Steps of the ladder of prefixes.
    """

    train_frames: int = 12_000
    table_frames: int = 3_000
    latent_count: int = 32
    latent_dim: int = 32
    klt_step: float = 3.0
    meta_step: float = 2.0
    encoder_width: int = 64
    decoder_width: int = 128
    decoder_layers: int = 3
    steps: int = 2_400
    batch: int = 48
    view_from: float = 0.6
    asked_frames: int = 4_000
    view_frames: int = 16
    view_questions: int = 4
    learning_rate: float = 1e-3
    view_weight: float = 0.3
    rate_weight: float = 1.0
    full_share: float = 0.2
    rungs: int = 6

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for model cards and checkpoints."""
        return asdict(self)


BUDGETS: Final[dict[str, CodecBudget]] = {
    "full": CodecBudget(),
    "smoke": CodecBudget(
        train_frames=96,
        table_frames=64,
        latent_count=8,
        latent_dim=16,
        encoder_width=32,
        decoder_width=32,
        decoder_layers=1,
        steps=20,
        batch=8,
        asked_frames=32,
        view_frames=4,
        view_questions=2,
        rungs=3,
    ),
}
