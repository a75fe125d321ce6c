"""How large codecs are, how they are made and how long they train."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from schemas.errors import ConfigError

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "quantiser": ("rounding", "noise"),
    "rate": ("slope", "flat"),
}


@dataclass(frozen=True, slots=True)
class CodecBudget:
    """How much of everything, and in what way.

    Attributes:
        train_frames: Frames that bases and weights are fitted to.
        table_frames: Frames that frequency tables are counted on.
        asked_frames: Training frames that questions are asked about.
        frame_scale: Edge of a frame in multiples of what the VLM usually reads. A larger frame is read whole where the
            VLM's tower can; otherwise it is cut into so many tiles along each edge, coded with a global view.
        latent_count: Latents of a frame, K.
        latent_dim: Symbols of a latent, d.
        planes: Most refinement slots of a coefficient; 0 sends every coefficient at once at its full precision.
        klt_bytes: Size of a whole latent that the step of the KLT codec is chosen for.
        target_bytes: The same for the learned codec, which is held there by its rate weight.
        encoder_width: Width of the residual encoder.
        decoder_width: Width of the decoder.
        decoder_layers: Its layers.
        full_share: Share of frames that are decoded from the whole latent besides.
        quantiser: What stands for rounding in training: rounding itself with gradients passed through, or uniform
            noise.
        view_weight: Weight of the language model's divergence, in nats a question; 0 leaves it out.
        view_scale: Divergence from which on a question counts less and less, as a logarithm. Answers that a short
            prefix cannot save would otherwise outweigh those that are nearly right. 0 counts all in proportion.
        view_from: Share of the training after which the language model looks on. Before, feature error alone leads the
            same way at a fraction of the cost.
        view_frames: How many of a batch the language model looks at.
        view_questions: Questions asked of each of those.
        answer_tokens: Tokens of an answer that are looked at.
        unseen_kinds: Kinds of questions that are never asked in training.
        rate: Price of a bit: `slope` takes at each prefix length the error that the KLT saves there with one more
            bit, `flat` one price everywhere; both times a factor that holds whole latents at `target_bytes`.
        steps: Training steps of the learned codec.
        max_seconds: Seconds of training after which it ends early, its schedule drawn in; None for no limit.
        batch: Frames a step.
        learning_rate: Peak, of the residual branches; the linear parts move at a fifth of it.
        rungs: Steps of the ladder of prefixes.
    """

    train_frames: int = 12_000
    table_frames: int = 3_000
    asked_frames: int = 4_000
    frame_scale: int = 1
    latent_count: int = 32
    latent_dim: int = 40
    planes: int = 2
    klt_bytes: float = 220.0
    target_bytes: float = 176.0
    encoder_width: int = 64
    decoder_width: int = 192
    decoder_layers: int = 3
    full_share: float = 0.2
    quantiser: str = "rounding"
    view_weight: float = 0.5
    view_scale: float = 0.2
    view_from: float = 0.5
    view_frames: int = 16
    view_questions: int = 4
    answer_tokens: int = 3
    unseen_kinds: tuple[str, ...] = ()
    rate: str = "slope"
    steps: int = 2_400
    max_seconds: float | None = None
    batch: int = 48
    learning_rate: float = 1e-3
    rungs: int = 6

    def __post_init__(self) -> None:
        """Refuse unknown choices.

        Raises:
            ConfigError: A field has a value that means nothing.
        """
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(name, f"{getattr(self, name)!r} is none of {', '.join(known)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for model cards and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CodecBudget:
        """What `as_dict` made, also after JSON.

        Raises:
            ConfigError: an unknown field or value.
        """
        if unknown := set(content) - {field.name for field in fields(cls)}:
            raise ConfigError("budget", f"unknown fields {', '.join(sorted(unknown))}: of another version; learn again")
        return cls(**{**content, "unseen_kinds": tuple(content.get("unseen_kinds", ()))})


_SMALL: Final = CodecBudget()
_DETAILED: Final = replace(
    _SMALL,
    frame_scale=2,
    latent_count=128,
    latent_dim=80,
    klt_bytes=2_600.0,
    target_bytes=2_000.0,
    decoder_width=128,
    decoder_layers=2,
    train_frames=4_000,
    table_frames=1_500,
    asked_frames=2_000,
    batch=16,
    view_frames=8,
    rungs=8,
)
_ON_GPU: Final[dict[str, Any]] = {"batch": 256, "view_frames": 96, "view_questions": 6, "view_from": 0.15}
_SMOKE: Final[dict[str, Any]] = {
    "train_frames": 96,
    "table_frames": 64,
    "asked_frames": 32,
    "latent_count": 8,
    "latent_dim": 16,
    "encoder_width": 32,
    "decoder_width": 32,
    "decoder_layers": 1,
    "klt_bytes": 30.0,
    "target_bytes": 24.0,
    "steps": 20,
    "batch": 8,
    "view_frames": 4,
    "view_questions": 2,
    "rungs": 3,
}

_POLISH: Final[dict[str, Any]] = {"steps": 600, "learning_rate": 3e-4, "view_from": 0.0}

BUDGETS: Final[dict[str, CodecBudget]] = {
    "full": _SMALL,
    "gpu": replace(_SMALL, **_ON_GPU, train_frames=60_000, asked_frames=30_000, steps=8_000),
    "polish": replace(_SMALL, **_POLISH),
    "smoke": replace(_SMALL, **_SMOKE),
}
"""Of the small operating point: one view of a frame, about 160 bytes. ``polish`` goes on from the weights of a finished
run, for a language model that has learned since or another shape of the decoder."""

DETAILED_BUDGETS: Final[dict[str, CodecBudget]] = {
    "full": _DETAILED,
    "gpu": replace(
        _DETAILED, **{**_ON_GPU, "batch": 64, "view_frames": 32}, train_frames=16_000, asked_frames=12_000, steps=5_000
    ),
    "polish": replace(_DETAILED, **_POLISH),
    "smoke": replace(_DETAILED, **_SMOKE),
}
"""Of the detailed operating point: a frame of twice the edge, 1 to 4 KB."""
